// A peer on werift: WebRTC written in TypeScript. Its tracks carry RTP packets: it has no encoders and no decoders.

import { MediaStream, MediaStreamTrack, RtpHeader, RtpPacket, RTCPeerConnection } from "werift";
import { End, versionOf } from "./end.mjs";

const SILENCE = Buffer.from([0xf8, 0xff, 0xfe]); // a frame of 20 ms in Opus
const START_OF_PICTURE = Buffer.from([0x10]); // the payload descriptor of VP8 (RFC 7741 section 4.2)

class WeriftEnd extends End {
  constructor() {
    // It has a rollback, after which its answer still has the sections of its own offer.
    super(new RTCPeerConnection({ iceServers: [], bundlePolicy: "max-bundle" }), { canRollBack: false });
    this.timers = [];
    this.sending = { audio: [], video: [] };
    // A picture is counted by the marker of its last packet, sound by its packets.
    this.pc.ontrack = ({ track }) =>
      this.count(track, (frame) =>
        track.onReceiveRtp.subscribe((packet) => (track.kind === "audio" || packet.header.marker) && frame()),
      );
  }

  add({ kind, picture }) {
    const track = new MediaStreamTrack({ kind });
    if (kind === "video") {
      const payload = Buffer.concat([START_OF_PICTURE, Buffer.from(picture, "base64")]);
      this.packets(track, 100, 9000, payload, true);
    } else {
      this.packets(track, 20, 960, SILENCE, false);
    }
    this.sending[kind].push(this.pc.addTrack(track, new MediaStream([track])));
  }

  remove({ kind }) {
    this.pc.removeTrack(this.sending[kind].pop());
  }

  receiveOnly({ kind }) {
    this.pc.addTransceiver(kind, { direction: "recvonly" });
  }

  packets(track, milliseconds, ticks, payload, marker) {
    let number = 0;
    const send = () => {
      const header = new RtpHeader({ sequenceNumber: number & 0xffff, timestamp: number * ticks, marker, ssrc: 1 });
      track.writeRtp(new RtpPacket(header, payload));
      number += 1;
    };
    this.timers.push(setInterval(send, milliseconds));
  }

  async close() {
    this.timers.forEach(clearInterval);
    await super.close();
  }
}

new WeriftEnd().run(`werift ${versionOf("werift")}, Node.js ${process.versions.node}`);
