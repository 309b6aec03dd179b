"""What arrives over UDP: undecoded while nobody reads, from a key frame on at once, bounded for each reader."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpreceiver import RTCRtpReceiver

from metered_realtime import (
    ConnectionReset,
    InboundTrackStats,
    MediaStream,
    PictureRefused,
    RemotePeer,
    Track,
    iter_frames,
    iter_pcm,
)
from metered_realtime.core.media import track_clock
from metered_realtime.media.receiving import remote_track
from metered_realtime.media.receiving.readers import MAX_WAITING_AUDIO, MAX_WAITING_VIDEO
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.coding import decode
from tests.support.inside import fail_connection
from tests.support.patience import PATIENCE
from tests.support.peers import FPS, GreyTrack, Pair, Room, ended, eventually, frames, level_of

STEP = 90_000 // FPS


def got(remote: RemotePeer) -> InboundTrackStats:
    """Return the stats of the one track that a remote sends."""
    (track,) = remote.stats().inbound
    return track


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-decoder")]


async def arriving(pair: Pair, local: Any, count: int = 3) -> Any:
    """Send a track from a to b, and return what b receives once some of it has come, unread."""
    before = len(pair.log_b.of(Track))
    pair.a.add_track(local, MediaStream([local]))
    received = (await pair.log_b.until(Track, before + 1)).track
    await eventually(lambda: received.frames_received >= count)
    return received


@pytest.fixture(autouse=True)
def no_time_counts_as_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the timestamps regular when a busy machine holds up the sender."""
    monkeypatch.setattr(track_clock, "LOST", math.inf)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The moments at which any receiver sends a PLI."""
    sent: list[float] = []
    send = RTCRtpReceiver._send_rtcp_pli

    async def note(self: Any, media_ssrc: int) -> None:
        sent.append(time.monotonic())
        await send(self, media_ssrc)

    monkeypatch.setattr(RTCRtpReceiver, "_send_rtcp_pli", note)
    return sent


async def test_a_track_that_nobody_reads_costs_no_decoding(room: Room, requests: list[float]) -> None:
    pair = await room.pair()
    video, audio = await arriving(pair, GreyTrack()), await arriving(pair, ToneTrack())
    await eventually(lambda: video.frames_received >= 40 and audio.frames_received >= 100)
    for track in (video, audio):
        assert (track.frames_decoded, track.queue_length, track.is_decoding) == (0, 0, False)
        assert track.frames_unread == track.frames_dropped == track.frames_received
    assert (decoders(), requests) == ([], [])


@pytest.mark.alone
async def test_the_first_frame_is_fresh_and_there_at_once(room: Room, requests: list[float]) -> None:
    pair = await room.pair()
    local = GreyTrack()
    received = await arriving(pair, local, 30)
    started = time.monotonic()
    frame = await received.recv()
    assert time.monotonic() - started < 0.5
    assert len(requests) == 1
    assert requests[0] - started < 0.05
    made = frame.pts // STEP
    assert local.frames_made - made <= 4
    (following,) = await frames(received, 1)
    assert following.pts == frame.pts + STEP
    assert got(pair.to_a).frames_unread >= 30


async def test_several_readers_have_one_decoder_and_it_ends_with_them(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_track, "LINGER", 0.1)
    pair = await room.pair()
    received = await arriving(pair, GreyTrack())

    async def read(count: int) -> list[int]:
        seen: list[int] = []
        async for frame in iter_frames(received):
            assert frame.pts is not None
            seen.append(frame.pts)
            if len(seen) == count:
                break
        return seen

    readers = [asyncio.ensure_future(read(12)) for _ in range(3)]
    await eventually(lambda: decoders())
    assert len(decoders()) == 1
    results = await asyncio.gather(*readers)
    for seen in results:
        assert seen == list(range(seen[0], seen[0] + 12 * STEP, STEP))
    assert received.frames_decoded <= 14
    await eventually(lambda: not decoders())
    count = received.frames_decoded
    await eventually(lambda: received.frames_unread >= 5)
    assert received.frames_decoded == count


@pytest.mark.alone
async def test_a_slow_reader_of_video_gets_the_newest(room: Room) -> None:
    pair = await room.pair()
    local = GreyTrack()
    received = await arriving(pair, local)
    lags = []
    for _ in range(6):
        frame = await received.recv()
        lags.append(local.frames_made - 1 - frame.pts // STEP)
        await asyncio.sleep(0.35)
    assert max(lags) <= 2, "in frames, of 50 ms"
    stats = got(pair.to_a)
    assert stats.queue_length == MAX_WAITING_VIDEO
    assert stats.frames_dropped - stats.frames_unread >= 20


@pytest.mark.alone
async def test_a_slow_reader_of_sound_has_a_bounded_gap(room: Room) -> None:
    pair = await room.pair()
    received = await arriving(pair, ToneTrack())
    first = await received.recv()
    await eventually(lambda: received.frames_decoded >= MAX_WAITING_AUDIO + 30)
    before, queued = got(pair.to_a), received.queue_length
    assert queued == MAX_WAITING_AUDIO
    following = await frames(received, MAX_WAITING_AUDIO)
    gap = (following[0].pts - first.pts) // 960 - 1
    assert gap == before.frames_dropped - before.frames_unread >= 29
    assert [it.pts for it in following] == list(range(following[0].pts, following[0].pts + 960 * len(following), 960))


async def test_packets_of_both_kinds_are_decoded_elsewhere(room: Room, requests: list[float]) -> None:
    pair = await room.pair()
    video, audio = await arriving(pair, GreyTrack(60), 10), await arriving(pair, ToneTrack(), 10)
    readers = video.encoded(), audio.encoded()
    packets = [[await reader.recv() for _ in range(15)] for reader in readers]
    assert [reader.codec for reader in readers] == ["video/VP8", "audio/opus"]
    pictures, sounds = (decode(each, reader.codec or "") for each, reader in zip(packets, readers, strict=True))
    assert [packet.is_keyframe for packet in packets[0]][:2] == [True, False]
    assert [packet.pts for packet in packets[0]] == [picture.pts for picture in pictures]
    assert abs(level_of(pictures[-1]) - 60) < 6
    assert {packet.time_base.denominator for packet in packets[1]} == {48_000}
    assert sum(sound.samples for sound in sounds) == 15 * 960
    assert (video.frames_decoded, audio.frames_decoded, decoders(), len(requests)) == (0, 0, [], 1)
    for reader in readers:
        reader.stop()
        with pytest.raises(MediaStreamError):
            await reader.recv()


async def test_a_key_frame_can_be_asked_for(room: Room) -> None:
    pair = await room.pair()
    packets = (await arriving(pair, GreyTrack())).encoded()
    assert (await packets.recv()).is_keyframe
    assert not (await packets.recv()).is_keyframe
    packets.request_key_frame()
    async with asyncio.timeout(PATIENCE):
        while not (await packets.recv()).is_keyframe:
            pass
    packets.stop()


@pytest.mark.alone
async def test_negotiations_in_mid_call_disturb_no_reader(room: Room, requests: list[float]) -> None:
    pair = await room.pair()
    received = await arriving(pair, GreyTrack())
    packets = received.encoded()
    seen: list[list[int]] = [[], []]

    async def read(number: int, reader: Any) -> None:
        while True:
            seen[number].append((await reader.recv()).pts)

    tasks = [asyncio.ensure_future(read(number, it)) for number, it in enumerate((received.decoded(), packets))]
    await eventually(lambda: all(len(each) >= 3 for each in seen))
    for level in (80, 160):
        more = GreyTrack(level)
        pair.a.add_track(more, MediaStream([more]))
        await pair.media_to_a(level)
        pair.a.remove_track(more)
        wanted = max(map(len, seen)) + 5
        await eventually(lambda wanted=wanted: min(map(len, seen)) >= wanted)
    for each in seen:
        steps = {later - sooner for sooner, later in itertools.pairwise(each)}
        assert steps == {STEP}, "none is missing, none comes twice"
    assert received.readyState == "live"
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_replaced_connection_ends_all_readers(room: Room) -> None:
    pair = await room.pair()
    received = await arriving(pair, GreyTrack())
    readers = received, received.decoded(), received.encoded()
    await asyncio.gather(*(frames(reader, 2) for reader in readers))
    fail_connection(pair.to_b)
    await asyncio.gather(*(ended(reader) for reader in readers))
    await pair.log_b.until(ConnectionReset)
    assert [reader.readyState for reader in readers] == ["ended"] * 3
    again = (await pair.log_b.until(Track, 2)).track
    assert again is not received
    await frames(again)
    with pytest.raises(MediaStreamError):
        await received.recv()


async def test_the_end_of_a_track_ends_what_reads_it(room: Room) -> None:
    pair = await room.pair()
    local = ToneTrack()
    received = await arriving(pair, local)
    sound = asyncio.ensure_future(_all(iter_pcm(received)))
    pictures = asyncio.ensure_future(_all(iter_frames(received)))
    await eventually(lambda: received.frames_decoded >= 5)
    pair.a.remove_track(local)
    chunks = await sound
    assert {len(chunk) for chunk in chunks} == {640}
    assert len(await pictures) >= 5


async def _all(items: Any) -> list[Any]:
    return [item async for item in items]


@pytest.mark.alone  # a tone skips what a held-up event loop has lost
async def test_cancelling_again_and_again_loses_nothing(room: Room) -> None:
    pair = await room.pair()
    received = await arriving(pair, ToneTrack())
    seen: list[int] = []
    while len(seen) < 60:
        read = asyncio.ensure_future(received.recv())
        await asyncio.wait([read], timeout=0.003)
        if not read.done():
            read.cancel()
            await asyncio.wait([read])
        if not read.cancelled():
            seen.append(read.result().pts)
    assert seen == list(range(seen[0], seen[0] + 60 * 960, 960))


async def test_a_picture_that_is_too_large_is_told_once_and_counted(room: Room) -> None:
    pair = await room.pair()
    video, sound = await arriving(pair, GreyTrack()), await arriving(pair, ToneTrack())
    video.max_picture_pixels = 160 * 120 - 1
    reading = asyncio.ensure_future(video.recv())
    await eventually(lambda: video.pictures_refused >= 3)
    assert [(it.track, it.width, it.height) for it in pair.log_b.of(PictureRefused)] == [(video, 160, 120)]
    assert next(it for it in pair.to_a.stats().inbound if it.kind == "video").pictures_refused >= 3
    assert (await sound.recv()).samples
    video.max_picture_pixels = 160 * 120
    assert level_of(await reading) == pytest.approx(128, abs=3)
