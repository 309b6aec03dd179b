// How far this page has read each channel and the directs to it: what it asks for on its return, what it gets again, and
// what it has missed. The Python client does the same, see core/session/positions.py; docs/protocol.md has the rules.

const EPOCH = /^[A-Za-z0-9_-]{1,32}$/;
const DIRECTS = ""; // no channel has an empty name

const isOffset = (value) => Number.isSafeInteger(value) && value >= 0;

/** The position in a frame, or null if there is no usable one. */
function positionOf({ epoch, offset }) {
  return typeof epoch === "string" && EPOCH.test(epoch) && isOffset(offset) ? { epoch, offset } : null;
}

export class Positions {
  #tracks = new Map(); // channel -> {epoch, offset, end, told, live}
  #peerId = null;

  /** The `recover` parameter of the next attempt. */
  get query() {
    const track = this.#tracks.get(DIRECTS);
    return track ? `${track.epoch}:${track.offset}` : "1";
  }

  /** The fields of a subscribe. */
  asking(channel) {
    const track = this.#tracks.get(channel);
    return track ? { recover: true, epoch: track.epoch, offset: track.offset } : { recover: true };
  }

  /** Handle a welcome. Returns whether directs are lost. */
  welcomed(frame) {
    const renamed = this.#peerId !== null && this.#peerId !== frame.peerId;
    this.#peerId = frame.peerId;
    const known = this.#tracks.has(DIRECTS);
    if (!renamed) return this.#continue(DIRECTS, frame, known);
    this.#tracks.delete(DIRECTS);
    this.#continue(DIRECTS, frame, false);
    const track = this.#tracks.get(DIRECTS);
    if (track) track.told = known;
    return known;
  }

  /** Handle the ack of a subscribe. `asked`: it named a position. Returns whether messages are lost. */
  acknowledged(channel, frame, asked) {
    return this.#continue(channel, frame, asked);
  }

  /** Whether a message or a direct is new. */
  takes({ type, channel, offset }) {
    const track = this.#tracks.get(type === "direct" ? DIRECTS : channel);
    if (!track?.live || !isOffset(offset)) return true;
    if (offset <= track.offset) return false;
    track.offset = offset;
    return true;
  }

  /** Handle a lost frame. Returns {channel, count} to be told, or null; `count` is null if nobody knows it. */
  lost(frame) {
    const position = positionOf(frame);
    if (!position || !["string", "undefined"].includes(typeof frame.channel)) return null;
    const { channel = DIRECTS } = frame;
    const count = isOffset(frame.count) && frame.count > 0 ? frame.count : null;
    const track = this.#tracks.get(channel);
    if (!track || track.epoch !== position.epoch) {
      if (!track && channel !== DIRECTS) return null; // it was left
      this.#tracks.set(channel, { ...position, end: position.offset, told: false, live: true });
    } else {
      const repeated = track.told && count === null && position.offset <= track.end;
      track.offset = Math.max(track.offset, position.offset);
      if (repeated) return null;
    }
    return { channel: frame.channel ?? null, count };
  }

  disconnected() {
    for (const track of this.#tracks.values()) track.live = false;
  }

  forget(channel) {
    this.#tracks.delete(channel);
  }

  clear() {
    this.#tracks.clear();
    this.#peerId = null;
  }

  #continue(channel, frame, asked) {
    const track = this.#tracks.get(channel);
    const position = positionOf(frame);
    if (!position) return this.#tracks.delete(channel);
    const { epoch, offset: end } = position;
    if (!track || !asked) {
      this.#tracks.set(channel, { epoch, offset: end, end, told: false, live: true });
      return false;
    }
    const same = track.epoch === epoch && track.offset <= end;
    this.#tracks.set(channel, { epoch, offset: same ? track.offset : 0, end, told: !same, live: true });
    return !same;
  }
}
