// The signalling client: requests and answers over a WebSocket that reconnects.
//
// States: idle -> connecting -> connected <-> reconnecting, and closed from any state. `connect` makes one attempt. A
// connection is reconnected after its first welcome, with exponential backoff and jitter, until a close code is terminal.
// With the server's resume token it gets the same peer id again, and what it has missed meanwhile.

import { Emitter } from "./events.js";
import { Positions } from "./positions.js";

/** Terminal close codes: invalid credential, scope, suspended account, kicked. */
export const TERMINAL_CODES = new Set([4001, 4003, 4012, 4020]);
const OVER_CONCURRENT_LIMIT = 4010;
const CLIENT_INACTIVITY = 4000;
const RESUMED_ELSEWHERE = 4002; // another connection used the resume token
const RESUME_TOKEN = /^[\x20-\x7e]{1,1024}$/;
/** Temporary failures of a request. After any other the same message would be refused again. */
const PASSING_FAILURES = new Set([
  "ack_timeout", "backend_error", "closed", "disconnected", "internal_error", "not_connected", "overflow", "peer_not_found",
]);
const CLOSE_MEANINGS = {
  1001: "The server is going away.",
  1008: "The server refused what this page sent.",
  1009: "The server found a message too large.",
  1011: "The server failed.",
  1012: "The server restarts.",
  1013: "The server is too busy.",
  4000: "Nothing was heard from the server for a minute.",
  4001: "The key or token was not accepted.",
  4002: "The token has expired, or the connection was continued elsewhere.",
  4003: "This key may not use that channel.",
  4010: "The server has reached its connection limit.",
  4011: "This page sent too many messages.",
  4012: "The account is suspended.",
  4020: "You were disconnected by an administrator.",
};

const HANDSHAKE_MS = 10_000; // for the socket to open, and again for the welcome
const ACK_MS = 15_000;
const PING_AFTER_MS = 20_000; // of inbound silence
const DEAD_AFTER_MS = 60_000; // of inbound silence
const PROBE_MS = 3_000; // for a plain request that finds out what is wrong with the host
// Delays double up to `steady`, and grow beyond it to a fifth of the outage.
const BACKOFF = { first: 500, factor: 2, steady: 3_000, share: 0.2, max: 30_000, jitter: 0.2, attempts: 100 };
const LIMIT_FLOOR_MS = 30_000; // minimum after "over the connection limit"
const GOING_AWAY_MAX_MS = 300_000;
const MAX_QUEUED_FRAMES = 4096; // frames that wait for the rate limit; more indicates a fault
const PACE = { perSecond: 80, burst: 150 }; // the server closes above 100 per second, burst 200
const MAX_SUBSCRIPTIONS = 100; // the server's own limit
const RESUBSCRIBE = { tries: 3, everyMs: 2_000, maxMs: 16_000, jitter: 0.5 };
/** Refusals by a server that cannot serve a channel at the moment: it is asked again for as long as the connection lasts. */
const OUTAGES = new Set(["backend_error", "internal_error"]);
const FRAME_ENVELOPE = 512;

const encoder = new TextEncoder();

/** The resume token of a frame, or null if there is no usable one. */
function resumeToken(frame) {
  return typeof frame.resumeToken === "string" && RESUME_TOKEN.test(frame.resumeToken) ? frame.resumeToken : null;
}

/** Size on the wire of a JSON value, in UTF-8 bytes. */
export function wireSize(value) {
  return encoder.encode(JSON.stringify(value)).length;
}

/** Describe a close code, with the server and its reason. */
function meaning(host, code, reason) {
  const said = reason && !CLOSE_MEANINGS[code] ? `: ${String(reason).slice(0, 200)}` : "";
  return `${CLOSE_MEANINGS[code] ?? `The connection to the server ended${said}.`} (${host}, code ${code})`;
}

/** Find out why a WebSocket did not open, as far as a page can. @param {URL} url */
async function whyUnreachable(url) {
  const plain = new URL(url.pathname, url.origin.replace(/^ws/, "http")); // without the key
  const host = url.host;
  if (!navigator.onLine) return "This device is offline.";
  const certificate = plain.protocol === "https:" ? " its certificate is not trusted here," : "";
  const unreachable = `${host} cannot be reached: it refuses connections,${certificate} or the network does not lead there.`;
  if (plain.origin !== location.origin) return unreachable;
  try {
    const { status } = await fetch(plain, { cache: "no-store", signal: AbortSignal.timeout(PROBE_MS) });
    if (status === 429) return `${host} takes no more connections from here at the moment (HTTP 429). Try again in a minute.`;
    return `${host} answers, but no WebSocket comes through (HTTP ${status}). Is there a proxy in between?`;
  } catch (error) {
    return error.name === "TimeoutError" ? `${host} does not answer.` : unreachable;
  }
}

