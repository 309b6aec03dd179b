"""Remote tracks decode nothing without readers, once for all readers, and every queue is bounded and counted."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from dataclasses import replace
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime.media.codecs.encoded import MAX_LEAP, EncodedFrame, RtpTimeline, is_key_frame
from metered_realtime.media.receiving import key_frames, remote_track, waiting
from metered_realtime.media.receiving.frame_decoder import MAX_UNDECODED
from metered_realtime.media.receiving.key_frames import MIN_INTERVAL, KeyFrameRequests
from metered_realtime.media.receiving.readers import MAX_WAITING_AUDIO, MAX_WAITING_PACKETS, MAX_WAITING_VIDEO
from tests.support.coding import H264, OPUS, STEP, VP8, Remote, decode, picture, pictures, settle, sound
from tests.support.patience import PATIENCE
from tests.support.peers import eventually
from tests.support.virtual_time import virtual_time

pytestmark = pytest.mark.usefixtures("no_task_left")


def decoder_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.endswith("-decoder")]


def media(kind: str, count: int) -> list[EncodedFrame]:
    return pictures(count) if kind == "video" else sound(count)


async def begin(*calls: Any) -> list[asyncio.Task[Any]]:
    """Start calls, and return when each is waiting."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    await asyncio.sleep(0)
    return tasks


