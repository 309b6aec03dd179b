// Calls between this page and another peer over a data channel: JSON-RPC 2.0, one message each, made and served here.
//
//   const rpc = new Rpc(await room.openChannel(peerId, "rpc", { protocol: "jsonrpc-2.0" }).opened());
//   rpc.methods.greet = (name) => `Hello, ${name}!`;           // the other end may call it; async functions too
//   await rpc.call("sum", [1, 2]);                             // by position, or by name: call("sum", { a: 1, b: 2 })
//   await rpc.call("slow", [], { timeout: 60_000, signal });   // ms; an AbortSignal cancels the handler too
//
// A channel that the other end opened is served from the room's `channel` event on, so that nothing is lost; a browser's
// own RTCDataChannel will do as well. Parameters by name come as one object. A function finds an AbortSignal in
// `this.signal`. What it throws arrives as an error without its words, unless it is an RpcError.
// Large messages go in pieces to ends that greet with `$/hello {chunks: true}`: see docs/rpc.md.

const MAX_RUNNING = 64; // functions at once, as at the other end
const MAX_BATCH = 256; // items
const MAX_MESSAGE = 8 * 1024 * 1024; // bytes, in pieces
const MAX_WHOLE = 262_144; // bytes in one message: what browsers and aiortc take
const MAX_PARTIAL = 8; // messages that may arrive in pieces at once
const PIECE = 64_000; // bytes
const MAX_BUFFERED = 1_048_576; // bytes handed to the browser and not yet sent
const DEFAULT_TIMEOUT = 15_000; // ms; the other end knows it
const GREETING = 2_000; // ms for the other end to say that it takes pieces

/** An error of a call: thrown by a function it arrives at the caller, thrown by `call` it is the other end's. */
export class RpcError extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { name: "RpcError", code, data });
  }
}

export class Rpc {
  #channel;
  #waiting = new Map(); // id -> {resolve, reject, timer}
  #running = new Map(); // id -> AbortController
  #partial = new Map(); // number -> {pieces, size}
  #lastId = 0;
  #lastMessage = 0;
  #greeted = false;
  #takesPieces = false;
  #met;
  #meeting = new Promise((resolve) => (this.#met = resolve));

  /** @param {import("./channel.js").Channel|RTCDataChannel} channel @param {Object<string, Function>} [methods] */
  constructor(channel, methods = {}) {
    this.#channel = channel;
    this.methods = methods;
    if ("binaryType" in channel) channel.binaryType = "arraybuffer";
    channel.addEventListener("message", (event) => this.#arrived(event.detail?.data ?? event.data));
    channel.addEventListener("close", () => this.#end());
  }

  /** Call a method of the other end. @returns {Promise<any>} its result; rejects with an RpcError or the signal's reason */
  call(method, params = [], { timeout = DEFAULT_TIMEOUT, signal } = {}) {
    this.#greet();
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const giveUp = (error) => this.#settle(id, { error }) && this.notify("$/cancelRequest", { id });
      const timer = setTimeout(() => giveUp(new RpcError(1502, "Response timeout")), timeout);
      this.#waiting.set(id, { resolve, reject, timer });
      if (signal?.aborted) return void this.#settle(id, { error: signal.reason });
      signal?.addEventListener("abort", () => giveUp(signal.reason), { once: true });
      if (timeout !== DEFAULT_TIMEOUT) this.notify("$/timeout", { id, ms: timeout });
      this.#send({ jsonrpc: "2.0", id, method, params }, 1402).catch((error) => this.#settle(id, { error }));
    });
  }

  /** Call a method without wanting an answer. */
  notify(method, params = []) {
    return this.#send({ jsonrpc: "2.0", method, params }, 1402).catch(() => {});
  }

  // --- out ----------------------------------------------------------------------------------------------------------

  #greet() {
    if (this.#greeted) return;
    this.#greeted = true;
    this.notify("$/hello", { chunks: true });
  }

