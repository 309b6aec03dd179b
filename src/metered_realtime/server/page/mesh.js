// The room: the members of a channel, the media and data sent to them, and what they send.
//
// A live connection counts more than presence: a member that leaves the channel while its connection works is kept until
// that ends too, since the server may just have restarted. No member is removed while this end has lost the server. A
// publishable key gets a new peer id with every connection to the server. A peer that returns under a new id announces it
// over its WebRTC connection, and offers again on it under the new id: an offer with the credentials of a kept connection
// proves that both are the same peer, which then gets the new id. Newcomers that might be such a peer are held for a
// moment, to wait for that proof.

import { Emitter } from "./events.js";
import { Peer } from "./peer.js";
import { isFinal, Signalling, SignallingError, wireSize } from "./signalling.js";

const MAX_PEERS = 256;
const HOLD_MS = 5_000; // signals from peers that presence has not announced yet
const MAX_HELD = 256;
const LINGER_MS = 12_000; // for a member that left and whose connection is lost too, before it is checked again
const LIMBO_MS = 1_500; // for a newcomer that may be a lingering member
const SNAPSHOT_MS = 10_000;
const SNAPSHOT_RETRIES = 2;
const MAX_ICE_SERVERS = 16;
const MAX_OLD_IDS = 256;

const TOO_LARGE = new SignallingError("too_large", "A signal is too large for this server.");

/**
 * A channel and its members. Every event is a CustomEvent; `room.on<name> = handler` works too.
 *
 * | event | detail |
 * |---|---|
 * | `state` | `{state, reason?, code?}` of the room; `{peerId, state}` of one peer |
 * | `peerjoined`, `peerleft` | `{peerId}` |
 * | `peerrenamed` | `{peerId, previous}`: the same peer under a new id |
 * | `track` | `{peerId, track, stream, streamId, metadata}` |
 * | `streamremoved` | `{peerId, streamId}` |
 * | `metadata` | `{peerId}`: a name or the metadata of a stream changed |
 * | `channel` | `{peerId, channel}`: the remote opened a data channel |
 * | `channelmessage` | `{peerId, channel, label, data}` |
 * | `data` | `{from, data, kind}`, kind `broadcast` or `direct` |
 * | `notice` | `{text, lasting?}`: a message for the user, shown until they leave if it is lasting |
 */
export class Room extends Emitter {
  #config;
  #openMedia;
  #signalling = null;
  #state = "idle";
  #peers = new Map();
  #held = []; // {from, data, at}
  #limbo = new Map(); // id -> {presence, timer}
  #lingering = new Map(); // Peer -> timer
  #ownIds = new Set();
  #retired = new Set(); // former ids of peers, which presence may still list
  #renamed = false; // whether the latest welcome had a new peer id
  #awaitingSnapshot = false;
  #snapshotTimer = 0;
  #warned = new Set();
  #mayCall = true;

  /**
   * @param {{key: string|null, url: string}} config the URL of the server, and the key to use if join() gets none
   * @param {(wish: {media: string, name: string}) => Promise<{stream: MediaStream, source: string, stop(): void}>} openMedia
   */
  constructor(config, openMedia) {
    super();
    this.#config = config;
    this.#openMedia = openMedia;
    this.peerId = null;
    this.channel = null;
    this.profile = {};
    this.iceServers = [];
    /** Local tracks: track -> {stream, metadata}. */
    this.local = new Map();
    /** What join() opened: {stream, source, stop()}, or null. */
    this.media = null;
  }

  /** idle, joining, joined, reconnecting */
  get state() {
    return this.#state;
  }

  get connected() {
    return this.#signalling?.connected ?? false;
  }

  /** Whether calls can be set up: false once the server has refused a signal because the key lacks the permission. */
  get mayCall() {
    return this.#mayCall;
  }

