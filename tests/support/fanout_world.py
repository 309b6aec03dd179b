"""One sender and its receivers: connections of this package on one side, plain aiortc on the other, over real UDP."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import av
from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.rtp import RTCP_PSFB_APP, RTCP_PSFB_PLI, RtcpPsfbPacket, pack_remb_fci

from metered_realtime import NoopLogger
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.sections import Outgoing
from metered_realtime.core.negotiation.sdp import Description
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.options import DEFAULT_TUNING, Tuning
from tests.support.peers import eventually


class Observer:
    """Ignores all notifications of a connection."""

    def peer_connection_state_changed(self, peer_connection: Any, state: str) -> None: ...
    def offer_unanswered(self) -> None: ...
    def tracks_changed(self, removed: Any, added: Any) -> None: ...
    def channel_opened(self, channel: Any) -> None: ...


class Receiver:
    """A receiver: an aiortc connection, and the connection that sends to it."""

    def __init__(self, tuning: Tuning) -> None:
        self.peer_connection = PeerConnection(Observer(), NoopLogger(), tuning=tuning)
        self.pc = RTCPeerConnection()
        self.frames: list[Any] = []
        self.sizes: list[tuple[int, int]] = []
        self.key_frames: list[float] = []
        self.connected_at = self.first_frame_at = 0.0
        self._sending: Any = None
        self._estimate: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.pc.on("track", self._on_track)
        self.pc.on("connectionstatechange", self._on_state)

    async def connect(self, outgoing: Outgoing, codec: str | None = None) -> None:
        """Let the sender offer a track, and answer, with one codec if it is given."""
        wanted = {1: outgoing}
        await self.peer_connection.gather_host()
        plan = self.peer_connection.plan(wanted)
        text = self.peer_connection.offer_text(plan)
        self.peer_connection.offer_sent()
        await self.pc.setRemoteDescription(RTCSessionDescription(text, "offer"))
        if codec is not None:
            transceiver: Any = self.pc.getTransceivers()[0]
            transceiver._codecs = [it for it in transceiver._codecs if it.mimeType == codec]
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        answer = Description.parse("answer", self.pc.localDescription.sdp)
        await self.peer_connection.commit(plan, text, answer, wanted)
        self._sending = next(iter(self.peer_connection._sending))

    @property
    def forward(self) -> Any:
        return self._sending.forward

    async def shows(self, count: int = 1) -> None:
        """Wait for further pictures."""
        goal = len(self.frames) + count
        await eventually(lambda: len(self.frames) >= goal)

    async def request_key_frame(self) -> None:
        await self._say(fmt=RTCP_PSFB_PLI, media_ssrc=self._source)

    async def say_estimate(self, bitrate: int) -> None:
        """Send an estimate of this receiver, and no other from then on."""
        (receiver,) = self.pc.getReceivers()
        receiver._RTCRtpReceiver__remote_bitrate_estimator = None  # type: ignore[attr-defined]
        await self._say(fmt=RTCP_PSFB_APP, media_ssrc=0, fci=pack_remb_fci(bitrate, [self._source]))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self.peer_connection.close(), self.pc.close())

    @property
    def _source(self) -> int:
        sender: Any = self._sending.transceiver.sender
        return int(sender._ssrc)

    async def _say(self, **fields: Any) -> None:
        transport: Any = self.pc.getReceivers()[0].transport
        await transport._send_rtp(bytes(RtcpPsfbPacket(ssrc=1, **fields)))

    def _on_state(self) -> None:
        if self.pc.connectionState == "connected":
            self.connected_at = time.monotonic()

    def _on_track(self, track: Any) -> None:
        self._tasks.append(asyncio.ensure_future(self._read(track)))

    async def _read(self, track: Any) -> None:
        while True:
            frame = await track.recv()
            now = time.monotonic()
            if not self.frames:
                self.first_frame_at = now
            if isinstance(frame, av.VideoFrame):
                self.sizes.append((frame.width, frame.height))
                if frame.key_frame:
                    self.key_frames.append(now)
            self.frames.append(frame)


class World:
    """A track that is sent to any number of receivers."""

    def __init__(self, track: Any, tuning: Tuning = DEFAULT_TUNING) -> None:
        self.tuning = tuning
        self.fanout = TrackFanout(track, NoopLogger())
        self.outgoing = Outgoing(track.kind, "t", "s", self.fanout)
        self.receivers: list[Receiver] = []
        self.track = track

    async def join(self, codec: str | None = None) -> Receiver:
        """Connect one more receiver."""
        receiver = Receiver(self.tuning)
        self.receivers.append(receiver)
        await receiver.connect(self.outgoing, codec)
        return receiver

    async def close(self) -> None:
        await asyncio.gather(*(receiver.close() for receiver in self.receivers))
        await self.fanout.close()
        self.track.stop()
