// EventTarget with two conveniences: `emit(name, detail)`, and `on<name>` properties next to addEventListener.

export class Emitter extends EventTarget {
  /** Dispatch a CustomEvent. The browser reports exceptions in listeners; other listeners still run. */
  emit(name, detail) {
    const event = new CustomEvent(name, { detail });
    const handler = this[`on${name}`];
    if (typeof handler === "function") {
      try {
        handler.call(this, event);
      } catch (error) {
        reportError(error);
      }
    }
    this.dispatchEvent(event);
  }
}