def stamps(frames: list[Any], kind: str = "video") -> list[int]:
    """Return the numbers of frames by their timestamps."""
    return [frame.pts // STEP[kind] for frame in frames]


# --- without readers


@pytest.mark.parametrize("kind", ["video", "audio"])
async def test_without_readers_nothing_is_decoded_kept_or_requested(kind: str) -> None:
    remote = Remote(kind)
    await remote.send(*media(kind, 100))
    remote.track.picture_lost()
    remote.track.request_key_frame()
    track = remote.track
    assert (track.frames_received, track.frames_unread, track.frames_dropped) == (100, 100, 100)
    assert (track.frames_decoded, track.queue_length, track.is_decoding) == (0, 0, False)
    assert (remote.requests, decoder_threads()) == ([], [])
    assert track.codec == {"video": "video/VP8", "audio": "audio/opus"}[kind]
    track.stop()


async def test_readers_that_were_never_read_cost_nothing() -> None:
    remote = Remote()
    readers = remote.track.decoded(), remote.track.encoded()
    await remote.send(*pictures(5))
    assert (remote.track.frames_unread, remote.requests, decoder_threads()) == (5, [], [])
    for reader in readers:
        reader.stop()
        with pytest.raises(MediaStreamError):
            await reader.recv()
    assert remote.track.readyState == "live"


# --- the first read


async def test_reading_starts_from_a_key_frame_that_is_requested_at_once() -> None:
    remote, frames = Remote(), pictures(10, keys=(0, 6))
    await remote.send(*frames[:3])
    (read,) = await begin(remote.track.recv())
    assert len(remote.requests) == 1
    await remote.send(*frames[3:6])
    assert not read.done()
    await remote.send(frames[6])
    assert stamps([await read]) == [6]
    assert (remote.track.frames_received, remote.track.frames_decoded, remote.track.frames_dropped) == (7, 1, 6)
    assert len(remote.requests) == 1
    remote.track.stop()


@virtual_time
async def test_a_key_frame_is_requested_again_until_it_arrives() -> None:
    remote = Remote()
    (read,) = await begin(remote.track.encoded().recv())
    await asyncio.sleep(6)
    gaps = [later - sooner for sooner, later in itertools.pairwise(remote.requests)]
    assert gaps == pytest.approx([0.5, 1, 2, 2])
    remote.track.push_frame(pictures(1)[0])
    await read
    await asyncio.sleep(6)
    assert len(remote.requests) == 5
    remote.track.stop()


async def test_before_the_first_packet_no_key_frame_can_be_requested() -> None:
    remote = Remote(reachable=False)
    (read,) = await begin(remote.track.recv())
    await remote.send(*pictures(3)[1:])
    remote.is_reachable = True
    await remote.send(pictures(2)[1])
    assert len(remote.requests) == 1, "as soon as something comes that is no key frame"
    remote.track.stop()
    await asyncio.wait([read])
    assert isinstance(read.exception(), MediaStreamError)


@virtual_time
async def test_requests_keep_their_distance() -> None:
    asked: list[float] = []
    loop = asyncio.get_running_loop()
    requests = KeyFrameRequests(lambda: asked.append(loop.time()) is None)
    for _ in range(3):
        requests.request_key_frame()
        requests.request_key_frame()
        requests.key_frame_arrived()
    assert len(asked) == 1
    requests.request_key_frame()
    await asyncio.sleep(MIN_INTERVAL + 0.05)
    requests.stop()
    assert [at - asked[0] for at in asked] == pytest.approx([0, MIN_INTERVAL])


async def test_audio_needs_no_key_frame() -> None:
    remote = Remote("audio")
    (read,) = await begin(remote.track.recv())
    await remote.send(*sound(1))
    frame = await read
    assert (frame.sample_rate, frame.samples, frame.format.name, frame.pts) == (48_000, 960, "s16", 0)
    assert remote.requests == []
    remote.track.stop()


async def test_a_gap_in_the_sound_keeps_its_times() -> None:
    remote = Remote("audio")
    (read,) = await begin(remote.track.recv())
    await remote.send(*sound(2), *sound(2, start=50))
    got = [await read, *[await remote.track.recv() for _ in range(3)]]
    assert [frame.pts for frame in got] == [0, 960, 48_000, 48_960]
    remote.track.stop()


# --- several readers


async def test_several_readers_get_every_frame_and_it_is_decoded_once() -> None:
    remote, frames = Remote(), pictures(9)
    readers = [remote.track.decoded() for _ in range(3)]
    reads = await begin(remote.track.recv(), *(reader.recv() for reader in readers))
    assert len(decoder_threads()) == 1
    assert len(remote.requests) == 1
    got = []
    for frame in frames:
        await remote.send(frame)
        got.append(await asyncio.gather(*reads))
        reads = await begin(remote.track.recv(), *(reader.recv() for reader in readers))
    for each in zip(*got, strict=True):
        assert stamps(list(each)) == list(range(9))
    assert (remote.track.frames_decoded, remote.track.frames_dropped) == (9, 0)
    remote.track.stop()
    await asyncio.gather(*reads, return_exceptions=True)


async def test_a_slow_reader_drops_its_own_frames_only() -> None:
    remote, frames = Remote(), pictures(20)
    fast, slow = remote.track.decoded(), remote.track.decoded()
    first = await begin(fast.recv(), slow.recv())
    await remote.send(frames[0])
    assert stamps(list(await asyncio.gather(*first))) == [0, 0]
    for number in range(1, 20):
        await remote.send(frames[number])
        assert stamps([await fast.recv()]) == [number]
    assert remote.track.queue_length == slow.queue_length == MAX_WAITING_VIDEO
    assert stamps([await slow.recv()]) == [19], "the newest"
    assert (fast.frames_dropped, slow.frames_dropped, remote.track.frames_dropped) == (0, 18, 18)
    remote.track.stop()


async def test_a_burst_is_no_reason_to_drop_anything() -> None:
    remote, frames = Remote(), pictures(MAX_WAITING_VIDEO)
    (read,) = await begin(remote.track.recv())
    await remote.send(*frames)
    got = [await read, *[await remote.track.recv() for _ in range(MAX_WAITING_VIDEO - 1)]]
    assert stamps(got) == list(range(MAX_WAITING_VIDEO))
    remote.track.stop()


async def test_a_slow_audio_reader_has_a_bounded_gap() -> None:
    remote = Remote("audio")
    (read,) = await begin(remote.track.recv())
    for frame in sound(60):
        await remote.send(frame)
    await read
    got = [await remote.track.recv() for _ in range(MAX_WAITING_AUDIO)]
    assert stamps(got, "audio") == list(range(10, 60)), "a gap of 9 frames, then everything"
    assert (remote.track.frames_dropped, remote.track.queue_length) == (9, 0)
    remote.track.stop()


async def test_tasks_that_call_recv_of_the_track_share_the_frames_and_all_end() -> None:
    remote, frames = Remote(), pictures(2)
    readers = await begin(*(remote.track.recv() for _ in range(4)))
    await remote.send(*frames)
    readers[3].cancel()
    await asyncio.wait(readers, timeout=0.1)
    remote.track.stop()
    results = await asyncio.gather(*readers, return_exceptions=True)
    assert stamps(results[:2]) == [0, 1]
    assert isinstance(results[2], MediaStreamError)
    assert isinstance(results[3], asyncio.CancelledError)


async def test_cancelling_a_reader_loses_no_frame() -> None:
    remote, frames = Remote(), pictures(2)
    first, second = await begin(remote.track.recv(), remote.track.recv())
    remote.track.push_frame(frames[0])
    async with asyncio.timeout(PATIENCE):
        while not first.done():
            if remote.track.queue_length:
                first.cancel()
            await asyncio.sleep(0)
    assert stamps([await asyncio.wait_for(second, PATIENCE)]) == [0]
    assert first.cancelled()
    remote.track.stop()


@pytest.mark.parametrize("kind", ["video", "audio"])
async def test_what_waits_can_be_read_after_the_end(kind: str) -> None:
    remote, frames = Remote(kind), media(kind, 4)
    packets = remote.track.encoded()
    read, read_packet = await begin(remote.track.recv(), packets.recv())
    await remote.send(*frames[:3])
    remote.track.stop()
    remote.track.push_frame(frames[3])
    await asyncio.gather(read, read_packet)
    for track in (remote.track, packets):
        assert stamps([await track.recv() for _ in range(2)], kind) == [1, 2]
        for _ in range(2):
            with pytest.raises(MediaStreamError):
                await track.recv()
        assert track.readyState == "ended"
    assert remote.track.frames_received == 3


async def test_a_track_that_has_ended_gives_readers_that_have_ended() -> None:
    remote = Remote()
    reader = remote.track.decoded()
    remote.track.stop()
    for track in (reader, remote.track, remote.track.decoded(), remote.track.encoded()):
        with pytest.raises(MediaStreamError):
            await track.recv()
    assert decoder_threads() == []


# --- readers that leave


async def test_decoding_stops_when_the_last_reader_has_left_and_begins_again() -> None:
    remote, frames = Remote(), pictures(12, keys=(0, 10))
    readers = remote.track.decoded(), remote.track.decoded()
    reads = await begin(*(reader.recv() for reader in readers))
    await remote.send(frames[0])
    await asyncio.gather(*reads)
    readers[0].stop()
    remote.track.check_readers()
    assert remote.track.is_decoding
    readers[1].stop()
    assert remote.track.is_decoding, "a moment longer"
    remote.track.check_readers()
    assert not remote.track.is_decoding
    assert not remote.is_wanted
    await remote.send(*frames[1:6])
    assert (remote.track.frames_unread, remote.track.frames_decoded) == (5, 1)
    (read,) = await begin(remote.track.recv())
    await eventually(lambda: len(remote.requests) == 2)
    await remote.send(*frames[6:11])
    assert stamps([await read]) == [10]
    remote.track.stop()


async def test_a_program_that_has_stopped_calling_recv_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    remote, frames = Remote(), pictures(8)
    (read,) = await begin(remote.track.recv())
    with monkeypatch.context() as patch:
        patch.setattr(remote_track, "RECV_PAUSE", -1.0)
        remote.track.check_readers()
        assert remote.track.is_decoding, "it waits"
    await remote.send(*frames[:6])
    await read
    remote.track.check_readers()
    assert remote.track.is_decoding, "it may be busy with its frame"
    monkeypatch.setattr(remote_track, "RECV_PAUSE", -1.0)
    remote.track.check_readers()
    assert (remote.track.is_decoding, remote.track.queue_length) == (False, 0)
    assert remote.track.frames_dropped == 5
    remote.track.stop()


async def test_a_program_that_has_its_frame_and_has_not_run_since_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote()
    (read,) = await begin(remote.track.recv())
    await remote.send(*pictures(1))
    await read
    (read,) = await begin(remote.track.recv())
    monkeypatch.setattr(remote_track, "RECV_PAUSE", -1.0)
    newest = picture(1)
    remote.track.deliver_frames([newest])
    remote.track.check_readers()
    assert await read is newest
    remote.track.stop()


async def test_a_reader_that_was_forgotten_is_gone_and_its_drops_are_not() -> None:
    remote = Remote()
    reader = remote.track.decoded()
    (read,) = await begin(reader.recv())
    await remote.send(*pictures(9))
    await read
    dropped = reader.frames_dropped
    assert remote.track.frames_dropped == dropped > 0
    del reader, read
    gc.collect()
    remote.track.check_readers()
    assert (remote.track.is_decoding, remote.track.frames_dropped) == (False, dropped)
    remote.track.stop()


async def test_a_packet_reader_that_was_forgotten_is_gone() -> None:
    remote = Remote("audio")
    reader = remote.track.encoded()
    (read,) = await begin(reader.recv())
    await remote.send(*sound(3))
    await read
    assert remote.is_wanted
    del reader, read
    gc.collect()
    await remote.send(*sound(1))
    assert (remote.is_wanted, remote.track.frames_unread) == (False, 1)
    remote.track.stop()
    assert not remote.is_wanted


async def test_a_reader_that_comes_back_at_once_needs_no_key_frame() -> None:
    remote, frames = Remote(), pictures(3)
    reader = remote.track.decoded()
    (read,) = await begin(reader.recv())
    await remote.send(frames[0])
    await read
    reader.stop()
    (read,) = await begin(remote.track.recv())
    await remote.send(frames[1])
    assert stamps([await read]) == [1]
    assert len(remote.requests) == 1
    remote.track.stop()


# --- what cannot be decoded


async def test_a_broken_frame_is_dropped_and_a_key_frame_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_frames, "MIN_INTERVAL", 0.0)
    remote, frames = Remote(), pictures(4, keys=(0, 3))
    (read,) = await begin(remote.track.recv())
    await remote.send(frames[0])
    await read
    remote.requests.clear()
    broken = EncodedFrame(VP8, b"\x01\x02", frames[1].timestamp, False)
    await remote.send(broken)
    assert remote.track.frames_dropped == 1
    assert remote.requests
    await remote.send(frames[3])
    assert stamps([await remote.track.recv()]) == [3]
    remote.track.stop()


