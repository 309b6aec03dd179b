// The grid of video tiles: one per stream, one per member without video, one for the user.

import { hue, initials } from "./names.js";

const RATIO = 16 / 9;
const MAX_TILES = 64; // more do not fit on a screen; chat and data still work with the others
const WAITING = { connecting: "Connecting…", reconnecting: "Reconnecting…", failed: "Could not connect" };
const template = document.getElementById("tile-template");

export class Tiles {
  #grid;
  #tiles = new Map(); // key -> {element, peerId, video, stream}
  #audible = false;
  #onSilenced;

  /** @param {HTMLElement} grid @param {(silenced: boolean) => void} onSilenced told whether sound needs a gesture */
  constructor(grid, onSilenced) {
    this.#grid = grid;
    this.#onSilenced = onSilenced;
    new ResizeObserver(() => this.#layout()).observe(grid);
  }

  /**
   * Show exactly these tiles.
   * @param {{key: string, peerId: string, own?: boolean, name: string, label?: string, about: string, state: string, stream: MediaStream|null,
   *   muted: boolean, cameraOff: boolean, screen: boolean, mirror?: boolean}[]} wanted
   */
  show(wanted) {
    const list = wanted.slice(0, MAX_TILES);
    const keys = new Set(list.map((w) => w.key));
    for (const [key, tile] of [...this.#tiles]) if (!keys.has(key)) this.#remove(key, tile);
    for (const each of list) this.#update(this.#tiles.get(each.key) ?? this.#create(each), each);
    this.#layout();
  }

  /** @param {string} peerId @param {string} text */
  stats(peerId, text) {
    for (const { peerId: id, element } of this.#tiles.values()) {
      if (id === peerId) element.querySelector(".stats").textContent = text;
    }
  }

  clear() {
    this.show([]);
    this.#onSilenced(false);
  }

  /** A user gesture: sound is allowed now. */
  unmute() {
    this.#audible = true;
    this.#onSilenced(false);
    for (const tile of this.#tiles.values()) if (tile.stream && !tile.own) this.#play(tile);
  }

  #create({ key, peerId, own = false }) {
    const element = template.content.firstElementChild.cloneNode(true);
    const tile = { element, peerId, own, video: element.querySelector("video"), stream: null };
    element.dataset.key = key;
    element.classList.toggle("own", own);
    this.#tiles.set(key, tile);
    if (own) this.#grid.prepend(element);
    else this.#grid.append(element);
    return tile;
  }

  #remove(key, { element, video }) {
    video.srcObject = null;
    element.remove();
    this.#tiles.delete(key);
  }

  #update(tile, { peerId, name, label = name, about, state, stream, muted, cameraOff, screen, mirror }) {
    const { element } = tile;
    const set = (selector, text) => (element.querySelector(selector).textContent = text);
    tile.peerId = peerId;
    element.dataset.peer = peerId;
    element.dataset.state = state;
    element.setAttribute("aria-label", `${label}${WAITING[state] ? `, ${WAITING[state]}` : ""}`);
    set(".name", label);
    set(".about", about);
    set(".wait-text", WAITING[state] ?? "");
    const face = element.querySelector(".face");
    face.dataset.initials = initials(name);
    face.style.setProperty("--hue", hue(name));
    const video = Boolean(stream?.getVideoTracks().length) && !cameraOff;
    for (const [flag, on] of Object.entries({ muted, screen, mirror: Boolean(mirror), "has-video": video })) {
      element.classList.toggle(flag, on);
    }
    if (stream !== tile.stream) {
      tile.stream = stream;
      tile.video.srcObject = stream;
      if (stream) this.#play(tile);
    }
  }

  /** Play with sound if the browser allows it, or else muted until a user gesture. */
  async #play(tile) {
    const { video, own } = tile;
    video.muted = own || !(this.#audible || navigator.userActivation?.hasBeenActive);
    if (video.muted && !own) await this.#probe(video);
    try {
      await video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError") return; // replaced or removed meanwhile
      video.muted = true;
      this.#onSilenced(true);
      video.play().catch(() => {});
    }
  }

  /** Some browsers allow sound without a gesture, which can only be found out by trying. */
  async #probe(video) {
    video.muted = false;
    try {
      await video.play();
      this.#audible = true;
    } catch (error) {
      if (error.name !== "NotAllowedError") return;
      video.muted = true;
      this.#onSilenced(true);
    }
  }

  /** The widest 16:9 tile with which all tiles fit. */
  #layout() {
    const count = this.#tiles.size;
    if (!count) return;
    const style = getComputedStyle(this.#grid);
    const gap = parseFloat(style.columnGap) || 0;
    const width = this.#grid.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = this.#grid.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    let best = 0;
    for (let columns = 1; columns <= count; columns++) {
      const rows = Math.ceil(count / columns);
      const byWidth = (width - gap * (columns - 1)) / columns;
      const byHeight = ((height - gap * (rows - 1)) / rows) * RATIO;
      best = Math.max(best, Math.min(byWidth, byHeight));
    }
    this.#grid.style.setProperty("--tile-width", `${Math.max(140, Math.floor(best))}px`);
  }
}
