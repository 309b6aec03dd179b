// The methods that a page offers: running them, and their responses.

const MAX_RUNNING = 64; // at once, as in the Python package

/** An error of a call. Thrown by a method, it is sent to the caller; thrown by `call`, it came from the remote. */
export class RpcError extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { name: "RpcError", code, data });
  }
}

export class Methods {
  #running = new Map(); // AbortController -> id, which the remote may use more than once

  /** Run a method. Resolves to its response: {id, text}. */
  async run(methods, id, name, params) {
    const method = Object.hasOwn(methods, name) ? methods[name] : undefined;
    if (typeof method !== "function") return failure(id, -32601, "Method not supported at destination");
    if (this.#running.size >= MAX_RUNNING) return failure(id, 1429, "Too many calls at once");
    const control = new AbortController();
    this.#running.set(control, id);
    try {
      const result = await method.apply({ signal: control.signal }, Array.isArray(params) ? params : [params]);
      return answer(id, "result", result);
    } catch (error) {
      if (error instanceof RpcError) return failure(id, error.code, error.message, error.data);
      console.warn(`The method ${name} failed.`, error);
      return failure(id, -32000, "Application error in method handler");
    } finally {
      this.#running.delete(control);
    }
  }

  cancel(id) {
    for (const [control, running] of this.#running) if (running === id) control.abort();
  }

  cancelAll() {
    for (const control of this.#running.keys()) control.abort();
  }
}

export function failure(id, code, message, data) {
  try {
    return answer(id, "error", { code, message, data }); // JSON omits undefined fields
  } catch {
    return answer(id, "error", { code, message });
  }
}

/** Throws if the value cannot be represented in JSON. */
function answer(id, member, value) {
  const name = typeof id === "symbol" ? null : id; // of a notification, which has no response
  return { id, text: `{"jsonrpc":"2.0","id":${JSON.stringify(name)},"${member}":${JSON.stringify(value) ?? "null"}}` };
}