@pytest.mark.parametrize("reads", ["recv", "encoded", ""])
async def test_a_key_frame_is_requested_for_a_lost_picture_while_there_is_a_reader(
    monkeypatch: pytest.MonkeyPatch, reads: str
) -> None:
    monkeypatch.setattr(key_frames, "MIN_INTERVAL", 0.0)
    remote = Remote()
    reader: Any = remote.track.encoded() if reads == "encoded" else remote.track
    tasks = await begin(reader.recv()) if reads else []
    await remote.send(*pictures(2))
    before = len(remote.requests)
    remote.track.picture_lost()
    assert len(remote.requests) - before == bool(reads)
    remote.track.stop()
    await asyncio.gather(*tasks)


async def test_a_decoder_that_is_too_slow_goes_on_with_a_key_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    class Slow:
        def decode(self, frame: Any) -> list[Any]:
            gate.wait()
            return []

    monkeypatch.setattr("metered_realtime.media.receiving.frame_decoder._new_decoder", lambda frame: Slow())
    remote, (key, delta) = Remote(), pictures(2)
    (read,) = await begin(remote.track.recv())
    for frame in [key, *[delta] * (MAX_UNDECODED["video"] + 9), key]:
        remote.track.push_frame(frame)
    assert remote.track.frames_dropped == 11
    gate.set()
    await settle(remote.track)
    remote.track.push_frame(delta)
    assert remote.track.frames_dropped == 12
    remote.track.push_frame(key)
    remote.track.push_frame(delta)
    assert remote.track.frames_dropped == 12
    remote.track.stop()
    await asyncio.gather(read, return_exceptions=True)


