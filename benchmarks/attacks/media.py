"""Attacks by what a remote sends as media, on a peer that reads or records it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from aiortc import RTCPeerConnection
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from benchmarks.attacks.stage import CHANNEL, Attack, Stage
from metered_realtime import MeteredPeer, PeerJoined, Recorder, Track

SECONDS = 8.0
AT_ONCE = 4
WARM, VISITS = 16, 52
"""Visits before the measuring, for what a process takes once, and in all."""
CHANGES_PER_SECOND = 100


class PacketTrack(MediaStreamTrack):
    """Sends packets in turn, each a key frame."""

    kind = "video"

    def __init__(self, codec: str, packets: list[bytes], per_second: int) -> None:
        super().__init__()
        self.codec = codec
        self._packets = itertools.cycle(packets)
        self._per_second = per_second
        self._number = 0

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(1 / self._per_second)
        packet: Any = av.Packet(next(self._packets))
        packet.pts = packet.dts = self._number * 90_000 // self._per_second
        packet.time_base, packet.is_keyframe = Fraction(1, 90_000), True
        self._number += 1
        return packet


class Silence(MediaStreamTrack):
    """Sends 20 ms of silence at a time."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._number = 0

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        await asyncio.sleep(0.02)
        frame = av.AudioFrame("s16", "stereo", 960)
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 960 * self._number, Fraction(1, 48_000)
        self._number += 1
        return frame


def key_frame(codec: str, width: int, height: int) -> bytes:
    """Return an encoded grey picture."""
    context: Any = av.CodecContext.create(codec, "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    if codec == "libx264":
        context.profile, context.options = "Baseline", {"tune": "zerolatency"}
    frame = av.VideoFrame(width, height, "yuv420p")
    frame.pts = 0
    packets = context.encode(frame)
    return bytes(packets[0] if packets else context.encode(None)[0])


@asynccontextmanager
async def attacker(stage: Stage, peer_id: str, track: MediaStreamTrack) -> AsyncIterator[MeteredPeer]:
    """A further peer who sends a track to everybody."""
    peer = stage.peer(peer_id)
    peer.add_track(track)
    await peer.join(CHANNEL)
    try:
        yield peer
    finally:
        track.stop()
        await peer.close()


async def huge_pictures(stage: Stage) -> None:
    """VP8 key frames of 64x48 that claim 16000x16000, to a victim that reads."""
    real = key_frame("libvpx", 64, 48)
    size = (16_000).to_bytes(2, "little")
    track = PacketTrack("video/VP8", [real[:6] + size + size + real[10:]], 10)
    reading: set[asyncio.Task[Any]] = set()

    @stage.victim.on(PeerJoined)
    def _(event: PeerJoined) -> None:
        event.peer.on(Track, lambda it: reading.add(asyncio.ensure_future(it.track.recv())))

    async with stage.watch(), attacker(stage, "attacker", track):
        await asyncio.sleep(SECONDS)
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


async def changing_pictures(stage: Stage) -> None:
    """Key frames of H.264 of two sizes in turn, to a victim that records. Says on stderr how many files there are."""
    track = PacketTrack("video/H264", [key_frame("libx264", side, 48) for side in (64, 80)], CHANGES_PER_SECOND)
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "{peer}.mkv")
        recorder.follow(stage.victim)
        await recorder.start()
        async with stage.watch(), attacker(stage, "attacker", track):
            await asyncio.sleep(SECONDS)
        await recorder.close()
        print(f"changing_pictures: {len(list(Path(folder).iterdir()))} files in {SECONDS:.0f} s", file=sys.stderr)  # noqa: ASYNC240


def connections() -> int:
    """Return how many connections there are in memory, open or not."""
    gc.collect()
    return sum(isinstance(it, RTCPeerConnection) for it in gc.get_objects())


async def visitors(stage: Stage) -> None:
    """Participants who come, send sound and leave, while the victim records. Says on stderr how many connections stay
    alive in memory."""
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "{peer}.webm")
        recorder.follow(stage.victim)
        await recorder.start()

        async def visit(number: int) -> None:
            before = recorder.stats().tracks
            async with attacker(stage, f"visitor-{number}", Silence()):
                async with asyncio.timeout(20):
                    while recorder.stats().tracks <= before:  # noqa: ASYNC110 - there is no event for it
                        await asyncio.sleep(0.02)

        async def visits(first: int, last: int) -> None:
            for number in range(first, last, AT_ONCE):
                await asyncio.gather(*(visit(number + it) for it in range(AT_ONCE)))

        await visits(0, WARM)
        before = connections()
        async with stage.watch():
            await visits(WARM, VISITS)
        print(f"visitors: {connections() - before} connections kept of {VISITS - WARM}", file=sys.stderr)
        await recorder.close()


ATTACKS: dict[str, Attack] = {
    "media_huge_pictures": huge_pictures,
    "media_changing_pictures": changing_pictures,
    "media_visitors": visitors,
}
