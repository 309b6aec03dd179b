// One RTCPeerConnection and the negotiation on it.
//
// All operations on the connection run in one chain, one after the other, so that they never overlap. The only repair of a
// link is an ICE restart: otherwise it asks its owner for a replacement, and the remaining operations are dropped.
//
// The rules of the negotiation:
// - When two offers collide the polite end (own id < remote id) gives way; the impolite end ignores the remote offer.
// - The data section comes first, with mid "0", in the offers of both ends. A browser puts m=application behind the media of the same
//   offer, so the first offer is made twice: with the data section alone (never sent), and again with the media, which
//   then follows it. Offers that collide then have the same mid for the data section: Chromium cannot roll back an offer
//   whose data section has another mid than the one in the offer it gives way to.
// - Before the first negotiation, an end gives way by starting over on a new connection; later, by rollback.
// - An unanswered offer is sent again four times, then the link is replaced. A link that works is kept, and the offer is
//   repeated less and less often: the remote may be unable to send, and could not answer on another link either.
// - An offer that cannot be delivered, too large or refused, is dropped until another replaces it. Media continues.
// - Two ends that start over at the same time could answer each other's abandoned offers for ever. An impolite end with a
//   pending offer therefore ignores the remote one even if it comes from a new connection. It repeats its own, and the
//   answer, from that new connection, makes it start over too. An answer names its offer, so that a late answer to an
//   abandoned offer is ignored; without that attribute its credentials are compared.
// - Candidates are sent after their description, and held until the description that they need has arrived.

import { Emitter } from "./events.js";
import { answers, replying, sameEnd, startedOver, summarise } from "./sdp.js";

const ANSWER_MS = 5_000;
const OFFER_REPEATS = 4;
const ANSWER_MAX_MS = 300_000; // maximum wait for an answer while the connection works
const CROSSING_MS = 700; // offers that are closer in time count as colliding
const MAX_CANDIDATES = 200; // per description, both directions
const MAX_CANDIDATE_LENGTH = 1000;
/** A negotiated channel with a fixed id between pages of this kind. Other implementations do not notice it. */
const CONTROL = { label: "control", id: 1022 };
const MAX_CONTROL_LENGTH = 4096;

/**
 * Events: `state` {state}, `ice` {state}, `describing` {summary} before the tracks of a description, `track` {track, stream, section},
 * `described` {summary} after them, `channel` {raw}, `control` {message}, `replace` {reason, offer}, `hungup` {},
 * `refused` {}: an offer cannot be delivered.
 */
export class Link extends Emitter {
  #owner;
  #stale;
  #chain = Promise.resolve();
  #closed = false;
  #endWaiting;
  #whenClosed = new Promise((resolve) => (this.#endWaiting = resolve));
  #needed = false;
  #muted = false; // an offer cannot be delivered: make no other before something changes
  #withheld = new Set(); // local tracks that fit into no offer
  #senders = new Map(); // local track -> RTCRtpSender
  #early = []; // remote candidates before the first remote description
  #held = []; // local candidates before their description
  #described = false;
  #candidates = { in: 0, out: 0 };
  #pending = null; // {summary, repeats, sentAt} while the local offer is unanswered
  #answerTimer = 0;
  #announced = new Map(); // local track -> latest signalled metadata
  #control;
  #unreported = new Set(); // what ends each running stats()

  /**
   * @param {{polite: boolean, local: Map, signal(payload): void, fits(payload): boolean, reachable: boolean}} owner
   * @param {RTCIceServer[]} iceServers
   * @param {Set<string>} stale remote credentials of earlier links, to recognise late answers
   */
  constructor(owner, iceServers, stale) {
    super();
    this.#stale = stale;
    this.#owner = owner;
    /** The offer for the next link to answer. */
    this.passedOn = null;
    /** The latest remote description. @type {import("./sdp.js").Summary|null} */
    this.remote = null;
    const pc = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.pc = pc;
    this.#control = pc.createDataChannel(CONTROL.label, { negotiated: true, id: CONTROL.id });
    this.#control.onopen = () => this.emit("controlopen", {});
    this.#control.onmessage = (event) => this.#controlled(event.data);
    this.#control.onclose = () => !this.#closed && this.emit("hungup", {});
    pc.onnegotiationneeded = () => this.#muted || this.negotiate();
    pc.onicecandidate = (event) => this.#found(event.candidate);
    pc.onconnectionstatechange = () => this.emit("state", { state: pc.connectionState });
    pc.oniceconnectionstatechange = () => this.emit("ice", { state: pc.iceConnectionState });
    pc.ondatachannel = (event) => this.emit("channel", { raw: event.channel });
    pc.ontrack = (event) => this.#tracked(event);
  }

