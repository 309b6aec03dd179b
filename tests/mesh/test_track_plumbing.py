"""Tracks on their way: nothing is pulled for nobody, queues are bounded, and what comes encoded stays as it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from metered_realtime import NoopLogger
from metered_realtime.media.codecs.encoders import Packet, SendCodec, make_encoder
from metered_realtime.media.sending import codec_fanout
from metered_realtime.media.sending.codec_fanout import MAX_KEPT_PACKETS
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sending.forward_track import (
    CATCH_UP_STEP,
    MAX_WAITING_AUDIO,
    MAX_WAITING_VIDEO,
    ForwardTrack,
)
from metered_realtime.media.sending.shared_packet import PlacedPacket, SharedPacket
from metered_realtime.media.sources.pattern import Pattern, read_counter
from metered_realtime.media.sources.testsource import write_test_clip
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

VP8 = SendCodec("video/vp8", 90_000)
H264 = SendCodec("video/h264", 90_000, "42")
OPUS = SendCodec("audio/opus", 48_000)

HELD_UP = 0.3  # seconds that an encoder takes to start


class Source(MediaStreamTrack):
    """Hands out what is put into it: packets of a codec, if it is given one."""

    def __init__(self, kind: str = "video", codec: str | None = None) -> None:
        super().__init__()
        self.kind = kind
        self.queue: asyncio.Queue[Any] = asyncio.Queue()
        self.waiting = 0
        if codec is not None:
            self.codec = codec

    async def recv(self) -> Any:
        self.waiting += 1
        try:
            return await self.queue.get()
        finally:
            self.waiting -= 1


class AskedSource(Source):
    """A source of packets that can be asked for key frames."""

    requests = 0

    def request_key_frame(self) -> None:
        self.requests += 1


class Encoded:
    """Numbered pictures, encoded, with key frames where they are asked for."""

    def __init__(self, codec: SendCodec = VP8) -> None:
        self._encoder = make_encoder(codec)
        self._pattern = Pattern(128, 96)
        self._number = 0

    def next(self, *, key: bool = False) -> Packet:
        frame = self._pattern.frame(self._number)
        (packet,) = self._encoder.encode(frame, Fraction(self._number, 30), 300_000, key_frame=key)
        self._number += 1
        return packet


@pytest.fixture
async def fanouts() -> AsyncIterator[list[TrackFanout]]:
    """Fan-outs that are closed in the end, with everybody who receives them."""
    made: list[TrackFanout] = []
    yield made
    await asyncio.gather(*(fanout.close() for fanout in made))


def fan_out(fanouts: list[TrackFanout], source: MediaStreamTrack) -> TrackFanout:
    fanouts.append(TrackFanout(source, NoopLogger()))
    return fanouts[-1]


def forward_of(fanout: TrackFanout, codec: SendCodec = VP8) -> ForwardTrack:
    forward = ForwardTrack(codec.mime_type.split("/")[0])
    forward.switch(fanout)
    forward.negotiated(codec)
    return forward


def packet_of(number: int, *, key: bool = False) -> Packet:
    packet: Packet = av.Packet(b"\x10\x00\x00\x9d\x01\x2a" if key else b"\x11\x00\x00")
    packet.pts, packet.time_base, packet.is_keyframe = number * 3_000, Fraction(1, 90_000), key
    return packet


@pytest.fixture
def no_encoders(monkeypatch: pytest.MonkeyPatch) -> list[SendCodec]:
    """The codecs for which encoders were made."""
    made: list[SendCodec] = []

    def note(codec: SendCodec, shrink: int = 1) -> Any:
        made.append(codec)
        return make_encoder(codec, shrink)

    monkeypatch.setattr(codec_fanout, "make_encoder", note)
    return made


# --- who pulls


async def test_a_source_is_read_once_for_all_who_read(fanouts: list[TrackFanout]) -> None:
    source = Source(codec="video/VP8")
    fanout = fan_out(fanouts, source)
    forwards = [forward_of(fanout) for _ in range(3)]
    await asyncio.sleep(0)
    assert source.waiting == 0, "nothing is pulled before somebody reads"
    reads = [asyncio.ensure_future(forward.recv()) for forward in forwards]
    await eventually(lambda: source.waiting)
    source.queue.put_nowait(packet_of(1, key=True))
    packets = await asyncio.gather(*reads)
    assert all(packet is packets[0] for packet in packets)
    assert source.waiting <= 1
    for forward in forwards:
        forward.stop()
    await eventually(lambda: source.waiting == 0)


async def test_nothing_is_pulled_before_the_codec_is_known(fanouts: list[TrackFanout]) -> None:
    source = Source()
    forward = ForwardTrack("video")
    forward.switch(fan_out(fanouts, source))
    read = asyncio.ensure_future(forward.recv())
    await asyncio.sleep(0)
    assert source.waiting == 0
    forward.negotiated(VP8)
    await eventually(lambda: source.waiting)
    forward.negotiated(H264)
    assert forward.codec == VP8, "a sender keeps its payload type"
    forward.stop()
    with pytest.raises(MediaStreamError):
        await read


async def test_a_switch_takes_effect_with_the_next_key_frame(fanouts: list[TrackFanout]) -> None:
    sources = Source(codec="video/VP8"), Source(codec="video/VP8")
    both = [fan_out(fanouts, source) for source in sources]
    forward = forward_of(both[0])
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: sources[0].waiting)
    sources[0].queue.put_nowait(packet_of(1, key=True))
    old = await read
    sources[0].queue.put_nowait(packet_of(2))
    await eventually(lambda: forward.queue_length == 1)
    forward.switch(both[1])
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: sources[1].waiting)
    assert sources[0].waiting == 0
    for number, key in ((90, False), (91, True), (92, False)):
        sources[1].queue.put_nowait(packet_of(number, key=key))
    packet = await read
    assert packet.is_keyframe
    assert old.pts < packet.pts < old.pts + 90_000
    assert (await forward.recv()).pts == packet.pts + 3_000
    forward.switch(None)
    read = asyncio.ensure_future(forward.recv())
    await asyncio.sleep(0)
    forward.stop()
    with pytest.raises(MediaStreamError):
        await read
    with pytest.raises(MediaStreamError):
        await forward.recv()


async def test_what_an_encoder_takes_to_start_moves_nothing_after_a_switch(
    fanouts: list[TrackFanout], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound, which is not switched, would be apart from the picture by as much."""
    loop, ready = asyncio.get_running_loop(), threading.Event()
    clock: list[float] = []

    class SlowToStart:
        def __init__(self, codec: SendCodec, shrink: int) -> None:
            self._encoder = make_encoder(codec, shrink)

        def encode(self, *args: Any, **options: Any) -> list[Packet]:
            ready.wait(PATIENCE)
            return self._encoder.encode(*args, **options)

        def reset(self) -> None: ...

    sources = Source(), Source()
    sent: list[PlacedPacket] = []
    forward = ForwardTrack("video")
    forward.negotiated(VP8)
    monkeypatch.setattr(codec_fanout, "make_encoder", SlowToStart)
    for number, source in enumerate(sources):
        forward.switch(fan_out(fanouts, source))
        read = asyncio.ensure_future(forward.next_shared_packet())
        await eventually(lambda it=source: it.waiting)
        frame = Pattern(128, 96).frame(number)
        frame.pts, frame.time_base = 700 * number, Fraction(1, 1_000)
        source.queue.put_nowait(frame)
        clock.append(loop.time())
        if number == 0:
            ready.set()
        else:
            loop.call_later(HELD_UP, ready.set)
        sent.append(await read)
        ready.clear()
    assert loop.time() - clock[1] >= HELD_UP
    passed = (sent[1].pts - sent[0].pts) / VP8.clock_rate
    assert passed == pytest.approx(clock[1] - clock[0], abs=HELD_UP / 3)
    assert [it.taken_at for it in sent] == pytest.approx(clock, abs=HELD_UP / 3)