async def test_another_codec_in_mid_stream_gets_another_decoder() -> None:
    remote = Remote()
    packets = remote.track.encoded()
    read, read_packet = await begin(remote.track.recv(), packets.recv())
    await remote.send(*pictures(2), *pictures(2, codec=H264)[1:], *pictures(1, codec=H264))
    got = [await read, await remote.track.recv(), await remote.track.recv()]
    assert stamps(got) == [0, 1, 0]
    await read_packet
    assert packets.codec == "video/VP8"
    remote.track.stop()


# --- packets


@pytest.mark.parametrize("codec", [VP8, H264])
async def test_packets_of_video_begin_with_a_key_frame_and_can_be_decoded(codec: Any) -> None:
    remote, frames = Remote(), pictures(10, keys=(0, 5), codec=codec)
    packets = remote.track.encoded()
    assert (packets.kind, packets.id, packets.codec) == ("video", "t", None)
    (read,) = await begin(packets.recv())
    await remote.send(*frames[2:])
    got = [await read, *[await packets.recv() for _ in range(4)]]
    assert [packet.pts for packet in got] == [packet.dts for packet in got] == [n * 3_000 for n in range(5, 10)]
    assert [packet.is_keyframe for packet in got] == [True, False, False, False, False]
    assert all(packet.time_base.denominator == 90_000 for packet in got)
    assert [bytes(packet) for packet in got] == [frame.data for frame in frames[5:]]
    assert packets.codec == codec.mimeType
    assert stamps(decode(got, codec.mimeType)) == [5, 6, 7, 8, 9]
    assert (packets.frames_dropped, remote.track.frames_dropped, remote.track.frames_unread) == (3, 3, 0)
    assert (len(remote.requests), decoder_threads()) == (1, [])
    remote.track.stop()


