"""One encoder for many receivers: it starts with the first, serves all of them, and ends with the last."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator
from fractions import Fraction
from math import inf
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from metered_realtime import NoopLogger
from metered_realtime.core.media import key_frame_gate
from metered_realtime.media.codecs.encoders import SendCodec, make_encoder
from metered_realtime.media.codecs.pcm import pcm_frame
from metered_realtime.media.sending import codec_fanout, fanout
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sending.forward_track import ForwardTrack
from metered_realtime.media.sending.shared_encoder import MAX_WAITING_VIDEO, THREAD_NAME, SharedEncoder
from metered_realtime.media.sources.pattern import Pattern
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

VP8 = SendCodec("video/vp8", 90_000)
H264 = SendCodec("video/h264", 90_000, "42")
OPUS = SendCodec("audio/opus", 48_000)


class Source(MediaStreamTrack):
    """Returns what the test puts in."""

    def __init__(self, kind: str = "video") -> None:
        super().__init__()
        self.kind = kind
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.waiting = 0

    def put(self, *units: Any) -> None:
        for unit in units:
            self.queue.put_nowait(unit)

    async def recv(self) -> Any:
        self.waiting += 1
        try:
            item = await self.queue.get()
        finally:
            self.waiting -= 1
        if isinstance(item, Exception):
            raise item
        return item


class Notes(NoopLogger):
    """Collects log lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(msg)

    error = debug = warning


