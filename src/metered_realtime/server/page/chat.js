// The chat box: messages to all peers over the server, messages to one peer over a data channel with the label "chat".
//
// The selected recipient stays selected after leaving, and sending then fails: a private message never goes to all peers.

import { shown } from "./names.js";

const MAX_MESSAGES = 200;
const MAX_TEXT = 4000;
const MAX_NAME = 60;
const LABEL = "chat";
const HIDDEN_MS = 250; // between redraws while the page is hidden

export class Chat {
  #room;
  #list = document.getElementById("messages");
  #to = document.getElementById("chat-to");
  #text = document.getElementById("chat-text");
  #onMessage;
  #nameOf;
  #knownName;
  #people = []; // {id, name, away}
  #chosen = { id: "", name: "" };
  #fresh = []; // messages to be drawn
  #drawing = false;

  /**
   * @param {import("./mesh.js").Room} room
   * @param {{nameOf(id: string): string, knownName(id: string): string|null, onMessage(): void, onProblem(text: string): void}} seams
   */
  constructor(room, { nameOf, knownName, onMessage, onProblem }) {
    this.#room = room;
    this.#nameOf = nameOf;
    this.#knownName = knownName;
    this.#onMessage = onMessage;
    document.getElementById("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit().catch((error) => onProblem(error.message));
    });
    this.#to.addEventListener("change", () => {
      this.#chosen = { id: this.#to.value, name: this.#people.find(({ id }) => id === this.#to.value)?.name ?? "" };
      this.people(this.#people);
    });
    room.addEventListener("data", ({ detail }) => this.#received(detail));
    room.addEventListener("missed", ({ detail: { count } }) => this.#append({ kind: "note", text: missed(count) }));
    room.addEventListener("channelmessage", ({ detail }) => {
      if (detail.label === LABEL && typeof detail.data === "string") this.#incoming(this.#nameOf(detail.peerId), detail.data, true);
    });
  }

  /** Set the possible recipients of private messages. @param {{id: string, name: string, away?: boolean}[]} people */
  people(people) {
    this.#people = people;
    const { id, name } = this.#chosen;
    const present = people.find((person) => person.id === id);
    if (present) this.#chosen.name = present.name;
    const options = people.map((person) => new Option(this.#label(person), person.id));
    if (id && !present) options.push(new Option(`${name} (has left)`, id));
    this.#to.replaceChildren(new Option("Everyone", ""), ...options);
    this.#to.value = id;
  }

  /** Distinguish people with the same name, so that a message does not go to the wrong one. */
  #label({ id, name }) {
    const alone = this.#people.filter((person) => person.name === name).length === 1;
    return alone ? `${name} only` : `${name} (${shown(id, 6)}) only`;
  }

  /** The recipient has a new id. */
  renamed(previous, id) {
    if (this.#chosen.id === previous) this.#chosen.id = id;
  }

  /** Reset after leaving: a message begun for one person must not go to all members of the next channel. */
  clear() {
    this.#fresh.length = 0;
    this.#list.replaceChildren();
    if (this.#chosen.id) this.#text.value = "";
    this.#chosen = { id: "", name: "" };
    this.people([]);
  }

  async #submit() {
    const text = this.#text.value.trim();
    if (!text) return;
    const to = this.#to.value;
    const name = this.#chosen.name;
    if (to && !this.#people.some(({ id }) => id === to)) {
      throw new Error(`${name} has left. Your message was not sent: choose who should get it.`);
    }
    this.#text.value = ""; // now: the next message may be typed while this one is sent
    const mine = { kind: "mine", private: Boolean(to), name: to ? `You to ${name}` : "You", text };
    try {
      if (to) await this.#whisper(to, text);
      else await this.#room.send({ type: "chat", text, name: this.#room.profile.name || undefined });
    } catch (error) {
      if (this.#to.value === to) this.#text.value ||= text;
      else this.#append({ ...mine, kind: "mine unsent", name: `${mine.name}, not sent` }); // the next message is for others
      throw to && !this.#room.peers.has(to) ? new Error(`${name} has left. Your message was not sent.`) : error;
    }
    this.#append(mine);
  }

  async #whisper(to, text) {
    const open = this.#room.channels(to).find((c) => c.label === LABEL && c.state !== "closed");
    const channel = open ?? this.#room.openChannel(to, LABEL);
    await Promise.race([channel.opened(), timeout(10_000)]);
    await channel.send(text);
  }

  #received({ from, data, kind }) {
    const text = typeof data === "string" ? data : data?.text;
    if (typeof text !== "string") return;
    // The known name takes precedence over one in the message, so that no peer can pose as another.
    const name = this.#knownName(from) ?? shown(data.name, MAX_NAME) ?? this.#nameOf(from);
    this.#incoming(name, text, kind === "direct");
  }

  #incoming(name, text, isPrivate) {
    this.#append({ kind: "theirs", private: isPrivate, name: isPrivate ? `${name} to you` : name, text });
    this.#onMessage();
  }

  /** Show a message with all others until the next frame: the cost of a redraw grows with the list. */
  #append(message) {
    this.#fresh.push({ ...message, text: message.text.slice(0, MAX_TEXT), at: new Date().toTimeString().slice(0, 5) });
    if (this.#fresh.length > MAX_MESSAGES) this.#fresh.shift();
    if (this.#drawing) return;
    this.#drawing = true;
    const draw = () => this.#draw();
    if (document.hidden) setTimeout(draw, HIDDEN_MS);
    else requestAnimationFrame(draw);
  }

  #draw() {
    this.#drawing = false;
    const fresh = this.#fresh.splice(0);
    const atEnd = this.#list.scrollHeight - this.#list.scrollTop - this.#list.clientHeight < 60;
    this.#list.append(...fresh.map(item));
    while (this.#list.childElementCount > MAX_MESSAGES) this.#list.firstElementChild.remove();
    if (atEnd || fresh.some(({ kind }) => kind.startsWith("mine"))) this.#list.scrollTop = this.#list.scrollHeight;
  }
}

/** Say in words how many messages are lost, null if nobody knows. */
function missed(count) {
  if (count === null) return "While the server was away, messages may have been lost.";
  return count === 1 ? "One message was lost while you were away." : `${count} messages were lost while you were away.`;
}

function item({ kind, name, text, at, private: isPrivate }) {
  if (kind === "note") return make("li", "message note", text);
  const element = make("li", `message ${kind}${isPrivate ? " private" : ""}`);
  const who = make("div", "who");
  who.append(make("b", "", name), make("time", "", at));
  element.append(who, make("div", "text", text));
  return element;
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
