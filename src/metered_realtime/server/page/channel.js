// A data channel that outlives its RTCPeerConnection, with bounded buffering.

import { Emitter } from "./events.js";

const MAX_BUFFERED = 1_048_576; // bytes handed to the browser and not yet sent
const MAX_WAITING = 256; // sends waiting for room in that buffer

/**
 * Events: `open`, `close`, `message` {data: string|ArrayBuffer}.
 * A channel that this end opened is reopened after its connection was replaced. One that the remote opened closes, and
 * arrives as a new one if the remote opens it again.
 */
export class Channel extends Emitter {
  #raw = null;
  #waiting = [];
  #closed = false;

  /** @param {string} label @param {RTCDataChannelInit} [options] @param {boolean} [ours] */
  constructor(label, options = {}, ours = true) {
    super();
    this.label = label;
    this.options = options;
    this.ours = ours;
  }

  /** connecting, open, closed */
  get state() {
    if (this.#closed) return "closed";
    return this.#raw?.readyState === "open" ? "open" : "connecting";
  }

  get bufferedAmount() {
    return this.#raw?.bufferedAmount ?? 0;
  }

  /** Resolves when the channel is open, rejects when it closes first. */
  opened() {
    if (this.state === "open") return Promise.resolve(this);
    if (this.#closed) return Promise.reject(new Error("The channel is closed."));
    return new Promise((resolve, reject) => {
      this.addEventListener("open", () => resolve(this), { once: true });
      this.addEventListener("close", () => reject(new Error("The channel closed.")), { once: true });
    });
  }

  /** Replace the RTCDataChannel underneath. */
  bind(raw) {
    this.#raw = raw;
    raw.binaryType = "arraybuffer";
    raw.bufferedAmountLowThreshold = MAX_BUFFERED / 2;
    raw.onopen = () => this.emit("open", {});
    raw.onmessage = (event) => this.emit("message", { data: event.data });
    raw.onbufferedamountlow = () => this.#flush();
    raw.onclose = () => raw === this.#raw && this.#finish();
  }

  /** The connection ended: wait for the next one, or close. */
  unbind() {
    if (this.#raw) this.#raw.onopen = this.#raw.onmessage = this.#raw.onclose = this.#raw.onbufferedamountlow = null;
    this.#raw = null;
    this.#fail("The connection was rebuilt.");
    if (!this.ours) this.#finish();
  }

  /**
   * Send text or bytes, in order. Resolves when the browser has accepted it.
   * @param {string|ArrayBuffer|ArrayBufferView} data
   */
  send(data) {
    if (this.state !== "open") return Promise.reject(new Error(`The channel is ${this.state}.`));
    const size = typeof data === "string" ? data.length * 3 : data.byteLength; // maximum size in UTF-8
    if (!this.#waiting.length && this.#fits(size)) return this.#write(data);
    if (this.#waiting.length >= MAX_WAITING) return Promise.reject(new Error("Too many sends are waiting."));
    return new Promise((resolve, reject) => this.#waiting.push({ data, size, resolve, reject }));
  }

  close() {
    this.#raw?.close();
    this.#finish();
  }

  #fits(size) {
    return this.bufferedAmount === 0 || this.bufferedAmount + size <= MAX_BUFFERED;
  }

  async #write(data) {
    this.#raw.send(data);
  }

  #flush() {
    while (this.#waiting.length && this.state === "open" && this.#fits(this.#waiting[0].size)) {
      const { data, resolve, reject } = this.#waiting.shift();
      this.#write(data).then(resolve, reject);
    }
  }

  #fail(reason) {
    for (const { reject } of this.#waiting.splice(0)) reject(new Error(reason));
  }

  #finish() {
    if (this.#closed) return;
    this.#closed = true;
    this.#fail("The channel closed.");
    this.emit("close", {});
  }
}
