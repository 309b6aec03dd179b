"""A peer on GStreamer's webrtcbin. It runs under the Python of the system and needs PyGObject alone."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import GLib, Gst, GstSdp, GstWebRTC  # noqa: E402 - versions are required before

COUNT_EVERY = 5
"""Frames of a track between two events that count them."""

CAPS = {
    "video": "application/x-rtp,media=video,encoding-name=VP8,clock-rate=90000,payload=96",
    "audio": "application/x-rtp,media=audio,encoding-name=OPUS,clock-rate=48000,payload=111,encoding-params=(string)2",
}
"""The payload types that browsers use: its answers accept no others than its sources have."""

SOURCES = {
    "video": "videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=10/1 ! "
    "vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay pt=96 ! valve name=valve",
    "audio": "audiotestsrc is-live=true ! audio/x-raw,channels=2 ! opusenc ! rtpopuspay pt=111 ! valve name=valve",
}
SINKS = {"video": "rtpvp8depay ! vp8dec ! fakesink name=sink", "audio": "rtpopusdepay ! opusdec ! fakesink name=sink"}


def tell(**event: Any) -> None:
    """Write an event. Streaming threads do so, too."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class WebrtcbinEnd:
    """One peer connection. Commands run in the main loop, one after the other."""

    def __init__(self, *, polite: bool) -> None:
        self.polite = polite  # which changes nothing: webrtcbin has no rollback
        self.pipeline = Gst.Pipeline.new()
        self.webrtc = Gst.ElementFactory.make("webrtcbin")
        self.webrtc.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.pipeline.add(self.webrtc)
        self.channels: dict[str, Any] = {}
        self.sending: dict[str, list[tuple[Any, Any]]] = {"audio": [], "video": []}
        self.is_offering = False
        self.webrtc.connect("on-ice-candidate", self._on_candidate)
        self.webrtc.connect("on-data-channel", lambda _, channel: self._adopt(channel))
        self.webrtc.connect("pad-added", self._on_pad)
        self.webrtc.connect("notify::connection-state", self._on_state)
        self.pipeline.set_state(Gst.State.PLAYING)

    # --- commands: each calls `done` at its end

    def add(self, done: Callable[..., None], kind: str, **_: Any) -> None:
        source = Gst.parse_bin_from_description(SOURCES[kind], ghost_unlinked_pads=True)
        self.pipeline.add(source)
        template = self.webrtc.get_pad_template("sink_%u")
        # Without caps here, an offer that comes before the first packet would leave the track out.
        caps = Gst.Caps.from_string(CAPS[kind])
        pad = self.webrtc.request_pad(template, None, caps)
        pad.get_property("transceiver").set_property("codec-preferences", caps)
        source.get_static_pad("src").link(pad)
        self.sending[kind].append((source, pad))
        # The caps of the first packet bring the SSRC. An offer without it and without mids in packets would not tell
        # two tracks of a kind apart.
        waiting = [done]
        pad.connect("notify::caps", lambda *_: waiting and GLib.idle_add(waiting.pop()) and None)
        source.sync_state_with_parent()

    def remove(self, done: Callable[..., None], kind: str) -> None:
        source, pad = self.sending[kind].pop()
        source.get_by_name("valve").set_property("drop", True)
        direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
        pad.get_property("transceiver").set_property("direction", direction)
        done()

    def receiveOnly(self, done: Callable[..., None], kind: str) -> None:
        direction = GstWebRTC.WebRTCRTPTransceiverDirection.RECVONLY
        self.webrtc.emit("add-transceiver", direction, Gst.Caps.from_string(CAPS[kind]))
        done()

    def open(self, done: Callable[..., None], label: str) -> None:
        self._adopt(self.webrtc.emit("create-data-channel", label, None))
        done()

    def say(self, done: Callable[..., None], label: str, text: str) -> None:
        self.channels[label].emit("send-string", text)
        done()

    def offer(self, done: Callable[..., None], restart: bool = False) -> None:
        self.is_offering = True
        # It does not look at options: with `restart`, too, the offer has the same ICE credentials.
        self._ask("create-offer", None, lambda reply: self._describe(reply.get_value("offer"), done), done)

    def receive(self, done: Callable[..., None], description: dict[str, str]) -> None:
        kind = description["type"]
        if kind == "offer" and self.is_offering:
            tell(event="ignored")
            return done()
        if kind == "answer" and not self.is_offering:
            return done()
        sdp = GstSdp.SDPMessage.new_from_text(description["sdp"])[1]
        remote = GstWebRTC.WebRTCSessionDescription.new(
            GstWebRTC.WebRTCSDPType.OFFER if kind == "offer" else GstWebRTC.WebRTCSDPType.ANSWER, sdp
        )

        def applied(_: Any) -> None:
            if kind == "answer":
                self.is_offering = False
                return done()
            return self._ask("create-answer", None, lambda reply: self._describe(reply.get_value("answer"), done), done)

        return self._ask("set-remote-description", remote, applied, done)

    def candidate(self, done: Callable[..., None], candidate: dict[str, Any] | None) -> None:
        if candidate is not None:
            self.webrtc.emit("add-ice-candidate", candidate.get("sdpMLineIndex") or 0, candidate["candidate"])
        done()

    # --- what happens

    def _ask(self, signal: str, argument: Any, then: Callable[[Any], None], done: Callable[..., None]) -> None:
        """Emit a signal that takes a promise, and continue in the main loop with the reply, or end with its error."""

        def proceed(promise: Any) -> None:
            reply = promise.get_reply()
            if reply is not None and reply.has_field("error"):
                done(error=f"{signal}: {reply.get_value('error').message}")
            else:
                then(reply)

        def replied(promise: Any, *_: Any) -> None:
            GLib.idle_add(proceed, promise)

        self.webrtc.emit(signal, argument, Gst.Promise.new_with_change_func(replied))

    def _describe(self, description: Any, done: Callable[..., None]) -> None:
        # The description belongs to the reply, which does not live until it is applied.
        kind = "offer" if description.type == GstWebRTC.WebRTCSDPType.OFFER else "answer"
        described = {"type": kind, "sdp": description.sdp.as_text()}

        def applied(_: Any) -> None:
            tell(event="description", description=described)
            done()

        self._ask("set-local-description", description, applied, done)

    def _on_candidate(self, _: Any, index: int, candidate: str) -> None:
        tell(event="candidate", candidate={"candidate": candidate, "sdpMLineIndex": index} if candidate else None)

    def _on_state(self, *_: Any) -> None:
        tell(event="state", state=self.webrtc.get_property("connection-state").value_nick)

    def _on_pad(self, _: Any, pad: Any) -> None:
        if pad.get_direction() != Gst.PadDirection.SRC:
            return
        kind = pad.get_current_caps().get_structure(0).get_string("media")
        sink = Gst.parse_bin_from_description(SINKS[kind], ghost_unlinked_pads=True)
        counted = sink.get_by_name("sink")
        counted.set_property("signal-handoffs", True)
        counted.set_property("sync", False)
        count = 0
        mid = pad.get_property("transceiver").get_property("mid")

        def handoff(*_: Any) -> None:
            nonlocal count
            count += 1
            if count == 1 or count % COUNT_EVERY == 0:
                tell(event="media", kind=kind, track=mid, count=count)

        counted.connect("handoff", handoff)
        self.pipeline.add(sink)
        sink.sync_state_with_parent()
        pad.link(sink.get_static_pad("sink"))

    def _adopt(self, channel: Any) -> None:
        label = channel.get_property("label")
        self.channels[label] = channel

        def opened(*_: Any) -> None:
            tell(event="channel", label=label)

        def message(_: Any, text: str) -> None:
            tell(event="message", label=label, text=text)
            if not text.startswith("echo "):
                channel.emit("send-string", f"echo {text}")

        channel.connect("on-open", opened)
        channel.connect("on-message-string", message)
        if channel.get_property("ready-state") == GstWebRTC.WebRTCDataChannelState.OPEN:
            opened()

    def close(self) -> None:
        self.pipeline.set_state(Gst.State.NULL)