/** Whether the same message would fail again at any time. @param {SignallingError} error */
export function isFinal(error) {
  return !PASSING_FAILURES.has(error.code);
}

export class SignallingError extends Error {
  /** @param {string|number} code an error code of the protocol, or a close code */
  constructor(code, message) {
    super(message || String(code));
    this.name = "SignallingError";
    this.code = code;
  }
}

/**
 * Events: `welcome` {peerId, metadata, reconnected}, `frame` (message, direct, presence, uncorrelated error),
 * `missed` {channel, count}: messages that cannot be delivered, null for directs and for an unknown count,
 * `lost` {code, reason, retrying}, `state` {state}, `resubscribefailed` {channel, error}.
 */
export class Signalling extends Emitter {
  #url;
  #socket = null;
  #first = null; // the pending call of connect()
  #state = "idle";
  #requests = new Map();
  #nextRequest = 1;
  #subscriptions = new Map();
  #positions = new Positions();
  #resumeToken = null; // restores the peer id in the next attempt; a credential, never shown
  #attempt = 0;
  #lostAt = 0;
  #opened = false; // whether the socket has opened: the server supports WebSocket
  #notBefore = 0;
  #invitation = null; // ms after which a server that goes away expects this page
  #timers = new Map();
  #queue = [];
  #tokens = PACE.burst;
  #refilled = performance.now();
  #lastHeard = 0;
  #online = () => this.#hurry();