# --- queues


async def test_a_slow_sender_goes_on_with_the_next_key_frame_and_asks_for_it(fanouts: list[TrackFanout]) -> None:
    source = AskedSource(codec="video/VP8")
    forward = forward_of(fan_out(fanouts, source))
    read = asyncio.ensure_future(forward.recv())
    await eventually(lambda: source.waiting)
    source.queue.put_nowait(packet_of(0, key=True))
    await read
    assert source.requests == 1
    for number in range(1, MAX_WAITING_VIDEO + 4):
        forward.push_packet(SharedPacket(packet_of(number)))
    assert (forward.queue_length, forward.frames_dropped) == (0, MAX_WAITING_VIDEO + 1)
    await eventually(lambda: source.requests == 2)
    forward.push_packet(SharedPacket(packet_of(100, key=True)))
    forward.push_packet(SharedPacket(packet_of(101)))
    assert [(await forward.recv()).pts for _ in range(2)] == [300_000, 303_000]


async def test_sound_that_waits_too_long_is_dropped_first() -> None:
    forward = ForwardTrack("audio")
    forward.negotiated(OPUS)
    for number in range(MAX_WAITING_AUDIO + 3):
        forward.push_packet(SharedPacket(packet_of(number)))
    assert forward.frames_dropped == 3
    assert (await forward.recv()).pts == 9_000
    assert forward.queue_length == MAX_WAITING_AUDIO - 1