  get usable() {
    return !this.#closed && this.#control.readyState !== "closed" && this.pc.connectionState === "connected";
  }

  /** Whether the remote has closed the connection, rather than lost it. */
  get hungUp() {
    return this.#control.readyState === "closed";
  }

  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#endWaiting(false);
    for (const end of this.#unreported) end(null);
    clearTimeout(this.#answerTimer);
    this.pc.onnegotiationneeded = this.pc.onicecandidate = this.pc.onconnectionstatechange = null;
    this.pc.oniceconnectionstatechange = null;
    this.pc.ondatachannel = this.pc.ontrack = null;
    this.pc.close();
  }

  /**
   * The statistics of the connection, or null once it is closed: in Firefox getStats() never settles if the connection
   * closes meanwhile. @returns {Promise<RTCStatsReport|null>}
   */
  stats() {
    if (this.#closed || this.pc.connectionState === "closed") return Promise.resolve(null);
    return new Promise((resolve, reject) => {
      this.#unreported.add(resolve);
      this.pc.getStats().then(resolve, reject).finally(() => this.#unreported.delete(resolve));
    });
  }

  /** Send a control message to the remote page. False if it has no control channel. */
  tell(message) {
    if (this.#control.readyState !== "open") return false;
    this.#control.send(JSON.stringify(message));
    return true;
  }

  /** Update the senders to the local tracks. The browser fires `negotiationneeded` if that changed anything. */
  refresh() {
    this.#run(() => (this.pc.localDescription ? this.#attach() : undefined));
    if (this.#muted) this.negotiate();
  }

  /** Offer as soon as no other negotiation is in progress. A new link does so by itself, unless it gets an offer at once. */
  negotiate() {
    this.#needed = true;
    this.#muted = false;
    this.#run(() => this.#offer());
  }

  /**
   * The signalling connection, or the remote, is back: send again what may have been lost.
   * @param {boolean} [offer] offer even if nothing seems to be lost
   */
  resume(offer = false) {
    if (this.#pending && !this.#pending.undeliverable) this.#repeat(false);
    else if (offer || this.#muted || (this.pc.connectionState !== "connected" && this.pc.localDescription)) this.negotiate();
  }

  // --- descriptions -------------------------------------------------------------------------------------------------

  /** Resolves to whether it was handled before the link was closed. @param {{type: string, sdp: string}} description */
  receive(description) {
    return this.#run(() => (description.type === "offer" ? this.#offered(description) : this.#answered(description)));
  }

  async #offer() {
    if (!this.#needed || (this.pc.signalingState !== "stable" && !this.#pending?.undeliverable)) return;
    this.#needed = false;
    const { pc } = this;
    if (!pc.localDescription) {
      await pc.setLocalDescription(await pc.createOffer());
      this.#attach();
    }
    const made = await pc.createOffer();
    if (pc.remoteDescription && !this.#owner.fits({ type: "rtc-description", description: { type: made.type, sdp: made.sdp } })) {
      return this.#leaveOutNew();
    }
    await pc.setLocalDescription(made);
    this.#pending = { summary: summarise(pc.localDescription.sdp), repeats: 0 };
    this.#candidates.out = 0;
    this.#describe();
    this.#await();
  }

  async #offered(offer) {
    const { pc } = this;
    const about = summarise(offer.sdp);
    const anew = this.remote !== null && startedOver(this.remote, about);
    if (pc.signalingState !== "stable" && !this.#pending?.undeliverable) {
      if (!this.#owner.polite) return this.#insist(anew);
      if (!pc.remoteDescription) return this.#replace("gave way to the other offer", offer);
    }
    if (anew) return this.#replace("the other end started over", offer);
    this.#settle();
    if (!pc.remoteDescription) this.#attach();
    this.emit("describing", { summary: about });
    await pc.setRemoteDescription(offer);
    this.#heard(about);
    this.#attach();
    this.#needed = false; // the browser fires it again if the answer leaves something out
    await pc.setLocalDescription(await pc.createAnswer());
    this.#candidates.out = 0;
    this.#describe();
    await this.#useEarly();
    this.emit("described", { summary: about });
  }

  async #answered(answer) {
    const { pc } = this;
    if (pc.signalingState !== "have-local-offer" || !this.#pending) return;
    const about = summarise(answer.sdp);
    if (!answers(this.#pending.summary, about) || this.#stale.has(about.ufrag)) return;
    if (this.remote && startedOver(this.remote, about)) return this.#replace("the other end started over", null);
    this.#settle();
    this.emit("describing", { summary: about });
    await pc.setRemoteDescription(answer);
    this.#heard(about);
    await this.#useEarly();
    this.emit("described", { summary: about });
    if (this.#needed) this.#run(() => this.#offer());
  }

  /** A remote offer that is ignored shows that the remote does not know the local one, unless they just collided. */
  #insist(anew) {
    if (anew || performance.now() - this.#pending?.sentAt > CROSSING_MS) this.#repeat(false);
  }

  #heard(about) {
    if (!this.remote || this.remote.ufrag !== about.ufrag) this.#candidates.in = 0;
    this.remote = about;
  }

  /** Send the metadata of the local tracks, then the local description. */
  #describe() {
    if (this.#pending) this.#pending.sentAt = performance.now();
    const { type, sdp } = this.pc.localDescription;
    this.announce(summarise(sdp));
    const text = type === "answer" ? replying(sdp, this.remote) : sdp;
    const offer = this.#pending;
    const sent = this.#owner.signal({ type: "rtc-description", description: { type, sdp: text } });
    if (type === "offer" && offer) sent.then((result) => this.#delivered(offer, result));
    this.#described = true;
    for (const candidate of this.#held.splice(0)) this.#send(candidate);
  }

  #await() {
    clearTimeout(this.#answerTimer);
    const wait = Math.min(ANSWER_MS * 2 ** Math.max(0, this.#pending.repeats - OFFER_REPEATS), ANSWER_MAX_MS);
    this.#answerTimer = setTimeout(() => this.#repeat(true), wait);
  }

  #delivered(offer, result) {
    if (result === true) offer.arrived = true;
    if (typeof result !== "object" || this.#pending !== offer) return;
    clearTimeout(this.#answerTimer); // the owner may resume it
    this.emit("refused", {});
    if (!offer.arrived && this.pc.remoteDescription) this.#run(() => this.#putAside(offer, result));
  }

  /**
   * Leave an offer pending until the next one, of either end, replaces it. It is not rolled back: after a rollback without a
   * following description, Chromium stops sending if it was the last to answer.
   */
  #putAside(offer, error) {
    if (this.#pending !== offer) return;
    offer.undeliverable = true;
    this.#muted = true;
    if (error.code === "too_large") this.#leaveOutNew();
  }

  /** Stop offering, and leave out the tracks that fit into no offer, before something changes. */
  #leaveOutNew() {
    this.#muted = true;
    for (const [track, sender] of [...this.#senders]) this.#withhold(track, sender);
  }

  #withhold(track, sender) {
    const transceiver = this.pc.getTransceivers().find((t) => t.sender === sender);
    if (transceiver?.currentDirection?.startsWith("send")) return;
    this.#withheld.add(track);
    this.#senders.delete(track);
    if (transceiver?.currentDirection) this.pc.removeTrack(sender);
    else transceiver?.stop(); // it has no section yet
  }

  #repeat(count) {
    if (this.#closed || !this.#pending || this.#pending.undeliverable) return;
    if (count && this.#owner.reachable && ++this.#pending.repeats > OFFER_REPEATS && !this.usable) {
      this.#run(() => this.#replace("no answer", null));
      return;
    }
    if (this.#owner.reachable) this.#describe();
    this.#await();
  }

  #settle() {
    clearTimeout(this.#answerTimer);
    this.#pending = null;
  }

  #replace(reason, offer) {
    this.passedOn = offer;
    this.emit("replace", { reason, offer });
  }

  /** Run operations in order. A failure affects the link only, not the page. */
  #run(step) {
    // Promises of a connection that is closed may never settle.
    this.#chain = this.#chain.then(() => Promise.race([this.#step(step), this.#whenClosed]));
    return this.#chain;
  }

  async #step(step) {
    if (this.#closed) return false;
    try {
      await step();
    } catch (error) {
      if (!this.#closed) this.#replace(`${error.name}: ${error.message}`, null);
    }
    return true;
  }

  // --- candidates ---------------------------------------------------------------------------------------------------

  /** @param {RTCIceCandidateInit|null} candidate */
  receiveCandidate(candidate) {
    if (++this.#candidates.in > MAX_CANDIDATES || (candidate?.candidate?.length ?? 0) > MAX_CANDIDATE_LENGTH) return undefined;
    return this.#run(() => this.#use(candidate));
  }

  async #use(candidate) {
    if (!this.pc.remoteDescription) {
      this.#early.push(candidate);
      return;
    }
    try {
      await this.pc.addIceCandidate(candidate?.candidate ? candidate : undefined);
    } catch {
      // of an ignored offer, or of an earlier connection of the remote
    }
  }

  async #useEarly() {
    for (const candidate of this.#early.splice(0)) await this.#use(candidate);
  }

  #found(candidate) {
    const payload = candidate ? candidate.toJSON() : null;
    if (this.#described) this.#send(payload);
    else if (this.#held.length < MAX_CANDIDATES) this.#held.push(payload);
  }

  #send(candidate) {
    if (this.#candidates.out++ < MAX_CANDIDATES) this.#owner.signal({ type: "rtc-ice", candidate });
  }

  // --- tracks and channels ------------------------------------------------------------------------------------------

  #attach() {
    for (const [track, { stream }] of this.#owner.local) {
      if (!this.#senders.has(track) && !this.#withheld.has(track)) this.#senders.set(track, this.pc.addTrack(track, stream));
    }
    for (const track of [...this.#withheld]) if (!this.#owner.local.has(track)) this.#withheld.delete(track);
    for (const [track, sender] of [...this.#senders]) {
      if (this.#owner.local.has(track)) continue;
      this.pc.removeTrack(sender);
      this.#senders.delete(track);
    }
  }

  /**
   * Send new or changed track metadata. The track id is the one in the local description: a browser that answers signals other
   * ids than those of the tracks.
   */
  announce(summary = this.pc.localDescription && summarise(this.pc.localDescription.sdp)) {
    if (!summary) return;
    const signalled = new Map();
    for (const [track, sender] of this.#senders) {
      const mid = this.pc.getTransceivers().find((t) => t.sender === sender)?.mid;
      const section = mid && summary.sections.find((s) => s.mid === mid);
      if (section) signalled.set(track, section.streams[0]?.trackId ?? track.id);
    }
    for (const [track, said] of [...this.#announced]) {
      if (this.#senders.has(track)) continue;
      this.#owner.signal({ __meteredTrackMeta: { trackId: said.trackId } });
      this.#announced.delete(track);
    }
    for (const [track, trackId] of signalled) {
      const { stream, metadata } = this.#owner.local.get(track) ?? {};
      const text = metadata && JSON.stringify(metadata);
      const said = this.#announced.get(track);
      if (!text || (said?.text === text && said.trackId === trackId)) continue;
      this.#owner.signal({ __meteredTrackMeta: { trackId, metadata, kind: track.kind, streamId: stream.id } });
      this.#announced.set(track, { text, trackId });
    }
  }

  #tracked({ track, streams, transceiver }) {
    const sections = summarise(this.pc.remoteDescription?.sdp ?? "").sections;
    const section = sections.find((s) => s.mid === transceiver.mid);
    this.emit("track", { track, stream: streams[0] ?? new MediaStream([track]), section });
  }

  #controlled(text) {
    if (typeof text !== "string" || text.length > MAX_CONTROL_LENGTH) return;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return;
    }
    if (message && typeof message === "object") this.emit("control", { message });
  }

  /** Whether a description comes from the connection that this link is connected to. @param {string} sdp */
  matches(sdp) {
    return this.remote !== null && sameEnd(this.remote, summarise(sdp));
  }
}
