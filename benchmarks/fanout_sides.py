"""The two ends of `benchmarks.fanout`, each in a process of its own: lines of JSON in, lines of JSON out."""

from __future__ import annotations

import asyncio
import json
import math
import random
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import Any

import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import CODECS, is_rtx
from aiortc.contrib.media import MediaRelay
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from metered_realtime import NoopLogger
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.sections import Incoming, Outgoing
from metered_realtime.core.negotiation.sdp import Description
from metered_realtime.media.pacing import Pacer
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sources.pattern import Pattern, read_counter

FPS = 30
LOOP = 40
"""Pictures that are drawn in advance and shown to and fro, so that drawing costs the sender nothing."""

PATIENCE = 20.0
"""Seconds that connecting may take."""

SAMPLES = 4
"""Every fourth pixel of every fourth row is compared."""

Task = dict[str, Any]


# --- the picture


def draw(width: int, height: int) -> list[list[bytes]]:
    """Draw the planes of all pictures: a soft texture that pans, with detail, under the pattern's box and number."""
    pattern, chance = Pattern(width, height), random.Random(1)
    coarse = av.VideoFrame(width // 16, height // 16, "gray")
    coarse.planes[0].update(chance.randbytes(coarse.planes[0].buffer_size))
    wide = coarse.reformat(width=width + 2 * LOOP, height=height, interpolation="BICUBIC")
    texture, step = memoryview(wide.planes[0]), wide.planes[0].line_size
    pictures = []
    for number in range(LOOP):
        frame = pattern.frame(number)
        luma, stride = memoryview(frame.planes[0]), frame.planes[0].line_size
        for row in range(height * 2 // 3):
            start = row * step + 2 * number
            luma[row * stride : row * stride + width] = texture[start : start + width]
        pictures.append([bytes(plane) for plane in frame.planes])
    return pictures


def shown_at(number: int) -> int:
    """Return which picture is shown as number so and so."""
    place = number % (2 * LOOP - 2)
    return place if place < LOOP else 2 * LOOP - 2 - place


class Scene(MediaStreamTrack):
    """Shows the pictures in real time."""

    kind = "video"

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.frames_made = 0
        self._size = width, height
        self._pictures = draw(width, height)
        self._pacer = Pacer(Fraction(1, FPS))

    async def recv(self) -> av.VideoFrame:
        if self.readyState != "live":
            raise MediaStreamError
        await self._pacer.wait()
        frame = av.VideoFrame(*self._size, "yuv420p")
        for plane, pixels in zip(frame.planes, self._pictures[shown_at(self.frames_made)], strict=True):
            plane.update(pixels)
        frame.pts, frame.time_base = self.frames_made * 90_000 // FPS, Fraction(1, 90_000)
        self.frames_made += 1
        return frame


def psnr(frame: av.VideoFrame, pictures: list[list[bytes]]) -> float | None:
    """Compare the luma of a picture that arrived with the one that was shown. None if its number cannot be read."""
    number = read_counter(frame)
    if number >= LOOP:
        return None
    plane, ours = memoryview(frame.planes[0]), pictures[number][0]
    step, stride = frame.planes[0].line_size, len(ours) // frame.height
    total = count = 0
    for row in range(0, frame.height, SAMPLES):
        theirs = plane[row * step : row * step + frame.width : SAMPLES].tolist()
        wanted = ours[row * stride : row * stride + frame.width : SAMPLES]
        total += sum((one - other) ** 2 for one, other in zip(theirs, wanted, strict=True))
        count += len(wanted)
    return 10 * math.log10(255 * 255 * count / total) if total else 99.0


# --- the sender


class Observer:
    """Notes the tracks that come in."""

    def __init__(self) -> None:
        self.incoming: list[Incoming] = []

    def tracks_changed(self, removed: Any, added: Any) -> None:
        self.incoming += added

    def peer_connection_state_changed(self, link: Any, state: str) -> None: ...
    def offer_unanswered(self) -> None: ...
    def channel_opened(self, channel: Any) -> None: ...


class Shared:
    """This package: one encoder for all."""

    def __init__(self, track: Scene, receivers: int) -> None:
        self._fanout = TrackFanout(track, NoopLogger())
        self._wanted = {1: Outgoing("video", "t", "s", self._fanout)}
        self._links = [PeerConnection(Observer(), NoopLogger()) for _ in range(receivers)]
        self.pcs = [link.pc for link in self._links]
        self._plans: list[Any] = []

    async def offers(self) -> list[str]:
        for link in self._links:
            await link.gather_host()
            self._plans.append(link.plan(self._wanted))
            link.offer_sent()
        return [link.offer_text(plan) for link, plan in zip(self._links, self._plans, strict=True)]

    async def connect(self, answers: list[str]) -> None:
        for link, plan, answer in zip(self._links, self._plans, answers, strict=True):
            await link.commit(plan, link.offer_text(plan), Description.parse("answer", answer), self._wanted)
        await _until(lambda: all(link.pc.connectionState == "connected" for link in self._links))

    async def close(self) -> None:
        await asyncio.gather(*(link.close() for link in self._links))
        await self._fanout.close()


class PerPeer:
    """aiortc as its examples use it: a relay, and an encoder in every connection."""

    def __init__(self, track: Scene, receivers: int) -> None:
        relay = MediaRelay()
        self.pcs = [RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(receivers)]
        for pc in self.pcs:
            pc.addTrack(relay.subscribe(track))

    async def offers(self) -> list[str]:
        for pc in self.pcs:
            await pc.setLocalDescription(await pc.createOffer())
        return [pc.localDescription.sdp for pc in self.pcs]

    async def connect(self, answers: list[str]) -> None:
        for pc, answer in zip(self.pcs, answers, strict=True):
            await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await _until(lambda: all(pc.connectionState == "connected" for pc in self.pcs))

    async def close(self) -> None:
        await asyncio.gather(*(pc.close() for pc in self.pcs))


WAYS: dict[str, Callable[[Scene, int], Any]] = {"shared": Shared, "per peer": PerPeer}


async def sent_by(pc: RTCPeerConnection) -> int:
    """Return how many bytes of video were sent to one receiver."""
    (sender,) = pc.getSenders()
    return sum(it.bytesSent for it in (await sender.getStats()).values() if it.type == "outbound-rtp")


async def send(task: Task, ask: Callable[[Any], Awaitable[Any]]) -> dict[str, float]:
    """Send to all, and return CPU seconds and pictures per second, bits per second to one of them, and memory in MB."""
    scene = Scene(task["width"], task["height"])
    way = WAYS[task["way"]](scene, task["receivers"])
    await way.connect(await ask(await way.offers()))
    await asyncio.sleep(task["warm_up"])
    sent = await sent_by(way.pcs[0])
    began, cpu, made = time.perf_counter(), time.process_time(), scene.frames_made
    await asyncio.sleep(task["seconds"])
    passed = time.perf_counter() - began
    result = {
        "cpu": (time.process_time() - cpu) / passed,
        "bitrate": (await sent_by(way.pcs[0]) - sent) * 8 / passed,
        "made": (scene.frames_made - made) / passed,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000,
    }
    await way.close()
    scene.stop()
    return result


# --- the receivers


async def receive(task: Task, ask: Callable[[Any], Awaitable[Any]]) -> dict[str, float | None]:
    """Receive by so many links, of which the first decodes. Return its pictures per second and how good they are."""
    _only(task["codec"])
    pictures, observer = draw(task["width"], task["height"]), Observer()
    links = [PeerConnection(observer, NoopLogger()) for _ in range(task["receivers"])]
    answers = [
        (await link.answer(Description.parse("offer", offer), {}))[0]
        for link, offer in zip(links, task["offers"], strict=True)
    ]
    reading = asyncio.ensure_future(_compare(observer.incoming[0].track, pictures, task["warm_up"]))
    await ask(answers)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    arrived = [incoming.track.frames_received for incoming in observer.incoming]
    await asyncio.gather(*(link.close() for link in links))
    return {"least": min(arrived), "most": max(arrived), **_quality}


_quality: dict[str, float | None] = {"psnr": None, "shown": 0.0}


async def _compare(track: Any, pictures: list[list[bytes]], warm_up: float) -> None:
    values: list[float] = []
    began, first, count = time.perf_counter(), 0.0, 0
    while True:
        frame = await track.recv()
        now = time.perf_counter()
        if now - began < warm_up:
            continue
        first, count = first or now, count + 1
        if count % 5 == 0:
            value = psnr(frame, pictures)
            values += [value] if value is not None else []
            _quality["psnr"] = statistics.fmean(values) if values else None
        _quality["shown"] = count / (now - first) if now > first else 0.0


def _only(codec: str) -> None:
    """Know no other codec from now on, and its retransmissions."""
    kept: list[Any] = []
    for it in CODECS["video"]:
        number = it.parameters.get("apt") if is_rtx(it) else None
        if it.mimeType == codec or any(number == other.payloadType for other in kept):
            kept.append(it)
    CODECS["video"][:] = kept


# --- the processes


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110 - any of many states
            await asyncio.sleep(0.01)


async def _main() -> None:
    loop = asyncio.get_running_loop()

    async def ask(message: Any) -> Any:
        print(json.dumps(message), flush=True)
        return json.loads(await loop.run_in_executor(None, sys.stdin.readline))

    task = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    result = await (send if sys.argv[1] == "send" else receive)(task, ask)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
