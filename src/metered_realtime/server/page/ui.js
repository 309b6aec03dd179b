// The user interface: the join form, the controls, and the tiles and the chat of the room.

import { Chat } from "./chat.js";
import { openScreen } from "./media.js";
import { shown } from "./names.js";
import { Tiles } from "./tiles.js";

const STATS_MS = 1000;
const TOAST_MS = 6000;
const MAX_TOASTS = 3;
const ICON_PAIRS = { mic: ["i-mic-off", "i-mic"], cam: ["i-cam-off", "i-cam"] };
const STATUS = { joining: "Joining…", joined: "Connected", reconnecting: "Reconnecting…", idle: "" };
const WORDS = ["amber", "brook", "cedar", "delta", "ember", "fjord", "grove", "harbor", "iris", "juniper", "lagoon", "meadow"];

const $ = (id) => document.getElementById(id);

export class Screen {
  #room;
  #config;
  #tiles;
  #chat;
  #screenShare = null;
  #unread = 0;
  #scheduled = false;

  /** @param {import("./mesh.js").Room} room @param {{key: string|null}} config @param {URLSearchParams} wishes from the location */
  constructor(room, config, wishes) {
    this.#room = room;
    this.#config = config;
    this.#tiles = new Tiles($("grid"), (silenced) => ($("hear").hidden = !silenced));
    this.#chat = new Chat(room, {
      nameOf: (id) => this.#nameOf(id),
      knownName: (id) => this.#room.peers.get(id)?.name ?? null,
      onMessage: () => this.#count(),
      onProblem: (text) => this.toast(text),
    });
    this.#fill(wishes);
    this.#bindForm();
    this.#bindTools();
    this.#bindRoom();
    setInterval(() => this.#measure(), STATS_MS);
  }

  // --- entering -----------------------------------------------------------------------------------------------------

  #fill(wishes) {
    $("name").value = wishes.get("name") ?? remembered("name") ?? "";
    $("channel").value = wishes.get("channel") ?? remembered("channel") ?? invented();
    $("key").value = wishes.get("key") ?? "";
    $("key-field").hidden = Boolean(this.#config.key);
    const media = document.querySelector(`input[name=media][value="${CSS.escape(wishes.get("media") ?? "camera")}"]`);
    if (media) media.checked = true;
  }

  #bindForm() {
    $("join-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
  }

  /** Join with the values of the form. */
  async submit() {
    const channel = $("channel").value.trim();
    const key = $("key").value.trim() || this.#config.key;
    if (!channel) return this.#problem("A room needs a name.", $("channel"));
    if (!key) return this.#problem("This server asks for a key.", $("key"));
    remember("name", $("name").value.trim());
    remember("channel", channel);
    const media = document.querySelector("input[name=media]:checked").value;
    this.#problem("");
    $("join").disabled = true;
    $("join").textContent = "Joining…";
    try {
      await this.#room.join({ channel, name: $("name").value.trim(), media, key });
    } catch (error) {
      this.#problem(error.message);
    } finally {
      $("join").disabled = false;
      $("join").textContent = "Join";
    }
  }

  #problem(text, field) {
    $("join-error").textContent = text;
    $("join-error").hidden = !text;
    field?.focus();
  }

  // --- controls -----------------------------------------------------------------------------------------------------

  #bindTools() {
    $("mic").onclick = () => this.#toggle("mic", "audio");
    $("cam").onclick = () => this.#toggle("cam", "video");
    $("screen").onclick = () => this.#share();
    $("screen").hidden = !navigator.mediaDevices?.getDisplayMedia;
    $("toggle-chat").onclick = () => this.#showChat($("stage").classList.contains("no-chat"));
    $("close-chat").onclick = () => this.#showChat(false);
    $("leave").onclick = () => this.#room.leave();
    $("hear").onclick = () => this.#tiles.unmute();
    $("copy-link").onclick = () => this.#copyLink();
    addEventListener("pointerdown", () => this.#tiles.unmute(), { once: true });
    addEventListener("keydown", (event) => this.#key(event));
    addEventListener("pagehide", () => this.#room.abandon());
  }

  #key(event) {
    if ($("stage").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const small = matchMedia("(max-width: 760px)").matches;
    if (event.key === "Escape" && small) return this.#showChat(false);
    if (event.target.closest("input, select, textarea, [contenteditable]")) return;
    const button = { m: "mic", v: "cam", c: "toggle-chat" }[event.key.toLowerCase()];
    if (button && !$(button).disabled) $(button).click();
  }

  #toggle(button, kind) {
    const { media } = this.#room;
    const tracks = media?.stream.getTracks().filter((t) => t.kind === kind) ?? [];
    const on = !tracks[0]?.enabled;
    for (const track of tracks) track.enabled = on;
    this.#tellState();
    this.#pressed(button, on);
    this.#refresh();
  }

  /** Tell other peers what is switched off, so that they see more than silence and a black picture. */
  #tellState() {
    const { media, profile } = this.#room;
    const on = (kind) => media.stream.getTracks().some((t) => t.kind === kind && t.enabled);
    this.#room.setMetadata(media.stream, { name: profile.name, source: media.source, audio: on("audio"), video: on("video") });
  }

  #pressed(button, on) {
    $(button).setAttribute("aria-pressed", String(on));
    $(button).querySelector("use").setAttribute("href", `#${ICON_PAIRS[button][Number(on)]}`);
  }

  async #share() {
    if (this.#screenShare) return this.#stopSharing();
    try {
      this.#screenShare = await openScreen();
    } catch (error) {
      if (error.name !== "NotAllowedError") this.toast("The screen cannot be shared here.");
      return;
    }
    const { stream } = this.#screenShare;
    stream.getVideoTracks()[0].addEventListener("ended", () => this.#stopSharing());
    this.#room.addStream(stream, { name: this.#room.profile.name, source: "screen" });
    $("screen").setAttribute("aria-pressed", "true");
    this.#refresh();
  }

  #stopSharing() {
    if (!this.#screenShare) return;
    this.#room.removeStream(this.#screenShare.stream);
    this.#screenShare.stop();
    this.#screenShare = null;
    $("screen").setAttribute("aria-pressed", "false");
    this.#refresh();
  }

  #showChat(visible) {
    $("stage").classList.toggle("no-chat", !visible);
    $("toggle-chat").setAttribute("aria-expanded", String(visible));
    if (!visible) return $("toggle-chat").focus({ preventScroll: true });
    this.#unread = 0;
    $("unread").hidden = true;
    $("chat-text").focus({ preventScroll: true });
  }

  #count() {
    if (!$("stage").classList.contains("no-chat")) return;
    this.#unread += 1;
    $("unread").textContent = this.#unread > 99 ? "99+" : String(this.#unread);
    $("unread").hidden = false;
  }

  async #copyLink() {
    const link = new URL(location.pathname, location.href);
    link.searchParams.set("channel", this.#room.channel ?? "");
    try {
      await navigator.clipboard.writeText(link.href);
      this.toast("The link is copied.");
    } catch {
      this.toast(link.href);
    }
  }

  // --- the room -----------------------------------------------------------------------------------------------------

  #bindRoom() {
    const room = this.#room;
    room.addEventListener("state", ({ detail }) => (detail.peerId ? this.#refresh() : this.#roomState(detail)));
    for (const name of ["peerjoined", "track", "streamremoved", "metadata"]) room.addEventListener(name, () => this.#refresh());
    room.addEventListener("peerleft", () => this.#refresh());
    room.addEventListener("peerrenamed", ({ detail }) => {
      this.#chat.renamed(detail.previous, detail.peerId);
      this.#refresh();
    });
    room.addEventListener("notice", ({ detail }) => (detail.lasting ? this.#lasting(detail.text) : this.toast(detail.text)));
  }

  #roomState({ state, reason }) {
    $("status").textContent = STATUS[state];
    $("status").dataset.state = state;
    $("status").title = reason ?? "";
    if (state === "joined") this.#entered();
    else if (state === "idle") this.#left(reason);
  }

  #entered() {
    if (!$("stage").hidden) return this.#refresh();
    const { media, channel } = this.#room;
    $("lobby").hidden = true;
    $("stage").hidden = false;
    $("room-name").textContent = channel;
    document.title = channel;
    const has = (kind) => Boolean(media?.stream.getTracks().some((t) => t.kind === kind));
    for (const [button, kind] of [["mic", "audio"], ["cam", "video"]]) {
      $(button).disabled = !has(kind);
      this.#pressed(button, has(kind));
    }
    if (media?.missing) this.toast(media.missing, 2 * TOAST_MS);
    const small = matchMedia("(max-width: 760px)").matches;
    $("stage").classList.toggle("no-chat", small);
    $("toggle-chat").setAttribute("aria-expanded", String(!small));
    this.#refresh();
  }

  #left(reason) {
    this.#stopSharing();
    $("stage").hidden = true;
    $("lobby").hidden = false;
    document.title = "Room";
    this.#tiles.clear();
    this.#chat.clear();
    this.#lasting("");
    this.#unread = 0;
    $("unread").hidden = true;
    if (reason) this.#problem(reason);
    $("join").focus();
  }

  /** Redraw once for any number of events in a row. */
  #refresh() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    queueMicrotask(() => {
      this.#scheduled = false;
      if (!$("stage").hidden) this.#draw();
    });
  }

  #draw() {
    const peers = [...this.#room.peers.values()];
    this.#tiles.show([...this.#ownTiles(), ...peers.flatMap((peer) => this.#tilesOf(peer))]);
    this.#chat.people(peers.map(({ id, away }) => ({ id, name: this.#nameOf(id), away })));
    $("people-count").textContent = String(peers.length + 1);
  }

  #ownTiles() {
    const { media, profile } = this.#room;
    const on = (kind) => Boolean(media?.stream.getTracks().some((t) => t.kind === kind && t.enabled));
    const name = profile.name || "You";
    const label = profile.name ? `${name} (you)` : name;
    const base = { peerId: "", own: true, name, label, state: "connected", about: "", screen: false };
    const tiles = [{ ...base, key: "own", stream: media?.stream ?? null, muted: Boolean(media) && !on("audio"), cameraOff: !on("video"), mirror: media?.source === "camera" }];
    if (this.#screenShare) tiles.push({ ...base, key: "own-screen", about: "Screen", stream: this.#screenShare.stream, muted: false, cameraOff: false, screen: true });
    return tiles;
  }

  #tilesOf(peer) {
    const streams = this.#room.streams(peer.id);
    const base = { peerId: peer.id, name: this.#nameOf(peer.id), state: this.#stateOf(peer) };
    if (!streams.size) return [{ ...base, key: `${peer.id} `, about: "", stream: null, muted: false, cameraOff: true, screen: false }];
    return [...streams].map(([streamId, stream]) => {
      const tracks = peer.tracks.filter((t) => t.streamId === streamId);
      const told = tracks.map((t) => t.metadata).find(Boolean) ?? {};
      const screen = told.source === "screen";
      return {
        ...base, key: `${peer.id} ${streamId}`, stream, screen, about: about(told), muted: told.audio === false,
        cameraOff: told.video === false || !tracks.some((t) => t.kind === "video"),
      };
    });
  }

  #stateOf({ away, state }) {
    if (away) return "reconnecting";
    return !this.#room.mayCall && state === "connecting" ? "failed" : state;
  }

  #nameOf(id) {
    return this.#room.peers.get(id)?.name ?? guest(id);
  }

  async #measure() {
    if ($("stage").hidden || document.hidden) return;
    for (const { id, state } of this.#room.peers.values()) {
      const stats = state === "connected" ? await this.#room.stats(id).catch(() => null) : null;
      this.#tiles.stats(id, stats ? readable(stats) : "");
    }
  }

  /** Show a message until the user leaves. */
  #lasting(text) {
    $("lasting").textContent = text;
    $("lasting").hidden = !text;
  }

  /** Show a message for a few seconds. */
  toast(text, ms = TOAST_MS) {
    const element = Object.assign(document.createElement("p"), { className: "toast", textContent: text.slice(0, 300) });
    $("toasts").append(element);
    while ($("toasts").childElementCount > MAX_TOASTS) $("toasts").firstElementChild.remove();
    setTimeout(() => element.remove(), ms);
  }
}

/** The description of a stream in its metadata, apart from the name: a label, a role, a source. */
function about(metadata) {
  if (metadata.source === "screen") return "Screen";
  const value = metadata.label ?? metadata.title ?? metadata.role ?? (["camera", "canvas"].includes(metadata.source) ? "" : metadata.source);
  return shown(value, 60) ?? "";
}

function guest(id) {
  return `Guest ${shown(id, 4) ?? ""}`.trim();
}

function readable({ framesPerSecond, kbps, rttMs, framesDecoded }) {
  const parts = [];
  if (framesDecoded) parts.push(`${framesPerSecond} fps`);
  if (kbps) parts.push(kbps >= 1000 ? `${(kbps / 1000).toFixed(1)} Mbps` : `${kbps} kbps`);
  if (rttMs !== null) parts.push(`${rttMs} ms`);
  return parts.join(" · ");
}

function invented() {
  const pick = () => WORDS[Math.floor(Math.random() * WORDS.length)];
  return `${pick()}-${pick()}-${Math.floor(Math.random() * 90 + 10)}`;
}

function remembered(name) {
  try {
    return localStorage.getItem(`room.${name}`);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`room.${name}`, value);
  } catch {
    // storage is disabled: nothing is remembered
  }
}