  async #send(message, tooLarge) {
    const text = JSON.stringify(message);
    if (text.length * 3 <= PIECE) return this.#write(text);
    const bytes = new TextEncoder().encode(text);
    if (bytes.length > MAX_WHOLE) await Promise.race([this.#meeting, sleep(GREETING)]);
    if (bytes.length > (this.#takesPieces ? MAX_MESSAGE : MAX_WHOLE)) throw new RpcError(tooLarge, "Payload too large");
    if (!this.#takesPieces) return this.#write(text);
    const number = ++this.#lastMessage;
    for (let start = 0; start < bytes.length; start += PIECE) {
      const part = bytes.subarray(start, start + PIECE);
      const piece = new Uint8Array(6 + part.length);
      piece.set([0xc1, start + PIECE >= bytes.length ? 1 : 0, number >>> 24, number >>> 16, number >>> 8, number]);
      piece.set(part, 6);
      await this.#write(piece);
    }
  }

  async #write(data) {
    while (this.#channel.bufferedAmount > MAX_BUFFERED) await sleep(10);
    try {
      await this.#channel.send(data);
    } catch {
      throw new RpcError(1505, "Failed to send");
    }
  }

  #answer(answers, batch) {
    if (!answers.length) return;
    this.#send(batch ? answers : answers[0], 1504).catch((error) => {
      const short = answers.map(({ id }) => fault(id, error.code, error.message));
      this.#write(JSON.stringify(batch ? short : short[0])).catch(() => {});
    });
  }

  // --- in -----------------------------------------------------------------------------------------------------------

  async #arrived(data) {
    const text = typeof data === "string" ? data : this.#assembled(new Uint8Array(data));
    if (text === undefined) return;
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return void this.#answer([fault(null, -32700, "Parse error")]);
    }
    const batch = Array.isArray(message) && message.length > 0 && message.length <= MAX_BATCH;
    const answers = await Promise.all((batch ? message : [message]).map((item) => this.#take(item)));
    this.#answer(answers.filter(Boolean), batch);
  }

  #assembled(bytes) {
    if (bytes[0] !== 0xc1) return new TextDecoder().decode(bytes);
    const number = bytes.subarray(2, 6).join();
    const { pieces, size } = this.#partial.get(number) ?? { pieces: [], size: 0 };
    this.#partial.delete(number);
    if (bytes[1] & 2 || size + bytes.length > MAX_MESSAGE || this.#partial.size >= MAX_PARTIAL) return undefined;
    pieces.push(bytes.subarray(6));
    if (!(bytes[1] & 1)) return void this.#partial.set(number, { pieces, size: size + bytes.length });
    const decoder = new TextDecoder();
    return pieces.map((piece) => decoder.decode(piece, { stream: true })).join("") + decoder.decode();
  }

  /** Take a request, a notification or an answer. Resolves to what is to be answered. */
  async #take(item) {
    const { jsonrpc, id, method, params = [] } = Object(item);
    if (method === undefined && item !== null && ("result" in Object(item) || "error" in Object(item))) {
      return void this.#settle(id, item);
    }
    const named = typeof id === "string" || Number.isInteger(id);
    const valid = jsonrpc === "2.0" && typeof method === "string" && typeof params === "object" && params !== null;
    if (!valid || (!named && id !== undefined)) return fault(named ? id : null, -32600, "Invalid Request");
    if (method.startsWith("$/") && !named) return void this.#control(method, params);
    const outcome = await this.#run(named ? id : Symbol("notification"), method, params);
    return named ? { jsonrpc: "2.0", id, ...outcome } : undefined;
  }

  #control(method, params) {
    if (method === "$/cancelRequest") this.#running.get(params.id)?.abort();
    if (method !== "$/hello") return;
    this.#takesPieces = params.chunks === true;
    this.#met();
    this.#greet();
  }

  async #run(id, method, params) {
    const handler = Object.hasOwn(this.methods, method) ? this.methods[method] : undefined;
    if (typeof handler !== "function") return problem(-32601, "Method not supported at destination");
    if (this.#running.size >= MAX_RUNNING) return problem(1429, "Too many calls at once");
    const control = new AbortController();
    this.#running.set(id, control);
    try {
      const result = await handler.apply({ signal: control.signal }, Array.isArray(params) ? params : [params]);
      return { result: result ?? null };
    } catch (error) {
      if (error instanceof RpcError) return problem(error.code, error.message, error.data);
      console.warn(`The method ${method} failed.`, error);
      return problem(-32000, "Application error in method handler");
    } finally {
      this.#running.delete(id);
    }
  }

  #settle(id, { result, error }) {
    const call = this.#waiting.get(id);
    if (!call) return false;
    this.#waiting.delete(id);
    clearTimeout(call.timer);
    if (error === undefined) call.resolve(result);
    else call.reject(Number.isInteger(error?.code) ? new RpcError(error.code, error.message, error.data) : error);
    return true;
  }

  #end() {
    for (const id of [...this.#waiting.keys()]) this.#settle(id, { error: new RpcError(1503, "Recipient disconnected") });
    for (const control of this.#running.values()) control.abort();
  }
}

function problem(code, message, data) {
  return { error: { code, message, data } }; // JSON leaves out what is undefined
}

function fault(id, code, message) {
  return { jsonrpc: "2.0", id, ...problem(code, message) };
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