class Commands:
    """Reads commands from stdin in a thread, and carries them out in the main loop, one after the other."""

    def __init__(self, end: WebrtcbinEnd, loop: Any) -> None:
        self._end, self._loop = end, loop
        self._waiting: list[dict[str, Any]] = []
        self._is_busy = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            GLib.idle_add(self._take, json.loads(line))
        GLib.idle_add(self._loop.quit)

    def _take(self, command: dict[str, Any]) -> None:
        self._waiting.append(command)
        self._next()

    def _next(self) -> None:
        if self._is_busy or not self._waiting:
            return
        self._is_busy = True
        command = self._waiting.pop(0)
        request, name = command.pop("id"), command.pop("command")
        try:
            getattr(self._end, name)(lambda **fields: self._done(request, **fields), **command)
        except Exception as error:
            self._done(request, error=repr(error))

    def _done(self, request: int, **fields: Any) -> None:
        tell(done=request, **fields)
        self._is_busy = False
        GLib.idle_add(self._next)


def main() -> None:
    Gst.init(None)
    loop = GLib.MainLoop()
    end = WebrtcbinEnd(polite="--polite" in sys.argv)
    Commands(end, loop)
    tell(event="ready", version=f"{Gst.version_string()} webrtcbin")
    loop.run()
    end.close()


if __name__ == "__main__":
    main()