  /** @param {URL} url WebSocket address, credential included */
  constructor(url) {
    super();
    this.#url = url;
    this.maxMessageSize = 65_536;
    addEventListener("online", this.#online);
  }

  get state() {
    return this.#state;
  }

  get connected() {
    return this.#state === "connected";
  }

  /** Connect in one attempt. Resolves after the welcome, rejects with a SignallingError. */
  async connect() {
    if (this.#state !== "idle") throw new SignallingError("invalid_state", "This connection was used before.");
    this.#setState("connecting");
    await new Promise((resolve, reject) => {
      this.#first = { resolve, reject };
      this.#open();
    });
  }

  /** Close. Idempotent. */
  close() {
    if (this.#state === "closed") return;
    removeEventListener("online", this.#online);
    this.#drop(1000, "client requested close");
    this.#subscriptions.clear();
    this.#positions.clear();
    this.#resumeToken = null;
    this.#setState("closed");
    this.#first?.reject(new SignallingError("closed", "The connection was closed."));
  }

  /** Subscribe, and restore it after every reconnect unless the server refused. */
  async subscribe(channel) {
    if (this.#subscriptions.size >= MAX_SUBSCRIPTIONS) throw new SignallingError("channel_limit_exceeded");
    await this.#askFor(channel);
    this.#subscriptions.set(channel, true);
  }

  async unsubscribe(channel) {
    this.#subscriptions.delete(channel);
    this.#positions.forget(channel);
    await this.#request({ type: "unsubscribe", channel });
  }

  publish(channel, data) {
    return this.#request({ type: "publish", channel, data });
  }

  send(to, data) {
    return this.#request({ type: "send", to, data });
  }

  // --- one socket ---------------------------------------------------------------------------------------------------

  #open() {
    let socket;
    try {
      socket = new WebSocket(this.#address());
    } catch (error) {
      this.#setState("closed");
      this.#first?.reject(error);
      return;
    }
    this.#socket = socket;
    this.#opened = false;
    const give = (code, reason) => this.#lost(socket, code, reason);
    this.#timer("handshake", HANDSHAKE_MS, () => give(1006, "no answer"));
    socket.onopen = () => {
      this.#opened = true;
      this.#timer("handshake", HANDSHAKE_MS, () => give(1006, `no welcome within ${HANDSHAKE_MS / 1000} s`));
    };
    socket.onclose = (event) => give(event.code, event.reason);
    socket.onmessage = (event) => this.#receive(socket, event.data);
  }

  #address() {
    const url = new URL(this.#url);
    if (this.#resumeToken !== null) url.searchParams.set("resume", this.#resumeToken);
    url.searchParams.set("recover", this.#resumeToken !== null ? this.#positions.query : "1"); // another id has other directs
    return url;
  }

  #receive(socket, text) {
    if (socket !== this.#socket || typeof text !== "string") return;
    this.#listen();
    let frame;
    try {
      frame = JSON.parse(text);
    } catch {
      return;
    }
    if (frame === null || typeof frame !== "object" || typeof frame.type !== "string") return;
    if (frame.type === "welcome") this.#welcomed(frame);
    else if (frame.type === "ack") this.#acknowledged(frame);
    else if (frame.type === "error") this.#refused(frame);
    else if (frame.type === "going_away") this.#goingAway(frame);
    else if (frame.type === "resume") this.#resumeToken = resumeToken(frame) ?? this.#resumeToken;
    else if (frame.type === "lost") this.#missed(this.#positions.lost(frame));
    else if (!["message", "direct"].includes(frame.type) || this.#positions.takes(frame)) this.emit("frame", frame);
  }

  #missed(told) {
    if (told) this.emit("missed", told);
  }

  /** The position goes first: messages may follow before the program continues. */
  #acknowledged(frame) {
    const { channel, asked } = this.#requests.get(frame.requestId) ?? {};
    const lost = channel !== undefined && this.#positions.acknowledged(channel, frame, asked);
    this.#settle(frame.requestId, null);
    this.#missed(lost && { channel, count: null });
  }

  #askFor(channel) {
    const position = this.#positions.asking(channel);
    const fields = { type: "subscribe", channel, includeSenderMetadata: true, ...position };
    return this.#request(fields, { channel, asked: "epoch" in position });
  }

  #welcomed(frame) {
    if (this.connected || typeof frame.peerId !== "string") return;
    const reconnected = this.#state === "reconnecting";
    this.#clear("handshake");
    this.#attempt = 0;
    this.#resumeToken = resumeToken(frame);
    this.#tokens = PACE.burst;
    if (Number.isFinite(frame.maxMessageSize) && frame.maxMessageSize > 0) this.maxMessageSize = frame.maxMessageSize;
    this.#setState("connected");
    const lost = this.#positions.welcomed(frame);
    this.emit("welcome", { peerId: frame.peerId, metadata: frame.metadata ?? {}, reconnected });
    this.#missed(lost && { channel: null, count: null });
    this.#first?.resolve();
    this.#first = null;
    if (reconnected) for (const channel of this.#subscriptions.keys()) this.#resubscribe(channel, RESUBSCRIBE.tries);
  }

  async #resubscribe(channel, tries, outageMs = RESUBSCRIBE.everyMs) {
    const socket = this.#socket;
    try {
      await this.#askFor(channel);
    } catch (error) {
      if (socket !== this.#socket || !this.#subscriptions.has(channel)) return;
      if (OUTAGES.has(error.code)) {
        const wait = outageMs * (1 - RESUBSCRIBE.jitter * Math.random());
        const next = Math.min(2 * outageMs, RESUBSCRIBE.maxMs);
        return this.#timer(`again ${channel}`, wait, () => this.#resubscribe(channel, tries, next));
      }
      if (tries <= 1) return this.emit("resubscribefailed", { channel, error });
      this.#timer(`again ${channel}`, RESUBSCRIBE.everyMs, () => this.#resubscribe(channel, tries - 1));
    }
  }

  #refused(frame) {
    const error = new SignallingError(String(frame.code ?? "internal_error"), frame.message);
    if (typeof frame.requestId === "string") this.#settle(frame.requestId, error);
    else if (frame.code !== "unknown_type") this.emit("frame", frame);
  }

  #goingAway(frame) {
    const after = Number(frame.retryAfterMs);
    this.#invitation = Number.isFinite(after) && after > 0 ? Math.min(after, GOING_AWAY_MAX_MS) : 1000;
  }

  /** Detect a silent connection: ping first, then abandon the socket without its closing handshake. */
  #listen() {
    this.#lastHeard = performance.now();
    this.#timer("silence", PING_AFTER_MS, () => this.#silent());
  }

  #silent() {
    if (performance.now() - this.#lastHeard >= DEAD_AFTER_MS) {
      this.#lost(this.#socket, CLIENT_INACTIVITY, "inactivity");
      return;
    }
    if (this.connected && this.#socket.readyState === WebSocket.OPEN) this.#socket.send('{"type":"ping"}');
    this.#timer("silence", PING_AFTER_MS, () => this.#silent());
  }

  // --- reconnecting -------------------------------------------------------------------------------------------------

  #lost(socket, code, reason) {
    if (socket !== this.#socket || this.#state === "closed") return;
    const starting = this.#state === "connecting";
    if (this.connected) this.#lostAt = performance.now();
    const opened = this.#opened;
    if (code === RESUMED_ELSEWHERE) this.#resumeToken = null; // otherwise the two would evict each other for ever
    this.#drop(code === CLIENT_INACTIVITY ? CLIENT_INACTIVITY : 1000, reason);
    const terminal = starting || TERMINAL_CODES.has(code) || this.#attempt >= BACKOFF.attempts;
    if (terminal) {
      removeEventListener("online", this.#online);
      this.#subscriptions.clear();
    }
    this.#setState(terminal ? "closed" : "reconnecting");
    if (starting) this.#failed(code, reason, opened);
    else this.emit("lost", { code, reason: meaning(this.#url.host, code, reason), retrying: !terminal });
    if (!terminal) this.#timer("retry", this.#delay(code), () => this.#open());
  }

  /** A browser does not report why a socket did not open; a plain request to the same host may show it. */
  async #failed(code, reason, opened) {
    const text = opened || code !== 1006 ? meaning(this.#url.host, code, reason) : await whyUnreachable(this.#url);
    this.#first?.reject(new SignallingError(code, text));
  }

  #delay(code) {
    const most = Math.min(Math.max(BACKOFF.steady, (performance.now() - this.#lostAt) * BACKOFF.share), BACKOFF.max);
    const base = Math.min(BACKOFF.first * BACKOFF.factor ** this.#attempt++, most);
    const invitation = this.#invitation;
    this.#invitation = null;
    const jittered = base * (1 + BACKOFF.jitter * (2 * Math.random() - 1));
    const delay = invitation === null ? jittered : invitation * (1 - BACKOFF.jitter * Math.random());
    const floor = code === OVER_CONCURRENT_LIMIT ? LIMIT_FLOOR_MS : (invitation ?? 0) * (1 - BACKOFF.jitter);
    this.#notBefore = performance.now() + floor;
    return Math.max(delay, floor);
  }

  /** The network is back: skip the rest of the backoff, but not the minimum that the server asked for. */
  #hurry() {
    if (this.#timers.has("retry") && performance.now() >= this.#notBefore) this.#timer("retry", 100, () => this.#open());
  }

  /** Drop the socket, fail its pending requests, stop all timers. */
  #drop(code, reason) {
    const socket = this.#socket;
    this.#socket = null;
    for (const name of [...this.#timers.keys()]) this.#clear(name);
    this.#queue.length = 0;
    this.#positions.disconnected();
    if (socket) {
      socket.onopen = socket.onclose = socket.onmessage = null;
      if (socket.readyState <= WebSocket.OPEN) socket.close(code, reason);
    }
    const waiting = [...this.#requests.values()];
    this.#requests.clear();
    for (const request of waiting) {
      clearTimeout(request.timer);
      request.reject(new SignallingError("disconnected", "The connection ended before the answer."));
    }
  }

  // --- requests -----------------------------------------------------------------------------------------------------

  #request(fields, more = {}) {
    return new Promise((resolve, reject) => {
      if (!this.connected) return reject(new SignallingError("not_connected", "Not connected to the server."));
      if (this.#queue.length >= MAX_QUEUED_FRAMES) return reject(new SignallingError("overflow", "Too many messages are waiting."));
      const requestId = `q${this.#nextRequest++}`;
      const text = JSON.stringify({ ...fields, requestId });
      if (encoder.encode(text).length > this.maxMessageSize + FRAME_ENVELOPE) {
        return reject(new SignallingError("too_large", "That message is too large."));
      }
      this.#requests.set(requestId, { resolve, reject, timer: 0, ...more });
      this.#queue.push({ requestId, text });
      this.#pump();
    });
  }

  #settle(requestId, error) {
    const request = this.#requests.get(requestId);
    if (!request) return;
    this.#requests.delete(requestId);
    clearTimeout(request.timer);
    if (error) request.reject(error);
    else request.resolve();
  }

  /** Write the queued frames in order, within the server's rate limit. */
  #pump() {
    if (this.#socket?.readyState !== WebSocket.OPEN) return; // closing: all frames fail when it is closed
    const now = performance.now();
    this.#tokens = Math.min(PACE.burst, this.#tokens + ((now - this.#refilled) / 1000) * PACE.perSecond);
    this.#refilled = now;
    while (this.#queue.length && this.#tokens >= 1) {
      const { requestId, text } = this.#queue.shift();
      this.#tokens -= 1;
      const request = this.#requests.get(requestId);
      request.timer = setTimeout(() => this.#settle(requestId, new SignallingError("ack_timeout", "The server did not answer.")), ACK_MS);
      this.#socket.send(text);
    }
    if (this.#queue.length) this.#timer("pace", 1000 / PACE.perSecond, () => this.#pump());
  }

  #timer(name, ms, action) {
    this.#clear(name);
    const id = setTimeout(() => {
      this.#timers.delete(name);
      action();
    }, ms);
    this.#timers.set(name, id);
  }

  #clear(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }

  #setState(state) {
    if (state === this.#state) return;
    this.#state = state;
    this.emit("state", { state });
  }
}