async def test_packets_of_audio_can_be_decoded() -> None:
    remote, frames = Remote("audio"), sound(10)
    packets = remote.track.encoded()
    (read,) = await begin(packets.recv())
    await remote.send(*frames)
    got = [await read, *[await packets.recv() for _ in range(9)]]
    assert all(packet.is_keyframe and packet.time_base.denominator == 48_000 for packet in got)
    assert sum(frame.samples for frame in decode(got, "audio/opus")) == 9_600
    assert packets.codec == "audio/opus"
    packets.request_key_frame()
    assert (remote.requests, decoder_threads()) == ([], [])
    remote.track.stop()


async def test_packets_and_frames_are_read_beside_each_other() -> None:
    remote, frames = Remote(), pictures(8, keys=(0, 5))
    packets = remote.track.encoded()
    read_packet, read_frame = await begin(packets.recv(), remote.track.recv())
    await remote.send(*frames[:2])
    other = remote.track.encoded()
    (read_other,) = await begin(other.recv())
    await remote.send(*frames[2:6])
    assert stamps([await read_packet, await read_frame, await read_other]) == [0, 0, 5]
    other.stop()
    await remote.send(*frames[6:])
    assert stamps([await packets.recv() for _ in range(7)]) == list(range(1, 8))
    assert (packets.frames_dropped, other.frames_dropped) == (0, 3)
    remote.track.stop()


async def test_a_slow_packet_reader_goes_on_with_the_next_key_frame() -> None:
    limit = MAX_WAITING_PACKETS["video"]
    remote, frames = Remote(), pictures(limit + 8, keys=(0, limit + 5))
    packets = remote.track.encoded()
    (read,) = await begin(packets.recv())
    await remote.send(frames[0])
    await read
    await remote.send(*frames[1 : limit + 4])
    assert (packets.queue_length, packets.frames_dropped) == (0, limit + 3)
    assert len(remote.requests) == 1, "nobody waits for a key frame before it is read"
    (read,) = await begin(packets.recv())
    await eventually(lambda: len(remote.requests) == 2)
    await remote.send(*frames[limit + 4 :])
    got = [await read, await packets.recv(), await packets.recv()]
    assert stamps(got) == [limit + 5, limit + 6, limit + 7]
    assert remote.track.frames_dropped == packets.frames_dropped == limit + 4
    remote.track.stop()


async def test_a_packet_is_the_readers_own() -> None:
    remote = Remote("audio")
    readers = remote.track.encoded(), remote.track.encoded()
    reads = await begin(*(reader.recv() for reader in readers))
    await remote.send(*sound(1))
    one, other = await asyncio.gather(*reads)
    one.pts = 7
    assert other.pts == 0
    remote.track.stop()


# --- encoded media