class Hall:
    """A source, its fan-out and the receivers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str = "video") -> None:
        self.source, self.notes = Source(kind), Notes()
        self.fanout = TrackFanout(self.source, self.notes)
        self.fanouts = [self.fanout]
        self.forwards: list[ForwardTrack] = []
        self.made: list[tuple[str, int]] = []
        self.pattern = Pattern(320, 240)
        self.number = 0

        def count(codec: SendCodec, shrink: int = 1) -> Any:
            self.made.append((codec.mime_type, shrink))
            return make_encoder(codec, shrink)

        monkeypatch.setattr(codec_fanout, "make_encoder", count)

    def forward(self, codec: SendCodec = VP8, *, source: TrackFanout | None = None) -> ForwardTrack:
        forward = ForwardTrack(self.source.kind)
        forward.negotiated(codec)
        forward.switch(source or self.fanout)
        self.forwards.append(forward)
        return forward

    def picture(self) -> VideoFrame:
        frame = self.pattern.frame(self.number)
        frame.pts, frame.time_base = self.number * 3_000, Fraction(1, 90_000)
        self.number += 1
        return frame

    async def show(self, *readers: asyncio.Future[Any] | ForwardTrack) -> list[Any]:
        """Send a picture, and return what these receivers get."""
        reads = [asyncio.ensure_future(it.recv()) if isinstance(it, ForwardTrack) else it for it in readers]
        await eventually(lambda: self.source.waiting)
        self.source.put(self.picture())
        return await asyncio.wait_for(asyncio.gather(*reads), PATIENCE)


@pytest.fixture
async def hall(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hall]:
    hall = Hall(monkeypatch)
    yield hall
    for forward in hall.forwards:
        forward.stop()
    for each in hall.fanouts:
        await each.close()
    assert not [it for it in threading.enumerate() if it.name.startswith(THREAD_NAME)]


async def test_all_of_a_codec_get_the_very_same_packet(hall: Hall) -> None:
    forwards = [hall.forward() for _ in range(3)]
    for number in range(3):
        first, *others = await hall.show(*forwards)
        assert all(packet is first for packet in others)
        assert (first.pts, first.is_keyframe) == (number * 3_000, number == 0)
    assert hall.made == [("video/vp8", 1)]


async def test_each_codec_has_one_encoder(hall: Hall) -> None:
    forwards = [hall.forward(codec) for codec in (VP8, H264, VP8, H264)]
    packets = await hall.show(*forwards)
    assert (packets[0] is packets[2], packets[1] is packets[3]) == (True, True)
    assert packets[0] is not packets[1]
    assert sorted(hall.made) == [("video/h264", 1), ("video/vp8", 1)]


async def test_an_encoder_ends_with_its_last_receiver(hall: Hall) -> None:
    vp8, h264 = hall.forward(), hall.forward(H264)
    await hall.show(vp8, h264)
    assert len([it for it in threading.enumerate() if it.name.startswith(THREAD_NAME)]) == 2
    h264.stop()
    await eventually(lambda: len([it for it in threading.enumerate() if it.name.startswith(THREAD_NAME)]) == 1)
    await hall.show(vp8)
    vp8.stop()
    await eventually(lambda: not hall.source.waiting)
    again = hall.forward()
    (packet,) = await hall.show(again)
    assert packet.is_keyframe


async def test_a_new_receiver_begins_with_a_key_frame_for_all(hall: Hall) -> None:
    old = hall.forward()
    assert (await hall.show(old))[0].is_keyframe
    for _ in range(3):
        assert not (await hall.show(old))[0].is_keyframe
    new = hall.forward()
    packets = await hall.show(old, new)
    assert packets[0] is packets[1]
    assert packets[0].is_keyframe


async def test_requests_are_met_together_and_no_sooner_than_the_interval_allows(
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_frame_gate, "MIN_INTERVAL", inf)
    one, other = hall.forward(), hall.forward()
    keys = []
    for number in range(6):
        one.request_key_frame()
        other.request_key_frame()
        if number == 4:
            monkeypatch.setattr(key_frame_gate, "MIN_INTERVAL", 0.0)
        packet, _ = await hall.show(one, other)
        keys.append(packet.is_keyframe)
    assert keys == [True, True, False, False, True, True]


async def test_a_new_receiver_sees_a_source_that_pauses(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fanout, "REPEAT_AFTER", 0.05)
    old = hall.forward()
    (first,) = await hall.show(old)
    new = hall.forward()
    packet = await asyncio.wait_for(new.recv(), PATIENCE)
    assert packet.is_keyframe
    assert packet.pts > first.pts
    assert await old.recv() is packet
    hall.source.put(hall.picture())
    later = await new.recv()
    assert later.pts > packet.pts


async def test_a_slow_encoder_gets_the_newest_frames(hall: Hall) -> None:
    class Slow:
        def __init__(self) -> None:
            self.seen: list[Any] = []
            self.go = threading.Event()

        def encode(self, frame: Any, at: Fraction, bitrate: int, *, key_frame: bool) -> list[Any]:
            self.go.wait(PATIENCE)
            self.seen.append(frame)
            return []

        def reset(self) -> None: ...

    class Outlet:
        drops = 0

        def push_packet(self, packet: Any) -> None: ...
        def count_failed_frame(self) -> None: ...
        def count_dropped_frame(self) -> None:
            self.drops += 1

    slow, outlet = Slow(), Outlet()
    encoder = SharedEncoder(slow, "video", 0, outlet, NoopLogger())
    encoder.push_frame(0, Fraction(0))
    await eventually(lambda: not encoder.queue_length)
    for number in range(1, 6):
        encoder.push_frame(number, Fraction(number))
    assert (outlet.drops, encoder.queue_length) == (5 - MAX_WAITING_VIDEO, MAX_WAITING_VIDEO)
    slow.go.set()
    await eventually(lambda: len(slow.seen) == 3)
    assert slow.seen == [0, 4, 5]
    slow.go.clear()
    encoder.push_frame(6, Fraction(6))
    await eventually(lambda: not encoder.queue_length)
    closed = encoder.close()
    assert not closed.done()
    slow.go.set()
    await asyncio.wait_for(asyncio.wait([closed]), PATIENCE)


async def test_a_frame_that_cannot_be_encoded_is_skipped_and_logged_once(hall: Hall) -> None:
    forward = hall.forward()
    await hall.show(forward)
    for count in range(1, 4):
        hall.source.put(pcm_frame(bytes(3_840), count * 960))
        await eventually(lambda count=count: forward.frames_failed == count)
    assert hall.notes.lines == ["frames cannot be sent"]
    packet = await hall.show(forward)
    assert packet[0].is_keyframe, "it begins anew"
    hall.source.put(object())
    await eventually(lambda: forward.frames_failed == 4)
    assert hall.notes.lines == ["frames cannot be sent"] * 2


async def test_a_source_that_starts_over_goes_on(hall: Hall) -> None:
    forward = hall.forward()
    stamps = []
    for _ in range(3):
        stamps.append((await hall.show(forward))[0].pts)
    hall.number = 0
    for _ in range(3):
        stamps.append((await hall.show(forward))[0].pts)
    assert stamps == sorted(set(stamps))
    assert hall.made == [("video/vp8", 1)]


async def test_a_frame_without_a_time_is_sent_all_the_same(hall: Hall) -> None:
    forward = hall.forward()
    stamps = []
    for _ in range(3):
        read = asyncio.ensure_future(forward.recv())
        frame = hall.picture()
        frame.pts = None
        hall.source.put(frame)
        stamps.append((await read).pts)
        await asyncio.sleep(0.03)
    assert stamps == sorted(set(stamps))
    assert stamps[-1] - stamps[0] >= 4_000


@pytest.mark.parametrize(("error", "line"), [(MediaStreamError(), "ended"), (RuntimeError("x"), "failed")])
async def test_the_end_of_a_source_is_logged_and_its_receivers_wait(hall: Hall, error: Exception, line: str) -> None:
    forward = hall.forward()
    read = asyncio.ensure_future(forward.recv())
    hall.source.put(error)
    await eventually(lambda: hall.notes.lines)
    assert hall.notes.lines == [f"local track {line}"]
    assert not read.done()
    assert forward.readyState == "live"
    forward.stop()
    await asyncio.gather(read, return_exceptions=True)


async def test_another_source_goes_on_by_the_time_that_has_passed_with_a_key_frame(hall: Hall) -> None:
    other = Source()
    fanout = TrackFanout(other, hall.notes)
    hall.fanouts.append(fanout)
    forward = hall.forward()
    began = time.monotonic()
    for _ in range(3):
        (last,) = await hall.show(forward)
    forward.switch(fanout)
    await asyncio.sleep(0.1)
    hall.number = 0
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: other.waiting)
    assert not hall.source.waiting
    other.put(hall.picture())
    packet = await read
    passed = time.monotonic() - began
    assert packet.is_keyframe
    # The last one is placed by the quickest of the three: not before the first one was requested.
    assert last.pts + 9_000 <= packet.pts <= last.pts + passed * 90_000 + 1
    other.put(hall.picture())
    assert (await forward.recv()).pts == packet.pts + 3_000


async def test_the_low_rendition_is_for_the_slow_only_and_begins_with_a_key_frame(hall: Hall) -> None:
    hall.pattern = Pattern(640, 480)
    fast, slow = hall.forward(), hall.forward()
    fast.take_estimate(1_500_000)
    reads = [asyncio.ensure_future(_all_of(it)) for it in (fast, slow)]
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE and (slow.target_bitrate or 0) != 200_000:
        fast.take_estimate(1_500_000)
        slow.take_estimate(200_000)
        hall.source.put(_noise(hall.picture()))
        await asyncio.sleep(1 / 30)
    for _ in range(10):
        hall.source.put(_noise(hall.picture()))
        await asyncio.sleep(1 / 30)
    assert (fast.target_bitrate, slow.target_bitrate) == (1_500_000, 200_000)
    assert hall.made == [("video/vp8", 1), ("video/vp8", 2)]
    slow.stop()
    fast.stop()
    to_fast, to_slow = [await read for read in reads]
    assert to_slow[-1] not in to_fast
    same = [packet for packet in to_slow if packet in to_fast]
    first = to_slow[len(same)]
    assert first.is_keyframe
    stamps = [packet.pts for packet in to_slow]
    assert stamps == sorted(set(stamps))
    await eventually(lambda: not [it for it in threading.enumerate() if it.name.startswith(THREAD_NAME)])


async def _all_of(forward: ForwardTrack) -> list[Any]:
    packets = []
    try:
        while True:
            packets.append(await forward.recv())
    except MediaStreamError:
        return packets


def _noise(frame: VideoFrame) -> VideoFrame:
    """Make a picture so hard to encode that it uses up the target."""
    plane = frame.planes[0]
    plane.update(_SHIFTING[(frame.pts or 0) // 3_000 % 7 * 1_000 :][: plane.buffer_size])
    return frame


_SHIFTING = random.Random(1).randbytes(640 * 480 + 10_000)


async def test_a_track_that_swallows_cancellation_is_read_no_further_than_its_next_frame(
    hall: Hall,
) -> None:
    released, ended = asyncio.Event(), []

    class Stubborn(Source):
        async def recv(self) -> Any:
            while not released.is_set():
                try:
                    await released.wait()
                except asyncio.CancelledError:
                    continue
            return await super().recv()

    for last in (hall.picture(), MediaStreamError()):
        released.clear()
        track = Stubborn()
        fanout = TrackFanout(track, hall.notes, lambda track, error: ended.append(error))
        forward = hall.forward(source=fanout)
        read = asyncio.ensure_future(forward.recv())
        for _ in range(5):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(fanout.close())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        track.put(last)
        released.set()
        for _ in range(10):  # iterations of the event loop: nothing waits for a time
            await asyncio.sleep(0)
        assert closing.done()
        forward.stop()
        await asyncio.gather(read, return_exceptions=True)
    assert ended == []
