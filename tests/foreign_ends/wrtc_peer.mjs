// A peer on @roamhq/wrtc: Google's libwebrtc in Node.js. Its tracks carry raw pictures and samples.

import wrtc from "@roamhq/wrtc";
import { End, versionOf } from "./end.mjs";

const { RTCAudioSink, RTCAudioSource, RTCVideoSink, RTCVideoSource } = wrtc.nonstandard;
const WIDTH = 160;
const HEIGHT = 120;

class WrtcEnd extends End {
  constructor() {
    super(new wrtc.RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" }), { canRollBack: true });
    this.sinks = [];
    this.timers = [];
    this.sending = { audio: [], video: [] };
    this.pc.ontrack = ({ track }) =>
      this.count(track, (frame) => {
        const sink = track.kind === "video" ? new RTCVideoSink(track) : new RTCAudioSink(track);
        sink[track.kind === "video" ? "onframe" : "ondata"] = frame;
        this.sinks.push(sink);
      });
  }

  add({ kind }) {
    const track = kind === "video" ? this.video() : this.audio();
    this.sending[kind].push(this.pc.addTrack(track, new wrtc.MediaStream()));
  }

  remove({ kind }) {
    this.pc.removeTrack(this.sending[kind].pop());
  }

  receiveOnly({ kind }) {
    this.pc.addTransceiver(kind, { direction: "recvonly" });
  }

  video() {
    const source = new RTCVideoSource();
    const data = new Uint8ClampedArray((WIDTH * HEIGHT * 3) / 2).fill(128);
    this.timers.push(setInterval(() => source.onFrame({ width: WIDTH, height: HEIGHT, data }), 100));
    return source.createTrack();
  }

  audio() {
    const source = new RTCAudioSource();
    const samples = new Int16Array(480);
    const chunk = { samples, sampleRate: 48000, bitsPerSample: 16, channelCount: 1, numberOfFrames: 480 };
    this.timers.push(setInterval(() => source.onData(chunk), 10));
    return source.createTrack();
  }

  async close() {
    this.timers.forEach(clearInterval);
    this.sinks.forEach((sink) => sink.stop());
    await super.close();
  }
}

new WrtcEnd().run(`@roamhq/wrtc ${versionOf("@roamhq/wrtc")}, Node.js ${process.versions.node}`);
