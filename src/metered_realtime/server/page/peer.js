// One remote member of the channel: its identity, its media, and the link to it, which may be replaced.

import { Channel } from "./channel.js";
import { PROTOCOL } from "./channel_frames.js";
import { Emitter } from "./events.js";
import { Link } from "./link.js";
import { NAME_ID, nameSignal, shown } from "./names.js";

/** Delays before the attempts to restore a failed link. The first ones restart ICE, the others replace the link. */
const LADDER_MS = [0, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000];
const ICE_RESTARTS = 2;
const CONNECT_MS = 30_000; // for a link that does not report its failure
const ATTEMPT_MS = 8_000; // for an attempt to succeed
const DISCONNECTED_MS = 4_000; // a disconnected link may recover by itself
const HANDSHAKE_MS = 4_000; // for DTLS once ICE is connected; the polite end waits longer, so that only one end acts
const HUNG_UP_MS = 1_000; // for the new offer of a remote that closed its connection
const STALE_STREAM_MS = 5_000; // how long a stream may be missing after its link was replaced
const REPLACE_LIMIT = { count: 8, withinMs: 10_000 };
const MAX_METADATA = 512; // entries per peer; the oldest is dropped first
const MAX_STALE = 64;
const MAX_CHANNELS = 64;
const MAX_ID_LENGTH = 256;

/**
 * Events: `state` {state}, `track` {track, stream, metadata}, `metadata` {streamId}, `streamremoved` {streamId},
 * `channel` {channel}, `channelmessage` {channel, data}, `profile` {}, `notice` {text}, `hungup` {}, `rename` {id}.
 */
export class Peer extends Emitter {
  #room;
  #link = null;
  #inbox = Promise.resolve();
  #state = "idle";
  #metadata = new Map(); // sender's track id -> {trackId, metadata, kind, streamId}
  #waiting = new Set(); // track ids of entries without stream and kind, until a description has tracks for them
  #describedAs = new Map(); // track id in a description -> the one in its entry, if the sender's browser changed it
  #streams = new Map(); // stream id -> {stream, tracks: Map(track -> {kind, trackId})}
  #attempt = 0;
  #timer = 0;
  #staleTimer = 0;
  #replaced = [];
  #stale = new Set(); // remote ufrags of earlier links
  #sample = null;
  #ended = false;

  /**
   * @param {string} id
   * @param {object|null} presence its presence metadata
   * @param {{peerId: string, local: Map, iceServers: RTCIceServer[], connected: boolean, mayCall: boolean, profile: object,
   *   sendSignal(to: string, payload: object): void}} room
   */
  constructor(id, presence, room) {
    super();
    this.id = id;
    this.presence = presence;
    this.profile = {};
    /** The id for signals while the peer has announced a new id but not proved it. */
    this.alias = null;
    /** It left the channel, but its connection works: it may come back. */
    this.away = false;
    this.channels = [];
    this.#room = room;
  }

  // --- owner of the link --------------------------------------------------------------------------------------------

  get polite() {
    return this.#room.peerId < (this.alias ?? this.id);
  }

  get local() {
    return this.#room.local;
  }

  get reachable() {
    return this.#room.connected && this.#room.mayCall && (!this.away || this.alias !== null);
  }

  /** Resolves to whether it was delivered, or to the error if it cannot be. */
  async signal(payload) {
    return this.reachable && this.#room.sendSignal(this.alias ?? this.id, payload);
  }

  /** Whether a signal fits the limit of the server. The user is told once if not. */
  fits(payload) {
    return this.#room.fits(this.alias ?? this.id, payload);
  }

  // --- state --------------------------------------------------------------------------------------------------------

  get state() {
    return this.#state;
  }

  /** Whether media and data can flow now. */
  get alive() {
    return this.#link?.usable ?? false;
  }

  /** Whether its connection may recover, and was not closed by the remote. */
  get mayReturn() {
    return this.#state === "reconnecting" && !this.#link?.hungUp;
  }

