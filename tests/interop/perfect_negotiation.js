// A peer of another make: W3C perfect negotiation (https://www.w3.org/TR/webrtc/#perfect-negotiation-example) over the
// wire protocol, with one RTCPeerConnection for each remote from its first sight to its departure. What fails is
// restarted with restartIce(), never replaced.

class ForeignPeer {
  constructor(url, channel, stream) {
    this.id = null;
    this.remotes = new Map();
    this.tracks = [];
    this.errors = [];
    this.stream = stream;
    this.socket = new WebSocket(url);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data), channel);
  }

  receive(frame, channel) {
    if (frame.type === "welcome") {
      this.id = frame.peerId;
      this.send({ type: "subscribe", channel, requestId: "s" });
    } else if (frame.type === "presence") {
      for (const { peerId } of frame.left) this.remove(peerId);
      for (const { peerId } of frame.joined) if (peerId !== this.id) this.add(peerId);
    } else if (frame.type === "direct") {
      this.add(frame.from).receive(frame.data).catch((error) => this.errors.push(String(error)));
    }
  }

  add(id) {
    if (!this.remotes.has(id)) this.remotes.set(id, new ForeignRemote(this, id));
    return this.remotes.get(id);
  }

  remove(id) {
    this.remotes.get(id)?.pc.close();
    this.remotes.delete(id);
  }

  send(frame) {
    this.socket.send(JSON.stringify(frame));
  }
}

class ForeignRemote {
  constructor(peer, id) {
    this.polite = peer.id < id;
    this.tell = (data) => peer.send({ type: "send", to: id, data });
    this.pc = new RTCPeerConnection();
    this.makingOffer = this.ignoreOffer = this.settingAnswer = false;
    this.received = [];
    this.channel = null;
    this.unsaid = []; // metadata of tracks that no offer has carried yet
    this.metadata = new Map(); // by the id of the track at its sender
    const { pc } = this;
    this.arrivals = []; // with the metadata that the id of the track finds, as in the hosted service's SDK
    this.streams = new Map();
    pc.ontrack = ({ track, streams }) => {
      peer.tracks.push(track);
      for (const stream of streams) this.streams.set(stream.id, stream);
      const metadata = this.metadata.get(track.id) ?? null;
      this.arrivals.push({ id: track.id, kind: track.kind, streamId: streams[0]?.id, metadata });
    };
    pc.ondatachannel = ({ channel }) => {
      this.channel = channel;
      channel.onmessage = ({ data }) => this.received.push(data);
    };
    pc.onicecandidate = ({ candidate }) => this.tell({ type: "rtc-ice", candidate });
    pc.onconnectionstatechange = () => pc.connectionState === "failed" && pc.restartIce();
    pc.onnegotiationneeded = async () => {
      try {
        this.makingOffer = true;
        await pc.setLocalDescription();
        for (const entry of this.unsaid.splice(0)) this.tell({ __meteredTrackMeta: entry });
        this.tell({ type: "rtc-description", description: pc.localDescription });
      } catch (error) {
        peer.errors.push(String(error));
      } finally {
        this.makingOffer = false;
      }
    };
    for (const track of peer.stream?.getTracks() ?? []) pc.addTrack(track, peer.stream);
  }

  /** Send a stream from now on. Its metadata names the tracks and nothing else, and goes right before the offer. */
  share(stream, metadata) {
    for (const track of stream.getTracks()) {
      this.unsaid.push({ trackId: track.id, metadata });
      this.pc.addTrack(track, stream);
    }
  }

  /** Stop sending a stream. */
  unshare(stream) {
    const tracks = stream.getTracks();
    for (const sender of this.pc.getSenders()) if (tracks.includes(sender.track)) this.pc.removeTrack(sender);
  }

  /** The ids of the streams that the other end sends now. */
  get live() {
    return [...this.streams.values()].filter((it) => it.getTracks().length).map((it) => it.id).sort();
  }

  async receive({ type, description, candidate, __meteredTrackMeta: entry }) {
    const { pc } = this;
    if (entry) this.metadata.set(entry.trackId, entry.metadata);
    if (type === "rtc-description") {
      const ready = !this.makingOffer && (pc.signalingState === "stable" || this.settingAnswer);
      this.ignoreOffer = !this.polite && description.type === "offer" && !ready;
      if (this.ignoreOffer) return;
      this.settingAnswer = description.type === "answer";
      await pc.setRemoteDescription(description).finally(() => (this.settingAnswer = false));
      if (description.type === "offer") {
        await pc.setLocalDescription();
        this.tell({ type: "rtc-description", description: pc.localDescription });
      }
    } else if (type === "rtc-ice") {
      try {
        await pc.addIceCandidate(candidate);
      } catch (error) {
        if (!this.ignoreOffer) throw error;
      }
    }
  }

  async decoded() {
    const reports = [...(await this.pc.getStats()).values()].filter((it) => it.type === "inbound-rtp");
    return reports.reduce((sum, it) => sum + (it.framesDecoded ?? 0), 0);
  }
}

window.foreign = (url, channel, stream) => new ForeignPeer(url, channel, stream);