# --- packets


async def test_packets_in_the_codec_go_out_as_they_are(
    fanouts: list[TrackFanout], no_encoders: list[SendCodec]
) -> None:
    source, encoded = AskedSource(codec="video/VP8"), Encoded()
    fanout = fan_out(fanouts, source)
    forwards = [forward_of(fanout) for _ in range(2)]
    reads = [asyncio.ensure_future(forward.recv()) for forward in forwards]
    sent = [encoded.next() for _ in range(3)]
    for packet in sent:
        source.queue.put_nowait(packet)
    got = [await read for read in reads]
    for forward, first in zip(forwards, got, strict=True):
        packets = [first, *[await forward.recv() for _ in range(2)]]
        assert [bytes(it) for it in packets] == [bytes(it) for it in sent]
        assert [it.pts for it in packets] == [0, 3_000, 6_000]
    assert no_encoders == []
    assert fanout.codec == "video/VP8"


async def test_a_newcomer_has_the_source_asked_for_a_key_frame_once_in_a_while(fanouts: list[TrackFanout]) -> None:
    source = AskedSource(codec="video/VP8")
    fanout = fan_out(fanouts, source)
    forwards = [forward_of(fanout) for _ in range(4)]
    reads = [asyncio.ensure_future(forward.recv()) for forward in forwards]
    await eventually(lambda: source.waiting)
    source.queue.put_nowait(packet_of(0))
    await eventually(lambda: source.requests == 1)
    for forward in forwards:
        forward.request_key_frame()
    assert source.requests == 1
    source.queue.put_nowait(packet_of(1, key=True))
    await asyncio.gather(*reads)
    for forward in forwards:
        forward.request_key_frame()
    await eventually(lambda: source.requests == 2)


async def test_a_newcomer_is_brought_up_to_date_if_the_source_makes_no_key_frames(fanouts: list[TrackFanout]) -> None:
    source, encoded = Source(codec="video/VP8"), Encoded()
    fanout = fan_out(fanouts, source)
    first = forward_of(fanout)
    read = asyncio.ensure_future(first.recv())
    for number in range(12):
        source.queue.put_nowait(encoded.next(key=number == 2))
    await read
    await eventually(lambda: first.queue_length == 11)
    newcomer = forward_of(fanout)
    packets = [await asyncio.wait_for(newcomer.recv(), PATIENCE) for _ in range(10)]
    assert packets[0].is_keyframe
    assert [it.pts for it in packets] == [33_000 - (9 - n) * CATCH_UP_STEP for n in range(10)]
    decoder = av.CodecContext.create("libvpx", "r")
    shown = [read_counter(frame) for packet in packets for frame in decoder.decode(packet)]  # type: ignore[attr-defined]
    assert shown == list(range(2, 12))
    source.queue.put_nowait(encoded.next())
    assert (await newcomer.recv()).pts == 36_000


