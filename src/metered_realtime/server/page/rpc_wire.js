// Messages of any size over a data channel, in order: as text, and large ones in chunks if the remote supports them.
// A chunk is 0xC1, flags (1: last, 2: aborted), the 32-bit number of its message, and data: see docs/rpc.md.

const MAX_MESSAGE = 8 * 1024 * 1024; // bytes, in chunks
const MAX_WHOLE = 262_144; // bytes in one message: what browsers and aiortc accept
const MAX_PARTIAL = 8; // messages that may arrive in chunks at once
const PIECE = 64_000; // bytes
const MAX_BUFFERED = 1_048_576; // bytes handed to the browser and not yet sent
const MAX_WAITING = 4_096; // messages that wait for it; the channel of a remote that calls without reading is closed
const GREETING = 2_000; // ms for the remote to announce that it supports chunks

export class Wire {
  #channel;
  #closed = false;
  #partial = new Map(); // number -> {parts, size}
  #waiting = 0;
  #lastNumber = 0;
  #lastWrite = Promise.resolve();
  #takesPieces = false;
  #met;
  #meeting = new Promise((resolve) => (this.#met = resolve));

  /** @param {import("./channel.js").Channel|RTCDataChannel} channel */
  constructor(channel, received, ended) {
    this.#channel = channel;
    if ("binaryType" in channel) channel.binaryType = "arraybuffer";
    channel.addEventListener("message", (event) => {
      const data = event.detail?.data ?? event.data;
      const text = typeof data === "string" ? data : this.#read(new Uint8Array(data));
      if (text !== undefined) received(text);
    });
    channel.addEventListener("close", () => {
      this.#closed = true;
      ended();
    });
  }

  /** Handle the greeting of the remote. */
  meet(takesPieces) {
    this.#takesPieces = takesPieces;
    this.#met();
  }

  /** Send a message. Resolves when the browser has accepted it, rejects with a RangeError if the remote cannot receive it. */
  async send(text) {
    if (text.length * 3 <= PIECE) return this.#write(text); // maximum size in UTF-8
    const bytes = new TextEncoder().encode(text);
    if (bytes.length > MAX_WHOLE) await Promise.race([this.#meeting, sleep(GREETING)]);
    if (bytes.length > (this.#takesPieces ? MAX_MESSAGE : MAX_WHOLE)) throw new RangeError("Payload too large");
    if (!this.#takesPieces) return this.#write(text);
    const number = ++this.#lastNumber;
    for (let start = 0; start < bytes.length; start += PIECE) {
      const part = bytes.subarray(start, start + PIECE);
      const last = start + PIECE >= bytes.length ? 1 : 0;
      const piece = new Uint8Array(6 + part.length);
      piece.set([0xc1, last, number >>> 24, number >>> 16, number >>> 8, number]);
      piece.set(part, 6);
      await this.#write(piece); // small messages may be sent in between
    }
  }

  #write(data) {
    if (++this.#waiting > MAX_WAITING) this.#channel.close();
    const write = this.#lastWrite.then(async () => {
      while (this.#channel.bufferedAmount > MAX_BUFFERED && !this.#closed) await sleep(10);
      await this.#channel.send(data);
    });
    this.#lastWrite = write.catch(() => {}).finally(() => (this.#waiting -= 1));
    return write;
  }

  /** Return the text of a binary message, or undefined while it is incomplete. */
  #read(bytes) {
    if (bytes[0] !== 0xc1) return new TextDecoder().decode(bytes);
    const number = bytes.subarray(2, 6).join();
    const { parts, size } = this.#partial.get(number) ?? { parts: [], size: 0 };
    this.#partial.delete(number);
    if (bytes[1] & 2 || size + bytes.length > MAX_MESSAGE || this.#partial.size >= MAX_PARTIAL) return undefined;
    parts.push(bytes.subarray(6));
    if (!(bytes[1] & 1)) return void this.#partial.set(number, { parts, size: size + bytes.length });
    const decoder = new TextDecoder();
    return parts.map((part) => decoder.decode(part, { stream: true })).join("") + decoder.decode();
  }
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
