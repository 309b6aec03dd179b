// Channels that survive their connection (docs/data_channels.md): framing, replay, and their use in the room.
// `FrameChannel` depends only on an object with `state`, `send`, `close` and the events `open`, `message` and `close`, such
// as a thin layer over RTCDataChannel.

import { Emitter } from "./events.js";

export const PROTOCOL = "metered.channel.1";

const [HELLO, MESSAGE, CHUNK, ACK, SKIP, CLOSE] = [1, 2, 3, 4, 5, 6];
const TEXT = 1;
const URGENT = 2;
const MAX_FRAME = 65_536; // header included: what every implementation accepts
const MIN_CHUNK = 1_024;
const MAX_MESSAGE = 64 * 1024 * 1024;
const WINDOW = { messages: 16_384, bytes: 16 * 1024 * 1024 }; // kept until the remote has acknowledged it
const ACK_AFTER = { messages: 64, bytes: 512 * 1024, ms: 50 };
const MAX_UNREAD = 128 * 1024 * 1024; // bytes that wait for the first listener
const MAX_RESYNCS = 16; // requests for repetition by one end on one connection
const INBOUND_MS = 1_000; // for the polite end to reopen the channel, before the impolite end does

/** Events: `open` {}, `resumed` {resent, restarted}, `message` {data: string|Uint8Array}, `missed` {count}, `close` {reason}. */
export class FrameChannel extends Emitter {
  #session = crypto.getRandomValues(new Uint8Array(8));
  #carrier = null;
  #connection = 0; // number of the connection, to recognise events of an earlier one
  #pumping = -1;
  #control = [];
  #greeted = false;
  #connections = 0;
  #resyncs = 0;
  #closed = false;
  // outbound
  #held = [];
  #base = 0;
  #bytes = 0;
  #cursor = 0;
  #offset = 0;
  #high = 0;
  #unasked = { messages: 0, bytes: 0 };
  #waiting = [];
  #draining = [];
  #theirMax = MAX_MESSAGE;
  // inbound
  #remote = new Uint8Array(8);
  #next = 0;
  #partial = [];
  #have = 0;
  #asked = false;
  #unacked = { messages: 0, bytes: 0 };
  #ackTimer = 0;
  #unread = [];
  #unreadBytes = 0;
  #heard = false;

  /** @param {string} label */
  constructor(label) {
    super();
    this.label = label;
    this.stats = { sent: 0, received: 0, resent: 0, duplicates: 0, missed: 0 };
  }