  get streams() {
    return new Map([...this.#streams].map(([id, { stream }]) => [id, stream]));
  }

  get tracks() {
    const list = [];
    for (const [streamId, { tracks }] of this.#streams) {
      for (const [track, { kind, trackId }] of tracks) {
        list.push({ kind, streamId, trackId, muted: track.muted, metadata: this.#find(trackId, streamId, kind) });
      }
    }
    return list;
  }

  streamMetadata(streamId) {
    return this.tracks.find((t) => t.streamId === streamId && t.metadata)?.metadata ?? null;
  }

  get name() {
    const told = this.tracks.map((t) => t.metadata).filter(Boolean);
    for (const source of [this.presence, this.profile, ...told]) {
      const name = shown(source?.name ?? source?.displayName);
      if (name) return name;
    }
    return null;
  }

  // --- lifecycle ----------------------------------------------------------------------------------------------------

  /** Connect if there is something to send. */
  start() {
    if (this.#ended || this.away) return;
    if (this.#link) this.#link.refresh();
    else if (this.#room.local.size || this.channels.some((c) => c.ours)) this.#connect("start");
  }

  /** Signalling is restored, or the peer is back, perhaps under another id. */
  resume() {
    this.away = false;
    const link = this.#link;
    this.start();
    if (!link) return;
    const state = link.pc.connectionState;
    if (!link.pc.remoteDescription) this.#connect("nothing was agreed yet");
    else if (link.usable || state === "connecting" || state === "new") link.resume();
    else this.#repair("signalling is back", true);
  }

  /** Offer again under a new id, which proves to the remote that the id and the connection belong together. */
  reintroduce() {
    this.#link?.resume(true);
    this.#link?.tell({ type: "rename", id: this.#room.peerId });
  }

  tell(message) {
    return this.#link?.tell(message) ?? false;
  }

  announce() {
    this.#link?.announce();
  }

  /** Tell the peer the own name, whether or not there is a connection to it. */
  introduce() {
    if (this.#room.profile.name) this.signal(nameSignal(this.#room.profile.name));
  }

  close() {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.#timer);
    clearTimeout(this.#staleTimer);
    this.#link?.close();
    for (const channel of this.channels.splice(0)) channel.close();
    this.#streams.clear();
    this.#setState("closed");
  }

  // --- signals ------------------------------------------------------------------------------------------------------

  /** Handle signals one at a time: those after an offer belong to the link that the offer leads to. */
  receiveDescription(description) {
    this.#inbox = this.#inbox.then(() => this.#takeDescription(description));
  }

  receiveCandidate(candidate) {
    this.#inbox = this.#inbox.then(() => this.#link?.receiveCandidate(candidate));
  }

  async #takeDescription(description) {
    const link = this.#link;
    if (!link) {
      if (description.type === "offer") this.#connect("offer", description);
      return;
    }
    const done = await link.receive(description);
    // The link was replaced for another reason while the offer waited: the next link can answer it.
    const lost = !done && link !== this.#link && link.passedOn !== description && description.type === "offer";
    if (lost) await this.#link?.receive(description);
  }

  /** Whether an offer comes from the connection that this peer's link is connected to. */
  owns(description) {
    return this.#link?.matches(description.sdp) ?? false;
  }

  receiveMetadata({ trackId, metadata, kind, streamId }) {
    if (trackId === NAME_ID) return this.#named(metadata?.name);
    const known = this.#metadata.get(trackId);
    const placed = [...this.#describedAs.values()].includes(trackId);
    this.#metadata.delete(trackId);
    this.#waiting.delete(trackId);
    if (!metadata) this.#forget(trackId);
    else this.#metadata.set(trackId, { trackId, metadata, kind, streamId });
    if (metadata && !placed && !kind && !streamId) this.#waiting.add(trackId);
    if (this.#metadata.size > MAX_METADATA) this.#forget(this.#metadata.keys().next().value);
    this.emit("metadata", { streamId: streamId ?? known?.streamId ?? null });
  }

  #forget(trackId) {
    this.#metadata.delete(trackId);
    this.#waiting.delete(trackId);
    for (const [described, id] of [...this.#describedAs]) if (id === trackId) this.#describedAs.delete(described);
  }

  /**
   * Find an entry by the signalled track id, or by stream and kind if exactly one unmatched entry fits, or by `#place`.
   */
  #find(trackId, streamId, kind, sections = this.#link?.remote?.sections ?? []) {
    const exact = trackId && this.#metadata.get(trackId);
    if (exact) return exact.metadata;
    const signalled = trackIds(sections);
    const fitting = [...this.#metadata.values()].filter(
      (m) => m.streamId && m.streamId === streamId && m.kind === kind && !signalled.has(m.trackId),
    );
    if (fitting.length === 1) return fitting[0].metadata;
    return this.#metadata.get(this.#describedAs.get(trackId))?.metadata ?? null;
  }

  /**
   * Match metadata of tracks that the remote sends in sections offered by this end: their description has other track ids.
   * The latest waiting entries belong to the unmatched new tracks, in order, unless there are fewer entries than tracks.
   */
  #place({ sections }) {
    const known = trackIds(this.#link.remote?.sections ?? []);
    const unmatched = sections.filter(({ kind, sending, streams: [track] }) =>
      sending && track && !known.has(track.trackId) && !this.#find(track.trackId, track.streamId, kind, sections));
    if (!unmatched.length) return;
    const signalled = trackIds(sections);
    const waiting = [...this.#waiting].filter((id) => !signalled.has(id)).slice(-unmatched.length);
    this.#waiting.clear();
    if (waiting.length < unmatched.length) return;
    unmatched.forEach(({ streams: [track] }, index) => this.#describedAs.set(track.trackId, waiting[index]));
  }

  // --- the link -----------------------------------------------------------------------------------------------------

  #connect(reason, offer = null) {
    if (this.#ended) return;
    const previous = this.#link;
    if (previous && !this.#mayReplace()) {
      this.emit("notice", { text: `The connection to ${this.name ?? this.id} keeps failing (${reason}).` });
      this.#repair(reason, false);
      return;
    }
    if (previous?.remote) this.#retire(previous.remote.ufrag);
    previous?.close();
    clearTimeout(this.#timer);
    for (const channel of [...this.channels]) channel.unbind();
    const link = new Link(this, this.#room.iceServers, this.#stale);
    this.#link = link;
    this.#listen(link);
    if (offer) link.receive(offer);
    for (const channel of this.channels) channel.bind(link.pc.createDataChannel(channel.label, channel.options));
    this.#setState(previous || this.#state === "reconnecting" ? "reconnecting" : "connecting");
    this.#later(CONNECT_MS, () => link === this.#link && link.pc.connectionState !== "connected" && this.#repair("slow", true));
  }

  #retire(ufrag) {
    this.#stale.add(ufrag);
    if (this.#stale.size > MAX_STALE) this.#stale.delete(this.#stale.values().next().value);
  }

  #mayReplace() {
    const now = performance.now();
    this.#replaced = this.#replaced.filter((at) => now - at < REPLACE_LIMIT.withinMs);
    return this.#replaced.push(now) <= REPLACE_LIMIT.count;
  }

  #listen(link) {
    const on = (name, handle) => link.addEventListener(name, (event) => link === this.#link && handle(event.detail));
    on("state", ({ state }) => this.#linkState(state));
    on("ice", ({ state }) => this.#iceState(state));
    on("track", (detail) => this.#tracked(detail));
    on("describing", ({ summary }) => this.#place(summary));
    on("described", ({ summary }) => this.#described(summary));
    on("channel", ({ raw }) => this.#channelArrived(raw));
    on("controlopen", () => link.tell({ type: "profile", ...this.#room.profile }));
    on("control", ({ message }) => this.#controlled(message));
    on("replace", ({ reason, offer }) => (reason === "no answer" ? this.#repair(reason, true) : this.#connect(reason, offer)));
    on("hungup", () => this.#hungUp());
    on("refused", () => link.pc.connectionState !== "connected" && clearTimeout(this.#timer)); // other offers would be refused too
  }

  #linkState(state) {
    if (state === "connected") {
      this.#attempt = 0;
      clearTimeout(this.#timer);
      this.#setState("connected");
      this.#forgetStale(STALE_STREAM_MS);
    } else if (state === "disconnected") {
      this.#setState("reconnecting");
      this.#later(DISCONNECTED_MS, () => this.#repair("disconnected", true));
    } else if (state === "failed") {
      this.#repair("failed", true);
    }
  }

  /**
   * ICE is connected but DTLS is not. Chromium keeps an early ClientHello until it has the answer: if the answer comes from
   * another connection than the ClientHello (the first one was abandoned), the handshake never completes.
   */
  #iceState(state) {
    if ((state !== "connected" && state !== "completed") || this.#link.pc.connectionState === "connected") return;
    const link = this.#link;
    const handshake = () => link === this.#link && link.pc.connectionState !== "connected" && this.#connect("no handshake");
    this.#later(this.polite ? 2 * HANDSHAKE_MS : HANDSHAKE_MS, handshake);
  }

  #hungUp() {
    this.emit("hungup", {});
    if (this.#ended || this.away) return;
    this.#setState("reconnecting");
    this.#later(HUNG_UP_MS, () => this.#connect("the other end hung up"));
  }

  /** Make the next attempt to restore the connection. `now` skips the first delay. */
  #repair(reason, now) {
    if (this.#ended) return;
    this.#setState("reconnecting");
    if (this.#attempt >= LADDER_MS.length) {
      this.#setState("failed");
      this.emit("notice", { text: `Could not connect to ${this.name ?? this.id}.` });
      this.#attempt = 0; // the next offer, or a restored signalling connection, starts over
      return;
    }
    const wait = now ? LADDER_MS[this.#attempt] : Math.max(LADDER_MS[this.#attempt], 1000);
    this.#later(wait, () => this.#attemptRepair(reason));
  }

  #attemptRepair(reason) {
    const link = this.#link;
    if (!this.reachable) return this.#later(1000, () => this.#attemptRepair(reason));
    const restart = this.#attempt++ < ICE_RESTARTS && link?.pc.signalingState === "stable" && link.pc.remoteDescription;
    if (restart && link.pc.sctp?.transport?.state !== "closed") link.pc.restartIce();
    else this.#connect(reason);
    this.#later(ATTEMPT_MS, () => this.#link?.pc.connectionState !== "connected" && this.#repair(reason, true));
  }

  #later(ms, action) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(action, ms);
  }

  #setState(state) {
    if (state === this.#state || this.#state === "closed") return;
    this.#state = state;
    this.emit("state", { state });
  }

  #controlled(message) {
    if (message.type === "profile" && typeof message.name === "string") {
      this.#named(message.name);
    } else if (message.type === "rename" && typeof message.id === "string" && message.id.length <= 128) {
      this.emit("rename", { id: message.id });
    }
  }

  #named(name) {
    this.profile = { name: shown(name) };
    this.emit("profile", {});
  }

  // --- media --------------------------------------------------------------------------------------------------------

  #tracked({ track, stream, section }) {
    const { streamId, trackId } = section?.streams[0] ?? {};
    const id = (streamId ?? stream.id).slice(0, MAX_ID_LENGTH);
    let entry = this.#streams.get(id);
    if (!entry || entry.stream !== stream) {
      entry = { stream, tracks: new Map(), link: this.#link };
      this.#streams.set(id, entry);
    }
    entry.tracks.set(track, { kind: track.kind, trackId: trackId ?? track.id });
    const metadata = this.#find(trackId ?? track.id, id, track.kind);
    this.emit("track", { track, stream, streamId: id, metadata });
  }

  /** Drop the streams, and the tracks of streams, that the latest description no longer sends. */
  #described(summary) {
    const sent = new Map();
    for (const section of summary.sections) {
      if (!section.sending) continue;
      for (const { streamId, trackId } of section.streams) {
        const id = streamId ?? trackId;
        sent.set(id, (sent.get(id) ?? new Set()).add(trackId));
      }
    }
    for (const [id, { link, tracks }] of [...this.#streams]) {
      if (link !== this.#link) continue;
      if (!sent.has(id) && ![...tracks.values()].some(({ trackId }) => sent.has(trackId))) this.#removeStream(id);
      else for (const [track, { trackId }] of tracks) if (sent.has(id) && !sent.get(id).has(trackId)) tracks.delete(track);
    }
  }

  #removeStream(id) {
    this.#streams.delete(id);
    this.emit("streamremoved", { streamId: id });
  }

  /** Remove streams of earlier links that did not come back. */
  #forgetStale(afterMs) {
    clearTimeout(this.#staleTimer);
    this.#staleTimer = setTimeout(() => {
      for (const [id, { link }] of [...this.#streams]) if (link !== this.#link) this.#removeStream(id);
    }, afterMs);
  }

  // --- channels -----------------------------------------------------------------------------------------------------

  /** @param {string} label @param {RTCDataChannelInit} [options] */
  openChannel(label, options = {}) {
    if (this.channels.length >= MAX_CHANNELS) throw new Error("Too many channels to this peer.");
    const channel = new Channel(label, options);
    this.#adopt(channel);
    if (this.#link) channel.bind(this.#link.pc.createDataChannel(label, options));
    else this.start();
    return channel;
  }

  #channelArrived(raw) {
    if (this.channels.length >= MAX_CHANNELS) return raw.close();
    const channel = new Channel(raw.label, { protocol: raw.protocol }, false);
    channel.bind(raw);
    this.#adopt(channel);
    this.emit("channel", { channel });
  }

  #adopt(channel) {
    this.channels.push(channel);
    const tell = (event) => this.emit("channelmessage", { channel, data: event.detail.data });
    if (channel.options.protocol !== PROTOCOL) channel.addEventListener("message", tell); // managed channels carry frames
    channel.addEventListener("close", () => {
      const index = this.channels.indexOf(channel);
      if (index >= 0) this.channels.splice(index, 1);
    });
  }

  // --- statistics ---------------------------------------------------------------------------------------------------

  /** Current inbound statistics. */
  async stats() {
    const result = {
      state: this.#state, framesDecoded: 0, framesPerSecond: 0, bytesReceived: 0, bytesSent: 0, kbps: 0, rttMs: null,
      audioSamples: 0, audioEnergy: 0, framesSent: 0, width: 0, height: 0, streams: {},
    };
    const pc = this.#link?.pc;
    const report = await this.#link?.stats();
    if (!report) return result;
    for (const item of report.values()) this.#count(item, result);
    const now = performance.now();
    const last = this.#sample;
    if (last && now - last.at > 250 && last.pc === pc) {
      result.kbps = Math.max(0, Math.round(((result.bytesReceived - last.bytes) * 8) / (now - last.at)));
    } else if (last) {
      result.kbps = last.kbps;
    }
    if (!last || now - last.at > 250) this.#sample = { at: now, bytes: result.bytesReceived, kbps: result.kbps, pc };
    return result;
  }

  #count(item, result) {
    if (item.type === "inbound-rtp") {
      result.bytesReceived += item.bytesReceived ?? 0;
      if (item.kind === "video") {
        result.framesDecoded += item.framesDecoded ?? 0;
        result.framesPerSecond = Math.max(result.framesPerSecond, Math.round(item.framesPerSecond ?? 0));
        result.width = Math.max(result.width, item.frameWidth ?? 0);
        result.height = Math.max(result.height, item.frameHeight ?? 0);
        this.#countStream(item, result);
      } else {
        result.audioSamples += item.totalSamplesReceived ?? 0;
        result.audioEnergy += item.totalAudioEnergy ?? 0;
      }
    } else if (item.type === "outbound-rtp") {
      result.bytesSent += item.bytesSent ?? 0;
      result.framesSent += item.framesSent ?? 0;
    } else if (item.type === "candidate-pair" && item.nominated && Number.isFinite(item.currentRoundTripTime)) {
      result.rttMs = Math.round(item.currentRoundTripTime * 1000);
    }
  }

  #countStream(item, result) {
    for (const [id, { tracks }] of this.#streams) {
      if (![...tracks.keys()].some((track) => track.id === item.trackIdentifier)) continue;
      result.streams[id] = { framesDecoded: item.framesDecoded ?? 0, framesPerSecond: Math.round(item.framesPerSecond ?? 0) };
    }
  }
}

/** The track ids in the sending sections of a description. */
function trackIds(sections) {
  return new Set(sections.filter((s) => s.sending).flatMap((s) => s.streams.map((x) => x.trackId)));
}