async def test_a_switch_while_somebody_is_brought_up_to_date_does_not_end_him(fanouts: list[TrackFanout]) -> None:
    forward = ForwardTrack("video")
    forward.negotiated(VP8)
    forward.catch_up([SharedPacket(packet_of(number, key=number == 0)) for number in range(3)])
    read = asyncio.ensure_future(forward.recv())
    await asyncio.sleep(0)
    source = Source(codec="video/VP8")
    forward.switch(fan_out(fanouts, source))
    source.queue.put_nowait(packet_of(7, key=True))
    assert (await asyncio.wait_for(read, PATIENCE)).is_keyframe
    forward.stop()


async def test_what_is_kept_for_newcomers_is_bounded(fanouts: list[TrackFanout]) -> None:
    source = Source(codec="video/VP8")
    fanout = fan_out(fanouts, source)
    first = forward_of(fanout)
    read = asyncio.ensure_future(first.recv())
    for number in range(MAX_KEPT_PACKETS + 2):
        source.queue.put_nowait(packet_of(number, key=number == 0))
    await read
    await eventually(lambda: source.queue.empty() and source.waiting)
    newcomer = forward_of(fanout)
    read = asyncio.ensure_future(newcomer.recv())
    source.queue.put_nowait(packet_of(MAX_KEPT_PACKETS + 2))
    source.queue.put_nowait(packet_of(MAX_KEPT_PACKETS + 3, key=True))
    assert (await read).pts == (MAX_KEPT_PACKETS + 3) * 3_000


async def test_packets_are_encoded_again_only_for_who_has_another_codec(
    fanouts: list[TrackFanout], no_encoders: list[SendCodec]
) -> None:
    source, encoded = AskedSource(codec="video/VP8"), Encoded()
    fanout = fan_out(fanouts, source)
    same, other = forward_of(fanout), forward_of(fanout, H264)
    reads = [asyncio.ensure_future(it.recv()) for it in (same, other)]
    sent = [encoded.next(key=number == 0) for number in range(6)]
    for packet in sent:
        source.queue.put_nowait(packet)
        await asyncio.sleep(0.02)
    assert bytes(await reads[0]) == bytes(sent[0])
    decoder = av.CodecContext.create("h264", "r")
    (picture,) = [*decoder.decode(await reads[1]), *decoder.decode(None)]  # type: ignore[attr-defined]
    assert 0 <= read_counter(picture) < 6
    assert no_encoders == [H264]
    other.stop()
    source.queue.put_nowait(encoded.next())
    await eventually(lambda: fanout._decoder is None)


async def test_packets_of_a_file_are_told_by_their_stream_and_made_fit(
    fanouts: list[TrackFanout], no_encoders: list[SendCodec], tmp_path: Any
) -> None:
    clip = write_test_clip(tmp_path / "clip.mp4", seconds=0.5, width=128, height=96)
    assert clip.video_codec in ("libx264", "libopenh264"), "the wheels of PyAV have an H.264 encoder"
    source = Source()
    forward = forward_of(fan_out(fanouts, source), H264)
    read = asyncio.ensure_future(forward.recv())
    with av.open(str(clip.path)) as container:
        for packet in container.demux(video=0):
            if packet.size:
                source.queue.put_nowait(packet)
        first = await read
    assert bytes(first)[:4] in (b"\0\0\0\1", b"\0\0\1\x67", b"\0\0\1\x09")
    assert b"\0\0\1\x67" in bytes(first), "the key frame has its parameter sets"
    assert first.is_keyframe
    assert first.time_base == Fraction(1, 90_000)
    assert no_encoders == []


async def test_packets_that_cannot_be_sent_are_counted(fanouts: list[TrackFanout]) -> None:
    source = Source(codec="video/AV1")
    forward = forward_of(fan_out(fanouts, source))
    read = asyncio.ensure_future(forward.recv())
    source.queue.put_nowait(packet_of(0, key=True))
    await eventually(lambda: forward.frames_failed == 1)
    forward.stop()
    await asyncio.gather(read, return_exceptions=True)