  /** connecting, open, reconnecting, closed */
  get state() {
    if (this.#closed) return "closed";
    if (this.#greeted) return "open";
    return this.#connections ? "reconnecting" : "connecting";
  }

  get carrier() {
    return this.#carrier;
  }

  /** Messages that arrived before the first listener are delivered to it. */
  addEventListener(name, ...rest) {
    super.addEventListener(name, ...rest);
    if (name !== "message" || this.#heard) return;
    this.#heard = true;
    queueMicrotask(() => {
      this.#unreadBytes = 0;
      for (const data of this.#unread.splice(0)) this.emit("message", { data });
      this.#acknowledge();
    });
  }

  /** Resolves when the message is accepted. It arrives even if the connection is replaced. @param {string|BufferSource} data */
  async send(data) {
    const text = typeof data === "string";
    const payload = text ? new TextEncoder().encode(data) : bytesOf(data).slice();
    if (payload.length > this.#theirMax) throw new RangeError(`A message of ${payload.length} bytes, ${this.#theirMax} are taken.`);
    while (!this.#closed && !this.#fits(payload.length)) await new Promise((resolve) => this.#waiting.push(resolve));
    if (this.#closed) throw new Error("The channel is closed.");
    this.#held.push({ payload, flags: text ? TEXT : 0 });
    this.#bytes += payload.length;
    this.stats.sent += 1;
    this.#pump();
  }

  /** Resolves when the remote has acknowledged all accepted messages. */
  async drain() {
    while (!this.#closed && this.#held.length) await new Promise((resolve) => this.#draining.push(resolve));
    if (this.#held.length) throw new Error("The channel closed.");
  }

  close() {
    if (this.#closed) return;
    this.#sayClose(0);
    this.#finish(0, false);
  }

  /** Continue over this data channel. */
  bind(carrier) {
    this.unbind();
    this.#carrier = carrier;
    const mine = (handle) => (event) => carrier === this.#carrier && handle(event);
    let greeted = carrier.state === "open"; // an inbound one may already be open, and emit `open` again later
    const open = () => {
      if (!greeted || carrier.ours) this.#opened(); // one that this end opened reopens on every connection
      greeted = true;
    };
    carrier.addEventListener("open", mine(open));
    carrier.addEventListener("message", mine((event) => this.#received(event.detail?.data ?? event.data)));
    if (greeted) this.#opened();
  }

  /** The data channel underneath closed. */
  unbind() {
    this.#carrier = null;
    this.#connection += 1;
    this.#greeted = false;
    this.#control = [];
    this.#offset = 0;
  }

  /** The remote has left. */
  end() {
    this.#finish(0, true);
  }

  #opened() {
    this.#connection += 1;
    this.#greeted = false;
    this.#resyncs = 0;
    this.#asked = false;
    this.#control = [];
    this.#sayHello();
    this.#pump();
  }

  // --- outbound -----------------------------------------------------------------------------------------------------

  #fits(size) {
    return !this.#held.length || (this.#held.length < WINDOW.messages && this.#bytes + size <= WINDOW.bytes);
  }

  async #pump() {
    const connection = this.#connection;
    const carrier = this.#carrier;
    if (!carrier || carrier.state !== "open" || this.#pumping === connection) return;
    this.#pumping = connection;
    try {
      for (let frame; connection === this.#connection && (frame = this.#nextFrame()); ) {
        const taken = carrier.send(frame);
        if (carrier.bufferedAmount > MAX_FRAME * 8) await taken;
        else taken.catch(() => {}); // it is sent again on the next connection
      }
    } catch {
      // the connection ended; unsent messages are sent on the next one
    } finally {
      if (this.#pumping === connection) this.#pumping = -1;
    }
  }

  #nextFrame() {
    if (this.#control.length) return this.#control.shift();
    const item = this.#greeted && this.#held[this.#cursor - this.#base];
    if (!item) return null;
    const { payload } = item;
    const whole = !this.#offset && payload.length + 10 <= MAX_FRAME;
    const size = whole ? payload.length : Math.min(MAX_FRAME - 18, payload.length - this.#offset);
    const ends = this.#offset + size === payload.length;
    const frame = new Uint8Array((whole ? 10 : 18) + size);
    const view = new DataView(frame.buffer);
    view.setUint8(0, whole ? MESSAGE : CHUNK);
    view.setUint8(1, item.flags | this.#urgency(size, ends));
    setNumber(view, 2, this.#cursor);
    if (!whole) {
      view.setUint32(10, this.#offset);
      view.setUint32(14, payload.length);
    }
    frame.set(payload.subarray(this.#offset, this.#offset + size), frame.length - size);
    this.#high = Math.max(this.#high, this.#cursor + 1);
    this.#offset = ends ? 0 : this.#offset + size;
    if (ends) this.#cursor += 1;
    return frame;
  }

  /** Request an acknowledgement at each quarter of the window. */
  #urgency(size, ends) {
    const unasked = this.#unasked;
    unasked.messages += ends ? 1 : 0;
    unasked.bytes += size;
    if (unasked.messages * 4 < WINDOW.messages && unasked.bytes * 4 < WINDOW.bytes) return 0;
    this.#unasked = { messages: 0, bytes: 0 };
    return URGENT;
  }

  #acknowledged(next) {
    if (next > Math.max(this.#high, this.#base)) throw new Error(`${next} was never sent`);
    if (next > this.#cursor) [this.#cursor, this.#offset] = [next, 0];
    for (; this.#base < next; this.#base += 1) this.#bytes -= this.#held.shift().payload.length;
    for (const resolve of this.#waiting.splice(0)) resolve();
    if (!this.#held.length) for (const resolve of this.#draining.splice(0)) resolve();
  }

  // --- inbound ------------------------------------------------------------------------------------------------------

  #received(data) {
    try {
      if (typeof data === "string") throw new Error("a text frame");
      this.#take(bytesOf(data));
    } catch (error) {
      this.#sayClose(1);
      this.#finish(1, true, error);
    }
    this.#pump();
  }

  #take(frame) {
    const view = new DataView(frame.buffer, frame.byteOffset, frame.byteLength);
    const type = view.getUint8(0);
    if (type === MESSAGE) this.#part(view, 0, frame.length - 10, frame.subarray(10));
    else if (type === CHUNK) this.#chunk(view, frame.subarray(18));
    else if (type === ACK) this.#acknowledged(getNumber(view, 1));
    else if (type === HELLO && frame.length === 41) this.#hello(view, frame);
    else if (type === SKIP) this.#skip(getNumber(view, 1));
    else if (type === CLOSE) this.#finish(view.getUint8(1), true);
    else throw new Error(`a frame of type ${type}`);
  }

  #chunk(view, payload) {
    const [offset, total] = [view.getUint32(10), view.getUint32(14)];
    const end = offset + payload.length;
    if (!payload.length || end > total || (end < total && payload.length < MIN_CHUNK)) throw new Error("a bad chunk");
    this.#part(view, offset, total, payload);
  }

  #part(view, offset, total, payload) {
    const [flags, number] = [view.getUint8(1), getNumber(view, 2)];
    if (total > MAX_MESSAGE) throw new Error(`a message of ${total} bytes`);
    if (!this.#remote.some(Boolean)) throw new Error("a message before the hello");
    if (number > this.#next || (number === this.#next && offset > this.#have)) {
      if (!this.#asked) this.#askAgain();
      return;
    }
    if (number < this.#next || offset + payload.length < this.#have) {
      this.stats.duplicates += offset === 0 ? 1 : 0;
      this.#arrived(0, flags & URGENT);
      return;
    }
    this.#partial.push(payload.slice(this.#have - offset));
    this.#have = offset + payload.length;
    if (this.#have === total) this.#deliver(flags & TEXT, total);
    this.#arrived(payload.length, flags & URGENT);
  }

  #deliver(text, total) {
    const message = this.#partial.length === 1 ? this.#partial[0] : joined(this.#partial, total);
    [this.#partial, this.#have, this.#asked] = [[], 0, false];
    this.#next += 1;
    this.stats.received += 1;
    const data = text ? new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(message) : message;
    if (this.#heard && !this.#unread.length) return this.emit("message", { data });
    this.#unreadBytes += total;
    if (this.#unreadBytes > MAX_UNREAD) throw new Error("nobody listens");
    this.#unread.push(data);
  }

  #arrived(size, urgent) {
    this.#unacked.messages += 1;
    this.#unacked.bytes += size;
    const { messages, bytes } = this.#unacked;
    if (urgent || messages >= ACK_AFTER.messages || bytes >= ACK_AFTER.bytes) this.#acknowledge();
    else this.#ackTimer ||= setTimeout(() => this.#acknowledge(), ACK_AFTER.ms);
  }

  /** While messages wait for a listener they are not acknowledged, so that the remote's window fills and it stops sending. */
  #acknowledge() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = 0;
    if (this.#unread.length || !this.#unacked.messages || this.#carrier?.state !== "open") return;
    this.#unacked = { messages: 0, bytes: 0 };
    const frame = new DataView(new ArrayBuffer(9));
    frame.setUint8(0, ACK);
    setNumber(frame, 1, this.#next);
    this.#control.push(new Uint8Array(frame.buffer));
    this.#pump();
  }

  #skip(base) {
    if (base <= this.#next) return;
    const count = base - this.#next;
    [this.#next, this.#partial, this.#have] = [base, [], 0];
    this.stats.missed += count;
    this.emit("missed", { count });
  }

  // --- hello --------------------------------------------------------------------------------------------------------

  #sayHello() {
    const frame = new Uint8Array(41);
    const view = new DataView(frame.buffer);
    view.setUint8(0, HELLO);
    frame.set(this.#session, 1);
    setNumber(view, 9, this.#base);
    frame.set(this.#remote, 17);
    setNumber(view, 25, this.#next);
    view.setUint32(33, this.#have);
    view.setUint32(37, MAX_MESSAGE);
    this.#control.push(frame);
  }

  #askAgain() {
    this.#asked = true;
    this.#countResync();
    this.#sayHello();
  }

  #countResync() {
    this.#resyncs += 1;
    if (this.#resyncs > MAX_RESYNCS) throw new Error("too many repetitions asked for");
  }

  #hello(view, frame) {
    if (this.#greeted) this.#countResync();
    const session = frame.slice(1, 9);
    const known = same(frame.subarray(17, 25), this.#session);
    const isNew = !same(session, this.#remote);
    const restarted = isNew && this.#remote.some(Boolean);
    if (isNew) [this.#remote, this.#next, this.#partial, this.#have] = [session, getNumber(view, 9), [], 0];
    else this.#skip(getNumber(view, 9));
    const next = getNumber(view, 25);
    if (known) this.#acknowledged(next);
    this.#cursor = this.#base;
    const offset = view.getUint32(33);
    this.#offset = known && next === this.#base && offset < (this.#held[0]?.payload.length ?? 0) ? offset : 0;
    const resent = Math.max(0, this.#high - this.#cursor);
    this.stats.resent += resent;
    this.#theirMax = Math.min(MAX_MESSAGE, view.getUint32(37));
    const again = this.#greeted;
    this.#greeted = true;
    if (!again) this.emit(this.#connections++ ? "resumed" : "open", { resent, restarted });
  }

  #sayClose(reason) {
    if (this.#carrier?.state === "open") this.#carrier.send(Uint8Array.of(CLOSE, reason)).catch(() => {});
  }

  #finish(reason, told, error) {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#ackTimer);
    const carrier = this.#carrier;
    this.#carrier = null;
    carrier?.close();
    for (const resolve of [...this.#waiting.splice(0), ...this.#draining.splice(0)]) resolve();
    this.emit("ended", {});
    if (told) this.emit("close", { reason, error });
  }
}

/**
 * The channels of a room that survive their connections. `open(peerId, label)` on either end creates one.
 * Events: `channel` {peerId, channel}: the remote opened one that is not open here.
 */
export class FrameChannels extends Emitter {
  #room;
  #byPeer = new Map(); // peer id -> Map(label -> FrameChannel)

  constructor(room) {
    super();
    this.#room = room;
    room.addEventListener("channel", ({ detail: { peerId, channel } }) => {
      if (channel.options.protocol === PROTOCOL) this.#arrived(peerId, channel);
    });
    room.addEventListener("peerleft", ({ detail: { peerId } }) => {
      for (const channel of this.#of(peerId).values()) channel.end();
      this.#byPeer.delete(peerId);
    });
    room.addEventListener("peerrenamed", ({ detail: { previous, peerId } }) => {
      this.#byPeer.set(peerId, this.#of(previous));
      this.#byPeer.delete(previous);
    });
  }

  /** Return the channel to a peer with a label, opening it if needed. */
  open(peerId, label) {
    const present = this.#of(peerId).get(label);
    if (present) return present;
    const channel = this.#make(peerId, label);
    this.#carry(peerId, channel);
    return channel;
  }

  #of(peerId) {
    if (!this.#byPeer.has(peerId)) this.#byPeer.set(peerId, new Map());
    return this.#byPeer.get(peerId);
  }

  #make(peerId, label) {
    const channel = new FrameChannel(label);
    this.#of(peerId).set(label, channel);
    channel.addEventListener("ended", () => {
      for (const channels of this.#byPeer.values()) if (channels.get(label) === channel) channels.delete(label);
    });
    return channel;
  }

  #carry(peerId, channel) {
    if (channel.carrier || channel.state === "closed") return;
    channel.bind(this.#watched(peerId, channel, this.#room.openChannel(peerId, channel.label, { protocol: PROTOCOL })));
  }

  #arrived(peerId, carrier) {
    const known = this.#of(peerId).get(carrier.label);
    const channel = known ?? this.#make(peerId, carrier.label);
    const previous = channel.carrier;
    // If both ends have opened one, that of the polite end is used.
    if (previous?.ours && this.#room.peerId < peerId && channel.state !== "open") return;
    channel.bind(this.#watched(peerId, channel, carrier));
    previous?.close();
    if (!known) this.emit("channel", { peerId, channel });
  }

  #watched(peerId, channel, carrier) {
    carrier.addEventListener("close", () => {
      if (channel.carrier !== carrier) return;
      channel.unbind();
      const patience = this.#room.peerId < peerId ? 0 : INBOUND_MS;
      setTimeout(() => this.#room.peers.has(peerId) && this.#carry(peerId, channel), patience);
    });
    return carrier;
  }
}

const bytesOf = (data) => (data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength));

const same = (a, b) => a.every((byte, index) => byte === b[index]);

function joined(parts, total) {
  const whole = new Uint8Array(total);
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

/** Message numbers have 64 bits on the wire and stay below 2**53. */
function setNumber(view, offset, number) {
  view.setUint32(offset, Math.floor(number / 2 ** 32));
  view.setUint32(offset + 4, number % 2 ** 32);
}

function getNumber(view, offset) {
  const number = view.getUint32(offset) * 2 ** 32 + view.getUint32(offset + 4);
  if (!Number.isSafeInteger(number)) throw new Error("a number beyond 2**53");
  return number;
}
