// RPC client and server over a data channel: JSON-RPC 2.0, one message each.
//
//   const rpc = new Rpc(await room.openChannel(peerId, "rpc", { protocol: "jsonrpc-2.0" }).opened());
//   rpc.methods.greet = (name) => `Hello, ${name}!`;           // callable by the remote; may be async
//   await rpc.call("sum", [1, 2]);                             // by position, or by name: call("sum", { a: 1, b: 2 })
//   await rpc.call("slow", [], { timeout: 60_000, signal });   // ms; an AbortSignal cancels the handler too
//
// To lose no call, create the `Rpc` of a channel that the remote opened in the room's `channel` event. A plain RTCDataChannel
// works too. Named parameters arrive as one object. A function has an AbortSignal as `this.signal`. The text of what it
// throws is not sent to the caller, unless it is an RpcError.

import { failure, Methods, RpcError } from "./rpc_methods.js";
import { Wire } from "./rpc_wire.js";

const MAX_BATCH = 256; // items
const DEFAULT_TIMEOUT = 15_000; // ms; sent to the remote

export { RpcError };

export class Rpc {
  #wire;
  #waiting = new Map(); // id -> {resolve, reject, stop}
  #running = new Methods();
  #lastId = 0;
  #greeted = false;

  /** @param {import("./channel.js").Channel|RTCDataChannel} channel @param {Object<string, Function>} [methods] */
  constructor(channel, methods = {}) {
    this.methods = methods;
    this.#wire = new Wire(channel, (text) => this.#arrived(text), () => this.#end());
  }

  /** Call a method of the remote. Resolves to its result, rejects with an RpcError or the signal's reason. */
  call(method, params = [], { timeout = DEFAULT_TIMEOUT, signal } = {}) {
    if (signal?.aborted) return Promise.reject(signal.reason);
    this.#greet();
    const id = ++this.#lastId;
    return new Promise((resolve, reject) => {
      const giveUp = (error) => this.#settle(id, { error }) && this.notify("$/cancelRequest", { id });
      const timer = setTimeout(() => giveUp(new RpcError(1502, "Response timeout")), timeout);
      const aborted = () => giveUp(signal.reason);
      signal?.addEventListener("abort", aborted);
      const stop = () => (clearTimeout(timer), signal?.removeEventListener("abort", aborted));
      this.#waiting.set(id, { resolve, reject, stop });
      if (timeout !== DEFAULT_TIMEOUT) this.notify("$/timeout", { id, ms: timeout });
      this.#send({ jsonrpc: "2.0", id, method, params }).catch((error) => this.#settle(id, { error }));
    });
  }

  /** Send a notification: a call without an answer. */
  notify(method, params = []) {
    return this.#send({ jsonrpc: "2.0", method, params }).catch(() => {});
  }

  async #send(request) {
    const text = JSON.stringify(request);
    await this.#wire.send(text).catch((error) => {
      throw error instanceof RangeError ? new RpcError(1402, error.message) : new RpcError(1505, "Failed to send");
    });
  }

  #greet() {
    if (!this.#greeted) this.notify("$/hello", { chunks: true });
    this.#greeted = true;
  }

  #end() {
    for (const id of this.#waiting.keys()) this.#settle(id, { error: new RpcError(1503, "Recipient disconnected") });
    this.#running.cancelAll();
  }

  async #arrived(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return this.#answer([failure(null, -32700, "Parse error")], false);
    }
    const batch = Array.isArray(message) && message.length > 0 && message.length <= MAX_BATCH;
    const answers = await Promise.all((batch ? message : [message]).map((item) => this.#take(item)));
    this.#answer(answers.filter(Boolean), batch);
  }

  #answer(answers, batch) {
    const send = (texts) => this.#wire.send(batch ? `[${texts}]` : texts[0]);
    if (!answers.length) return;
    send(answers.map(({ text }) => text))
      .catch(() => send(answers.map(({ id }) => failure(id, 1504, "Response payload too large").text)))
      .catch(() => {}); // the channel is closed
  }

  /** Handle a request, a notification or an answer. Resolves to the response, if there is one. */
  async #take(item) {
    const { jsonrpc, id, method, params = [], ...rest } = Object(item);
    if (method === undefined && "error" in rest) return void this.#settle(id, { error: received(rest.error) });
    if (method === undefined && "result" in rest) return void this.#settle(id, rest);
    const named = typeof id === "string" || Number.isInteger(id);
    const valid = jsonrpc === "2.0" && typeof method === "string" && typeof params === "object" && params !== null;
    if (!valid || (!named && id !== undefined)) return failure(named ? id : null, -32600, "Invalid Request");
    if (method.startsWith("$/") && !named) return void this.#control(method, params);
    const answer = await this.#running.run(this.methods, named ? id : Symbol("notification"), method, params);
    return named ? answer : undefined;
  }

  #control(method, params) {
    if (method === "$/cancelRequest") this.#running.cancel(params.id);
    if (method !== "$/hello") return;
    this.#wire.meet(params.chunks === true);
    this.#greet();
  }

  #settle(id, { result, error }) {
    const call = this.#waiting.get(id);
    if (!call) return false;
    this.#waiting.delete(id);
    call.stop();
    if (error === undefined) call.resolve(result);
    else call.reject(error);
    return true;
  }
}

function received(error) {
  if (!Number.isInteger(error?.code)) return new RpcError(1510, "Invalid reply");
  return new RpcError(error.code, error.message, error.data);
}