def test_key_frames_are_told_by_their_first_slice() -> None:
    assert is_key_frame(H264, b"\0\0\0\1\x09\x10\0\0\0\1\x67\1\0\0\0\1\x68\1\0\0\1\x65\x88")
    assert not is_key_frame(H264, b"\0\0\0\1\x67\1\0\0\0\1\x68\1\0\0\1\x41\x88\0\0\1\x65")
    assert not any(is_key_frame(H264, data) for data in (b"", b"\0\0\1", b"\0\0\0\1\x67\1"))
    assert is_key_frame(VP8, b"\x10\x02\x00\x9d\x01\x2a")
    middle = b"\x10\x02\x00picture whose first packets are missing"
    assert not any(is_key_frame(VP8, data) for data in (b"", b"\x10", b"\x11\x02\x00\x9d\x01\x2a", middle))
    assert is_key_frame(OPUS, b"")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_timestamps_do_not_wrap_and_may_go_back_a_little() -> None:
    clock = Clock()
    line = RtpTimeline(clock)
    places = []
    for timestamp in ((1 << 32) - 3_000, 0, 6_000, 3_000, 9_000):
        places.append(line.place_frame(timestamp, 90_000))
        clock.now += 1 / 30
    assert places == [0, 3_000, 9_000, 6_000, 12_000]


def test_a_pause_of_the_sender_stays_in_its_timestamps() -> None:
    clock = Clock()
    line = RtpTimeline(clock)
    line.place_frame(5, 48_000)
    clock.now += 3_600
    assert line.place_frame(5 + 3_600 * 48_000, 48_000) == 3_600 * 48_000


@pytest.mark.parametrize("timestamp", [0, 1 << 31, (1 << 32) - 1])
def test_another_source_goes_on_by_the_time_that_has_passed(timestamp: int) -> None:
    clock = Clock()
    line = RtpTimeline(clock)
    line.place_frame(1_000_000_000, 90_000)
    clock.now += 0.5
    assert line.place_frame(timestamp, 90_000) == 45_000
    clock.now += 0.5
    assert line.place_frame(timestamp + 45_000, 90_000) == 90_000
    assert line.place_frame(timestamp + 45_000 + round((MAX_LEAP + 1) * 90_000), 90_000) == 90_001


def claiming(frame: Any, width: int, height: int) -> Any:
    """Return a VP8 key frame with another size in its header."""
    size = b"".join(side.to_bytes(2, "little") for side in (width, height))
    return replace(frame, data=frame.data[:6] + size + frame.data[10:])


async def test_a_picture_that_claims_to_be_huge_is_neither_decoded_nor_delivered() -> None:
    remote = Remote()
    told: list[tuple[Any, ...]] = []
    remote.track.on_refused = lambda *what: told.append(what)
    decoded, encoded = remote.track.decoded(), remote.track.encoded()
    frame, packet = asyncio.ensure_future(decoded.recv()), asyncio.ensure_future(encoded.recv())
    await asyncio.sleep(0)
    first, second, third = pictures(3, keys=(0, 2))
    huge = claiming(first, 16_000, 16_000)
    await remote.send(huge, second, huge)
    assert (remote.track.pictures_refused, remote.track.frames_dropped, remote.track.frames_decoded) == (3, 3, 0)
    assert told == [(remote.track, 16_000, 16_000, remote.track.max_picture_pixels)]
    await remote.send(third)
    assert (await frame).width == 64
    assert (await packet).is_keyframe
    assert not decoded.queue_length + encoded.queue_length, "nothing else came"
    remote.track.stop()


async def test_how_large_a_picture_may_be_can_be_set() -> None:
    remote = Remote()
    remote.track.max_picture_pixels = 64 * 48
    with pytest.raises(ValueError, match="-1"):
        remote.track.max_picture_pixels = -1
    reader = remote.track.encoded()
    packet = asyncio.ensure_future(reader.recv())
    await asyncio.sleep(0)
    first, second = pictures(2, keys=(0, 1))
    await remote.send(claiming(first, 66, 48), second)
    await packet
    assert remote.track.pictures_refused == 1
    remote.track.stop()


async def test_of_large_pictures_fewer_wait_for_a_slow_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MAX_WAITING_BYTES", 3 * 64 * 48)  # two pictures in yuv420p
    reader = Remote().track.decoded()
    for number in range(4):
        reader.push_frame(picture(number))
    assert reader.queue_length == 2
    assert reader.frames_dropped == 2
    reader.stop()
