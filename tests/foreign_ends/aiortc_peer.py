"""A peer on aiortc as it is, without this project: in a program of its own, where nothing of aiortc is replaced."""

from __future__ import annotations

import asyncio
import json
import platform
import sys
from fractions import Fraction
from typing import Any

import aiortc
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, MediaStreamTrack
from aiortc.sdp import candidate_from_sdp
from av import VideoFrame

COUNT_EVERY = 5
"""Frames of a track between two events that count them."""


def tell(**event: Any) -> None:
    """Write an event."""
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


class SmallPictures(MediaStreamTrack):
    """Ten grey pictures a second."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    async def recv(self) -> VideoFrame:
        await asyncio.sleep(0.1)
        frame = VideoFrame(160, 120, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes([128]) * plane.buffer_size)
        frame.pts, frame.time_base = self._number * 9_000, Fraction(1, 90_000)
        self._number += 1
        return frame


class AiortcEnd:
    """One peer connection, with the negotiation that applications write around it."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channels: dict[str, Any] = {}
        self.sending: dict[str, list[Any]] = {"audio": [], "video": []}
        self.is_offering = False
        self.reading: set[asyncio.Task[None]] = set()
        self.pc.on("track", self._on_track)
        self.pc.on("datachannel", self._adopt)
        self.pc.on("connectionstatechange", lambda: tell(event="state", state=self.pc.connectionState))

    # --- commands

    async def add(self, kind: str, **_: Any) -> None:
        track = SmallPictures() if kind == "video" else AudioStreamTrack()
        self.sending[kind].append(self.pc.addTrack(track))

    async def remove(self, kind: str) -> None:
        sender = self.sending[kind].pop()
        sender.replaceTrack(None)
        (transceiver,) = [it for it in self.pc.getTransceivers() if it.sender is sender]
        transceiver.direction = "recvonly"

    async def receiveOnly(self, kind: str) -> None:
        self.pc.addTransceiver(kind, "recvonly")

    async def open(self, label: str) -> None:
        self._adopt(self.pc.createDataChannel(label))

    async def say(self, label: str, text: str) -> None:
        self.channels[label].send(text)

    async def offer(self, restart: bool = False) -> None:
        self.is_offering = True  # with `restart`, too, under the same ICE credentials: aiortc has no other
        await self.pc.setLocalDescription(await self.pc.createOffer())
        self._describe()

    async def receive(self, description: dict[str, str]) -> None:
        kind = description["type"]
        if kind == "offer" and self.is_offering:
            tell(event="ignored")  # aiortc has no rollback
            return
        if kind == "answer" and not self.is_offering:
            return
        await self.pc.setRemoteDescription(RTCSessionDescription(description["sdp"], kind))
        if kind == "offer":
            await self.pc.setLocalDescription(await self.pc.createAnswer())
            self._describe()
        else:
            self.is_offering = False

    async def candidate(self, candidate: dict[str, Any] | None) -> None:
        if candidate is None or self.pc.remoteDescription is None:
            return
        parsed = candidate_from_sdp(candidate["candidate"].removeprefix("candidate:"))
        parsed.sdpMid, parsed.sdpMLineIndex = candidate.get("sdpMid"), candidate.get("sdpMLineIndex")
        await self.pc.addIceCandidate(parsed)

    # --- what happens

    def _describe(self) -> None:
        local = self.pc.localDescription
        tell(event="description", description={"type": local.type, "sdp": local.sdp})

    def _on_track(self, track: MediaStreamTrack) -> None:
        mid = next(it.mid for it in self.pc.getTransceivers() if it.receiver.track is track)
        self.reading.add(asyncio.ensure_future(self._read(track, mid)))

    async def _read(self, track: MediaStreamTrack, mid: str) -> None:
        count = 0
        try:
            while True:
                await track.recv()
                count += 1
                if count == 1 or count % COUNT_EVERY == 0:
                    tell(event="media", kind=track.kind, track=mid, count=count)
        except MediaStreamError:
            pass

    def _adopt(self, channel: Any) -> None:
        self.channels[channel.label] = channel

        def opened() -> None:
            tell(event="channel", label=channel.label)

        def message(text: str) -> None:
            tell(event="message", label=channel.label, text=text)
            if not text.startswith("echo "):
                channel.send(f"echo {text}")

        channel.on("open", opened)
        channel.on("message", message)
        if channel.readyState == "open":
            opened()


async def main() -> None:
    end = AiortcEnd()
    stdin = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    tell(event="ready", version=f"aiortc {aiortc.__version__}, Python {platform.python_version()}")
    async for line in stdin:
        command = json.loads(line)
        request, name = command.pop("id"), command.pop("command")
        try:
            await getattr(end, name)(**command)
        except Exception as error:
            tell(done=request, error=repr(error))
        else:
            tell(done=request)
    await end.pc.close()


asyncio.run(main())
