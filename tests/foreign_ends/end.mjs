// What the programs for Node.js share: commands as JSON lines on stdin, events as JSON lines on stdout, and the
// negotiation of one peer connection as applications write it. See tests/support/foreign_ends.py for both.

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";

const COUNT_EVERY = 5; // frames or packets of a track between two events that count them

export const tell = (event) => process.stdout.write(JSON.stringify(event) + "\n");

export const versionOf = (name) =>
  JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url), "utf8")).version;

export class End {
  constructor(pc, { canRollBack }) {
    this.pc = pc;
    this.polite = process.argv.includes("--polite");
    this.canRollBack = canRollBack;
    this.channels = new Map();
    this.tracks = new Set();
    this.isOffering = false; // from the creation of an offer until its answer
    this.early = []; // candidates that came before the description that they belong to
    pc.ondatachannel = ({ channel }) => this.adopt(channel);
    pc.onconnectionstatechange = () => tell({ event: "state", state: pc.connectionState });
    pc.onicecandidate = ({ candidate }) =>
      tell({ event: "candidate", candidate: candidate ? (candidate.toJSON?.() ?? candidate) : null });
  }

  // Calls `watch` with a function that counts a frame, once for each track: some ends tell of one again.
  count(track, watch) {
    if (this.tracks.has(track)) return;
    this.tracks.add(track);
    const number = this.tracks.size;
    let count = 0;
    watch(() => {
      count += 1;
      if (count === 1 || count % COUNT_EVERY === 0) tell({ event: "media", kind: track.kind, track: number, count });
    });
  }

  adopt(channel) {
    this.channels.set(channel.label, channel);
    const opened = () => tell({ event: "channel", label: channel.label });
    if (channel.readyState === "open") opened();
    else channel.onopen = opened;
    channel.onmessage = ({ data }) => {
      tell({ event: "message", label: channel.label, text: String(data) });
      if (!String(data).startsWith("echo ")) channel.send(`echo ${data}`);
    };
  }

  describe() {
    const { type, sdp } = this.pc.localDescription;
    tell({ event: "description", description: { type, sdp } });
  }

  async offer({ restart = false } = {}) {
    this.isOffering = true;
    await this.pc.setLocalDescription(await this.pc.createOffer({ iceRestart: restart }));
    this.describe();
  }

  async receive({ description }) {
    if (description.type === "answer") {
      if (this.pc.signalingState !== "have-local-offer") return;
      await this.pc.setRemoteDescription(description);
      this.isOffering = false;
      await this.addEarlyCandidates();
      return;
    }
    const collides = this.isOffering || this.pc.signalingState !== "stable";
    if (collides && !(this.polite && this.canRollBack)) {
      tell({ event: "ignored" });
      return;
    }
    if (collides) await this.pc.setLocalDescription({ type: "rollback" });
    this.isOffering = false;
    await this.pc.setRemoteDescription(description);
    await this.addEarlyCandidates();
    await this.pc.setLocalDescription(await this.pc.createAnswer());
    this.describe();
    if (collides) await this.offer(); // what the offer that was rolled back had
  }

  async addEarlyCandidates() {
    for (const candidate of this.early.splice(0)) await this.pc.addIceCandidate(candidate);
  }

  async candidate({ candidate }) {
    if (candidate === null) return;
    if (this.pc.remoteDescription) await this.pc.addIceCandidate(candidate);
    else this.early.push(candidate);
  }

  open({ label }) {
    this.adopt(this.pc.createDataChannel(label));
  }

  say({ label, text }) {
    this.channels.get(label).send(text);
  }

  run(version) {
    let work = Promise.resolve(); // one command after the other
    const lines = createInterface({ input: process.stdin });
    lines.on("line", (line) => {
      const { id, command, ...fields } = JSON.parse(line);
      work = work
        .then(() => this[command](fields))
        .then(
          () => tell({ done: id }),
          (error) => tell({ done: id, error: error?.stack ?? String(error) }),
        );
    });
    lines.on("close", () => work.then(() => this.close()).then(() => process.exit(0)));
    tell({ event: "ready", version });
  }

  async close() {
    await this.pc.close();
  }
}