  /** A snapshot: id -> {id, name, state, away, metadata, tracks, streams, channels}. @returns {Map<string, object>} */
  get peers() {
    return new Map([...this.#peers.values()].map((peer) => [peer.id, this.#describe(peer)]));
  }

  #describe(peer) {
    const { id, name, state, away, presence, tracks, polite } = peer;
    const channels = peer.channels.map(({ label, state: s, ours }) => ({ label, state: s, ours }));
    return { id, name, state, away, polite, metadata: presence, tracks, streams: [...peer.streams.keys()], channels };
  }

  /**
   * Join a channel. Resolves when the server has confirmed it. Rejects with a SignallingError, and may be called again.
   * @param {{channel: string, name?: string, media?: "camera"|"canvas"|"none", key?: string}} options
   */
  async join({ channel, name = "", media = "camera", key = this.#config.key }) {
    if (this.#state !== "idle") throw new SignallingError("invalid_state", "Already in a channel.");
    if (!key) throw new SignallingError("invalid_token", "A key is needed.");
    this.#setState("joining");
    try {
      this.profile = { name };
      if (media !== "none") await this.#openLocal(media, name);
      await this.#enter(channel, key);
    } catch (error) {
      this.#reset();
      this.#setState("idle");
      throw error;
    }
    this.#setState("joined");
  }

  async #openLocal(media, name) {
    const opened = await this.#openMedia({ media, name });
    this.media = opened;
    const has = (kind) => opened.stream.getTracks().some((track) => track.kind === kind);
    this.addStream(opened.stream, { name, source: opened.source, audio: has("audio"), video: has("video") });
  }

  async #enter(channel, key) {
    const url = new URL(this.#config.url, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("key", key);
    const signalling = new Signalling(url);
    this.#signalling = signalling;
    signalling.addEventListener("welcome", ({ detail }) => this.#welcomed(detail));
    signalling.addEventListener("frame", ({ detail }) => this.#frame(detail));
    signalling.addEventListener("missed", ({ detail }) => this.#missed(detail));
    signalling.addEventListener("lost", ({ detail }) => this.#lost(detail));
    signalling.addEventListener("resubscribefailed", ({ detail }) => this.#ended(detail.error.code, detail.error.message));
    await signalling.connect();
    this.channel = channel;
    this.#expectSnapshot(SNAPSHOT_RETRIES);
    await signalling.subscribe(channel);
  }

  /** Leave the channel, close every connection, stop what join() opened. */
  async leave() {
    if (this.#state === "idle") return;
    this.#reset();
    this.#setState("idle");
  }

  /** Close the connections at once, when the page is unloaded. */
  abandon() {
    if (this.#state !== "idle") this.#reset();
  }

  #reset() {
    clearTimeout(this.#snapshotTimer);
    for (const peer of [...this.#peers.values()]) this.#remove(peer);
    for (const { timer } of this.#limbo.values()) clearTimeout(timer);
    this.#signalling?.close();
    this.#signalling = null;
    this.media?.stop();
    this.media = null;
    for (const collection of [this.local, this.#limbo, this.#ownIds, this.#retired, this.#warned]) collection.clear();
    this.#held.length = 0;
    this.#mayCall = true;
    this.peerId = this.channel = null;
  }

  #ended(code, reason) {
    if (this.#state === "idle") return;
    this.#reset();
    this.#setState("idle", { code, reason });
  }

  #setState(state, more = {}) {
    if (state === this.#state) return;
    this.#state = state;
    this.emit("state", { state, ...more });
  }

  // --- sending ------------------------------------------------------------------------------------------------------

  /** Send a stream's tracks to all present and future members. @param {MediaStream} stream @param {object} [metadata] */
  addStream(stream, metadata) {
    const message = { trackId: stream.id, metadata, kind: "video", streamId: stream.id };
    if (metadata && wireSize({ __meteredTrackMeta: message }) > this.#cap) throw new SignallingError("too_large", "The metadata is too large.");
    for (const track of stream.getTracks()) {
      if (!this.local.has(track)) this.local.set(track, { stream, metadata: metadata && { ...metadata } });
    }
    for (const peer of this.#peers.values()) peer.start();
  }

  /** Stop sending a stream; its tracks keep running. */
  removeStream(stream) {
    for (const [track, entry] of [...this.local]) if (entry.stream === stream) this.local.delete(track);
    for (const peer of this.#peers.values()) peer.start();
  }

  /** Replace the metadata of a stream that is being sent. */
  setMetadata(stream, metadata) {
    for (const entry of this.local.values()) if (entry.stream === stream) entry.metadata = { ...metadata };
    for (const peer of this.#peers.values()) peer.announce();
  }

  get #cap() {
    return this.#signalling?.maxMessageSize ?? 65_536;
  }

  /** Send JSON data to all members of the channel. */
  send(data) {
    return this.#out((signalling) => signalling.publish(this.channel, data), data);
  }

  /** Send JSON data to one peer over the server. */
  sendTo(peerId, data) {
    return this.#out((signalling) => signalling.send(peerId, data), data);
  }

  async #out(write, data) {
    if (this.#state !== "joined") throw new SignallingError("not_joined", "Not connected at the moment.");
    if (wireSize(data) > this.#cap) throw new SignallingError("too_large", "That message is too large.");
    await write(this.#signalling);
  }

  /**
   * For peers: send a signal. Resolves to whether the server accepted it, or to the error if it never will: a lost offer is
   * repeated by its link, one that cannot be delivered is dropped.
   */
  async sendSignal(to, payload) {
    if (!this.fits(to, payload)) return TOO_LARGE;
    try {
      await this.#signalling?.send(to, { ...payload, channel: this.channel });
      return true;
    } catch (error) {
      this.#undelivered(error);
      return isFinal(error) && error;
    }
  }

  /** Whether a signal fits the limit of the server: that of the hosted service is for the whole frame. */
  fits(to, payload) {
    const frame = { type: "send", to, data: { ...payload, channel: this.channel }, requestId: "q0000000000" };
    const is = wireSize(frame) <= this.#cap;
    if (!is) this.#undelivered(TOO_LARGE);
    return is;
  }

  #undelivered(error) {
    if (["peer_not_found", "disconnected", "not_connected"].includes(error.code) || this.#warned.has(error.code)) return;
    this.#warned.add(error.code);
    if (error.code === "action_not_permitted") return this.#cannotCall();
    this.emit("notice", { text: `The server refused a message: ${error.message}` });
  }

  /** Show one message, not one for each peer, and make no further attempts, since all would fail. */
  #cannotCall() {
    this.#mayCall = false;
    const text = "This key cannot call: it lacks the permission to send direct messages (action_not_permitted). You can see who is here.";
    this.emit("notice", { text, lasting: true });
    for (const peer of this.#peers.values()) this.emit("metadata", { peerId: peer.id });
  }

  /** Open a data channel to a peer. Returns it at once; wait for `opened()`. */
  openChannel(peerId, label, options) {
    return this.#peer(peerId).openChannel(label, options);
  }

  /** The data channels to a peer, opened by either end. */
  channels(peerId) {
    return [...this.#peer(peerId).channels];
  }

  /** Stream id -> MediaStream of a peer. */
  streams(peerId) {
    return this.#peer(peerId).streams;
  }

  /** Inbound statistics of a peer: framesDecoded, framesPerSecond, kbps, rttMs, audioSamples, streams, … */
  async stats(peerId) {
    return this.#peer(peerId).stats();
  }

  #peer(id) {
    const peer = this.#peers.get(id);
    if (!peer) throw new Error(`Nobody here has the id ${id}.`);
    return peer;
  }

  // --- signalling ---------------------------------------------------------------------------------------------------

  #welcomed({ peerId, metadata, reconnected }) {
    const renamed = this.peerId !== null && this.peerId !== peerId;
    if (renamed) remember(this.#ownIds, this.peerId);
    this.peerId = peerId;
    this.#renamed = renamed;
    const servers = iceServers(metadata.iceServers);
    if (servers) this.iceServers = servers;
    if (renamed) for (const peer of this.#peers.values()) peer.tell({ type: "rename", id: peerId });
    if (reconnected) this.#expectSnapshot(SNAPSHOT_RETRIES);
  }

  /** Directs are signals, which are repeated. */
  #missed({ channel, count }) {
    if (channel === this.channel) this.emit("missed", { count });
  }

  #lost({ code, reason, retrying }) {
    if (!retrying) this.#ended(code, reason || "The connection to the server ended.");
    else if (this.#state === "joined") this.#setState("reconnecting", { reason });
  }

  #expectSnapshot(retries) {
    this.#awaitingSnapshot = true;
    clearTimeout(this.#snapshotTimer);
    this.#snapshotTimer = setTimeout(() => {
      if (!this.connected) return;
      if (retries === 0) return this.emit("notice", { text: "The server does not say who is here." });
      this.#signalling.subscribe(this.channel).catch(() => {});
      this.#expectSnapshot(retries - 1);
    }, SNAPSHOT_MS);
  }

  #frame(frame) {
    if (frame.type === "presence") this.#presence(frame);
    else if (frame.type === "direct") this.#direct(frame.from, frame.data);
    else if (frame.type === "message") this.#message(frame);
    else if (frame.type === "error") this.#undelivered(new SignallingError(String(frame.code), frame.message));
  }

  #message({ channel, from, data }) {
    if (channel === this.channel && !this.#mine(from)) this.emit("data", { from, data, kind: "broadcast" });
  }

  // --- the roster ---------------------------------------------------------------------------------------------------

  #presence({ channel, joined, left }) {
    if (channel !== this.channel || !Array.isArray(joined) || !Array.isArray(left)) return;
    const entries = joined.filter((entry) => typeof entry?.peerId === "string");
    if (this.#awaitingSnapshot) return this.#snapshot(entries);
    for (const entry of left) this.#left(entry?.peerId);
    for (const entry of entries) this.#joined(entry.peerId, plain(entry.metadata));
  }

  #snapshot(entries) {
    this.#awaitingSnapshot = false;
    clearTimeout(this.#snapshotTimer);
    const listed = new Set(entries.map((entry) => entry.peerId));
    for (const id of [...this.#limbo.keys()]) if (!listed.has(id)) this.#leaveLimbo(id);
    for (const peer of [...this.#peers.values()]) {
      if (!listed.has(peer.id)) this.#left(peer.id);
      else this.#returned(peer);
    }
    for (const entry of entries) this.#joined(entry.peerId, plain(entry.metadata));
    if (this.#state === "reconnecting") this.#setState("joined");
  }

  /** Continue after this end or the peer had lost the server. */
  #returned(peer) {
    this.#stopLingering(peer);
    peer.introduce();
    peer.resume();
    if (this.#renamed && peer.alive) peer.reintroduce();
  }

  #joined(id, presence) {
    const peer = this.#peers.get(id);
    if (peer) {
      peer.presence = presence;
      if (peer.away) this.#returned(peer);
      this.emit("metadata", { peerId: id });
    } else if (!this.#mine(id) && !this.#retired.has(id)) {
      this.#arrived(id, presence);
    }
  }

  #arrived(id, presence) {
    const hinted = [...this.#peers.values()].find((p) => p.alias === id);
    if (!hinted && !this.#lingering.size) return this.#add(id, presence);
    if (this.#limbo.has(id)) return;
    this.#limbo.set(id, { presence, timer: setTimeout(() => this.#endLimbo(id), LIMBO_MS) });
    if (hinted && this.#renamed) hinted.reintroduce(); // it waits for this end too
    this.#replay(id);
  }

  #endLimbo(id) {
    const { presence } = this.#leaveLimbo(id);
    for (const peer of this.#peers.values()) if (peer.alias === id) peer.alias = null;
    this.#add(id, presence);
  }

  #leaveLimbo(id) {
    const entry = this.#limbo.get(id);
    clearTimeout(entry?.timer);
    this.#limbo.delete(id);
    return entry ?? { presence: null };
  }

  #add(id, presence) {
    if (this.#peers.has(id) || this.#peers.size >= MAX_PEERS) return;
    const peer = new Peer(id, presence, this);
    this.#peers.set(id, peer);
    this.#listen(peer);
    // An impolite end delays its first offer to other implementations, which ignore this as metadata of no track.
    if (peer.polite) peer.signal({ __meteredTrackMeta: { trackId: "x-metered-mesh" } });
    peer.introduce();
    this.emit("peerjoined", { peerId: id });
    peer.start();
    this.#replay(id);
  }

  #left(id) {
    this.#retired.delete(id);
    this.#leaveLimbo(id);
    const peer = this.#peers.get(id);
    if (!peer || peer.away) return;
    if (!peer.alive && !peer.mayReturn) return this.#remove(peer);
    peer.away = true;
    this.#linger(peer);
    this.emit("metadata", { peerId: id });
  }

  #linger(peer) {
    this.#lingering.set(peer, setTimeout(() => this.#gone(peer) || this.#linger(peer), LINGER_MS));
  }

  /** Remove a peer that left, if that is certain: its connection has ended, and presence is up to date. */
  #gone(peer) {
    const sure = peer.away && !peer.alive && this.connected && !this.#awaitingSnapshot;
    if (sure) this.#remove(peer);
    return sure;
  }

  #stopLingering(peer) {
    clearTimeout(this.#lingering.get(peer));
    this.#lingering.delete(peer);
    peer.away = false;
  }

  #remove(peer) {
    this.#stopLingering(peer);
    this.#peers.delete(peer.id);
    peer.close();
    this.emit("peerleft", { peerId: peer.id });
  }

  /** The peer has proved that its id is now `id`. */
  #rename(peer, id) {
    const previous = peer.id;
    if (!peer.away) remember(this.#retired, previous);
    this.#peers.delete(previous);
    peer.presence = this.#leaveLimbo(id).presence;
    peer.id = id;
    peer.alias = null;
    this.#peers.set(id, peer);
    this.#stopLingering(peer);
    this.emit("peerrenamed", { peerId: id, previous });
    peer.resume();
  }

  #mine(id) {
    return id === this.peerId || this.#ownIds.has(id);
  }

  #listen(peer) {
    const pass = (name) => peer.addEventListener(name, ({ detail }) => this.emit(name, { peerId: peer.id, ...detail }));
    for (const name of ["state", "track", "streamremoved", "metadata", "channel", "notice"]) pass(name);
    peer.addEventListener("profile", () => this.emit("metadata", { peerId: peer.id }));
    peer.addEventListener("channelmessage", ({ detail: { channel, data } }) =>
      this.emit("channelmessage", { peerId: peer.id, channel, label: channel.label, data }));
    peer.addEventListener("hungup", () => this.#gone(peer));
    peer.addEventListener("rename", ({ detail }) => this.#hinted(peer, detail.id));
  }

  #hinted(peer, id) {
    if (this.#peers.has(id) || this.#mine(id) || id === peer.id) return;
    peer.alias = id;
    if (this.#limbo.has(id) && this.#renamed) peer.reintroduce();
  }

  // --- direct messages ----------------------------------------------------------------------------------------------

  #direct(from, data) {
    if (typeof from !== "string" || this.#mine(from)) return;
    const kind = classify(data);
    if (kind === "data") return this.emit("data", { from, data, kind: "direct" });
    // Direct messages reach every connection of an id, and the same two peers may share another channel as well.
    if (typeof data.channel === "string" && data.channel !== this.channel) return;
    const peer = this.#peers.get(from) ?? this.#recognise(from, kind, data);
    if (!peer) this.#hold(from, data);
    else if (kind === "description") peer.receiveDescription(data.description);
    else if (kind === "candidate") peer.receiveCandidate(data.candidate);
    else peer.receiveMetadata(data.__meteredTrackMeta);
  }

  /** Handle an offer from an unknown id: a member with a new id, or a newcomer, which need not be held any longer. */
  #recognise(from, kind, data) {
    if (kind !== "description") return null;
    const known = [...this.#peers.values()].find((peer) => peer.owns(data.description));
    if (known) {
      this.#rename(known, from);
      this.#replay(from);
      return known;
    }
    if (this.#limbo.has(from)) this.#endLimbo(from);
    return this.#peers.get(from) ?? null;
  }

  #hold(from, data) {
    this.#expireHeld();
    this.#held.push({ from, data, at: performance.now() });
    if (this.#held.length > MAX_HELD) this.#held.shift();
  }

  #expireHeld() {
    const now = performance.now();
    this.#held = this.#held.filter(({ at }) => now - at < HOLD_MS);
  }

  #replay(id) {
    this.#expireHeld();
    const mine = this.#held.filter(({ from }) => from === id);
    this.#held = this.#held.filter(({ from }) => from !== id);
    for (const { from, data } of mine) this.#direct(from, data);
  }
}

/** Classify a direct message: it is a WebRTC signal or track metadata only if it has exactly that shape. */
function classify(data) {
  if (data === null || typeof data !== "object" || Array.isArray(data)) return "data";
  const { type, description, candidate } = data;
  if (type === "rtc-description" && typeof description?.sdp === "string" && ["offer", "answer"].includes(description.type)) return "description";
  if (type === "rtc-ice" && (candidate === null || (typeof candidate === "object" && !Array.isArray(candidate)))) return "candidate";
  return isTrackMetadata(data.__meteredTrackMeta) ? "metadata" : "data";
}

function isTrackMetadata(meta) {
  if (plain(meta) === null || typeof meta.trackId !== "string" || !meta.trackId) return false;
  const short = (value) => value === undefined || value === null || (typeof value === "string" && value.length >= 1 && value.length <= 256);
  return short(meta.kind) && short(meta.streamId) && (meta.metadata === undefined || meta.metadata === null || plain(meta.metadata) !== null);
}

/** The value if it is a plain JSON object, else null. */
function plain(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
}

/** The ICE servers of a welcome, all or none; null if there are none. */
function iceServers(list) {
  if (!Array.isArray(list) || list.length > MAX_ICE_SERVERS) return null;
  const url = (value) => typeof value === "string" && value.length <= 512 && /^(stun|turn)s?:/i.test(value);
  const result = [];
  for (const server of list) {
    const urls = [server?.urls].flat();
    if (!urls.length || !urls.every(url)) return null;
    const { username, credential } = server;
    result.push({ urls, ...(typeof username === "string" && { username }), ...(typeof credential === "string" && { credential }) });
  }
  return result;
}

/** Add to a set with a limited size, removing the oldest. */
function remember(set, id) {
  set.add(id);
  if (set.size > MAX_OLD_IDS) set.delete(set.values().next().value);
}
