// The chat box: messages to everybody over the server, messages to one person over a data channel labelled "chat".

const MAX_MESSAGES = 200;
const MAX_TEXT = 4000;
const LABEL = "chat";

export class Chat {
  #room;
  #list = document.getElementById("messages");
  #to = document.getElementById("chat-to");
  #text = document.getElementById("chat-text");
  #onMessage;
  #nameOf;

  /** @param {import("./mesh.js").Room} room @param {{nameOf(id: string): string, onMessage(): void, onProblem(text: string): void}} seams */
  constructor(room, { nameOf, onMessage, onProblem }) {
    this.#room = room;
    this.#nameOf = nameOf;
    this.#onMessage = onMessage;
    document.getElementById("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit().catch((error) => onProblem(error.message));
    });
    room.addEventListener("data", ({ detail }) => this.#received(detail));
    room.addEventListener("channelmessage", ({ detail }) => {
      if (detail.label === LABEL && typeof detail.data === "string") this.#incoming(detail.peerId, this.#nameOf(detail.peerId), detail.data, true);
    });
  }

  /** Who can be written to alone. @param {{id: string, name: string}[]} people */
  people(people) {
    const chosen = this.#to.value;
    this.#to.replaceChildren(new Option("Everyone", ""), ...people.map(({ id, name }) => new Option(`${name} only`, id)));
    this.#to.value = people.some(({ id }) => id === chosen) ? chosen : "";
  }

  /** The recipient goes on under another id. */
  renamed(previous, id) {
    for (const option of this.#to.options) if (option.value === previous) option.value = id;
  }

  note(text) {
    this.#append({ kind: "note", text });
  }

  clear() {
    this.#list.replaceChildren();
    this.people([]);
  }

  async #submit() {
    const text = this.#text.value.trim();
    if (!text) return;
    const to = this.#to.value;
    this.#text.value = ""; // now: the next message may be typed while this one is on its way
    try {
      if (to) await this.#whisper(to, text);
      else await this.#room.send({ type: "chat", text, name: this.#room.profile.name || undefined });
    } catch (error) {
      this.#text.value ||= text;
      throw error;
    }
    this.#append({ kind: "mine", private: Boolean(to), name: to ? `You to ${this.#nameOf(to)}` : "You", text });
  }

  async #whisper(to, text) {
    const open = this.#room.channels(to).find((c) => c.label === LABEL && c.state !== "closed");
    const channel = open ?? this.#room.openChannel(to, LABEL);
    await Promise.race([channel.opened(), timeout(10_000)]);
    await channel.send(text);
  }

  #received({ from, data, kind }) {
    const text = typeof data === "string" ? data : data?.type === "chat" || data?.text !== undefined ? data.text : null;
    if (typeof text !== "string") return;
    const given = typeof data.name === "string" && data.name.trim() ? data.name.trim().slice(0, 60) : null;
    this.#incoming(from, given ?? this.#nameOf(from), text, kind === "direct");
  }

  #incoming(from, name, text, isPrivate) {
    this.#append({ kind: "theirs", private: isPrivate, name: isPrivate ? `${name} to you` : name, text });
    this.#onMessage();
  }

  #append({ kind, name, text, private: isPrivate = false }) {
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 60;
    const item = make("li", `message ${kind}${isPrivate ? " private" : ""}`);
    if (name) {
      const who = make("div", "who");
      who.append(make("b", "", name), make("time", "", new Date().toTimeString().slice(0, 5)));
      item.append(who);
    }
    item.append(make("div", "text", text.slice(0, MAX_TEXT)));
    this.#list.append(item);
    while (this.#list.childElementCount > MAX_MESSAGES) this.#list.firstElementChild.remove();
    if (atEnd || kind === "mine") this.#list.scrollTop = this.#list.scrollHeight;
  }
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function timeout(ms) {
  return new Promise((_, reject) => setTimeout(() => reject(new Error("They cannot be reached directly at the moment.")), ms));
}
