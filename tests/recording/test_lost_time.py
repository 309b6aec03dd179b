"""Sound and pictures are in sync again after a program has lost time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from benchmarks.flash_and_click import BRIGHT, DARK, LOUD, offsets

from metered_realtime import MediaStream, MeteredPeer, NoopLogger, PatternTrack, Recorder, ToneTrack
from metered_realtime.core.media.timeline import Timeline
from metered_realtime.core.media.track_clock import LATENESS_WINDOW, LOST, TrackClock
from metered_realtime.media.codecs.encoders import SendCodec
from metered_realtime.media.pacing import SKIP_AFTER
from metered_realtime.media.sending import codec_fanout
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sending.forward_track import ForwardTrack
from metered_realtime.server import SignallingServer
from tests.support.peers import eventually

from ..support.lost_time import PROGRAMS, Program, goes_on_with_the_present
from ..support.virtual_time import block, now, virtual_time
from .test_channel_recording import files, written

OPUS, VP8 = SendCodec("audio/opus", 48_000), SendCodec("video/vp8", 90_000)

LOSES_AT = 3.3
SETTLES_WITHIN = 2.5
"""Seconds after which a track that only counts its frames is known to have lost time."""

APART = 0.15


class InstantEncoder:
    """An encoder that takes no time. Its packets hold whether they are bright or loud."""

    queue_length = 0
    wants_key_frame = False

    def __init__(self, codec: SendCodec, kind: str, bitrate: int, outlet: Any, logger: Any) -> None:
        self.bitrate = bitrate
        self._codec, self._outlet = codec, outlet

    def push_frame(self, frame: Any, at: Fraction) -> None:
        packet: Any = av.Packet(bytes([stands_out(frame)]))
        packet.pts = packet.dts = round(at * self._codec.clock_rate)
        packet.time_base, packet.is_keyframe = Fraction(1, self._codec.clock_rate), True
        self._outlet.push_packet(packet)

    def request_key_frame(self) -> None: ...

    def output_bitrate(self) -> float:
        return 0.0

    def close(self) -> asyncio.Task[None]:
        return asyncio.ensure_future(asyncio.sleep(0))


def stands_out(frame: Any) -> bool:
    if isinstance(frame, av.VideoFrame):
        return bytes(frame.planes[0])[0] > (DARK + BRIGHT) / 2
    return max(memoryview(frame.planes[0]).cast("B")[: 2 * frame.samples].cast("h")) > LOUD


@dataclass
class Beats:
    """The times of flashes or clicks: by the packets, and by what is reported to receivers."""

    at: list[float]
    reported: list[float]

    def since(self, second: float) -> Beats:
        first = sum(it < second for it in self.reported)
        return Beats(self.at[first:], self.reported[first:])


async def watch(fanout: TrackFanout, codec: SendCodec, beats: Beats) -> None:
    """Record the flashes or clicks that a receiver gets."""
    forward = ForwardTrack(fanout.track.kind)
    forward.negotiated(codec)
    forward.switch(fanout)
    stood_out = True
    while True:
        shared, pts, taken_at = await forward.next_shared_packet()
        stands = bytes(shared.packet) == b"\1"
        if stands and not stood_out:
            beats.at.append(pts / codec.clock_rate)
            beats.reported.append(taken_at)
        stood_out = stands


def apart(clicks: list[float], flashes: list[float]) -> list[float]:
    """Return the distance of each flash from its click."""
    return [min((click - flash for click in clicks), key=abs) for flash in flashes]


@pytest.mark.parametrize("lost", [0.2, 0.5, 5.0])
@pytest.mark.parametrize("program", PROGRAMS)
@virtual_time
async def test_sound_and_picture_are_in_sync_again(
    program: Callable[[], Program], lost: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_fanout, "SharedEncoder", InstantEncoder)
    monkeypatch.setattr(codec_fanout, "make_encoder", lambda codec, shrink: codec)
    sounds, pictures, tasks = program()
    clicks, flashes = Beats([], []), Beats([], [])
    fanouts = [TrackFanout(track, NoopLogger()) for track in (sounds, pictures)]
    for fanout, codec, beats in zip(fanouts, (OPUS, VP8), (clicks, flashes), strict=True):
        tasks.append(asyncio.ensure_future(watch(fanout, codec, beats)))
    began = now()
    asyncio.get_running_loop().call_later(LOSES_AT, block, lost)
    await asyncio.sleep(LOSES_AT + lost + SETTLES_WITHIN + 3.2)
    for task in tasks:
        task.cancel()
    for fanout in fanouts:
        await fanout.close()
    sounds.stop()
    pictures.stop()
    await asyncio.wait(tasks)
    before = apart(clicks.at[:2], flashes.at[:2])
    after = began + LOSES_AT + lost + SETTLES_WITHIN
    late_clicks, late_flashes = clicks.since(after - APART), flashes.since(after)
    assert len(late_flashes.at) >= 3
    assert max(map(abs, apart(late_clicks.reported, late_flashes.reported))) < APART
    assert max(abs(it - before[-1]) for it in apart(late_clicks.at, late_flashes.at)) < APART


@pytest.mark.parametrize("lost", [0.11, 0.5, 5.0])
@virtual_time
async def test_generated_tracks_stay_on_the_clock_each_time(lost: float) -> None:
    tone, pattern = ToneTrack(), PatternTrack(width=64, height=64, fps=25)
    began = now()
    for _ in range(5):
        for track, step in ((tone, 0.02), (pattern, 0.04)):
            frame = await track.recv()
            assert frame.time == pytest.approx(now() - began, abs=SKIP_AFTER + step)
        block(lost)
    tone.stop()
    pattern.stop()


def held_up_track(shift: Callable[[float], float], seconds: float = 4.0) -> float:
    """Return the lost time, according to its clock, of a track that is late by `shift` of its time."""
    clock, lost = TrackClock(), 0.0
    for number in range(round(seconds * 50)):
        own = number / 50
        clock.note_frame(own, own + shift(own))
        lost += clock.take_lost_time()
    return lost


def test_only_what_is_late_from_some_moment_on_has_lost_time() -> None:
    assert held_up_track(lambda at: 0.3 * (at > 1.0)) == pytest.approx(0.3 * 2, abs=0.31)
    assert held_up_track(lambda at: LOST / 2 * (at > 1.0)) == 0
    assert held_up_track(lambda at: 0.3 * (at > 1.0 and round(at * 50) % 10 != 0)) == 0, "some come in time"
    assert held_up_track(lambda at: 0.9 * max(0.0, 2 - at) * (at > 1.0)) == 0, "it makes up for it"
    assert LATENESS_WINDOW < SETTLES_WITHIN / 2


def test_a_time_line_can_skip_time() -> None:
    line = Timeline()
    line.skip_time(1.0)
    assert line.place_unit(Fraction(1), 0) == 1
    line.skip_time(0.5)
    assert line.place_unit(Fraction(2), 1) == Fraction(5, 2)


@pytest.mark.alone
async def test_a_recording_of_a_program_that_was_blocked_is_in_sync(tmp_path: Path) -> None:
    """The program has a thread and an event loop of its own, and computes for half a second."""
    stopping, connected = threading.Event(), threading.Event()

    async def lose_time(url: str, token: str) -> None:
        sounds, pictures, (pushing,) = goes_on_with_the_present()
        async with MeteredPeer(token_provider=lambda: token, url=url) as ann:
            ann.add_stream(MediaStream([sounds, pictures]))
            await ann.join("room")
            await asyncio.to_thread(connected.wait)
            time.sleep(0.5)  # noqa: ASYNC251 - the subject of the test
            await asyncio.to_thread(stopping.wait)
            pushing.cancel()

    async with SignallingServer(port=0) as server:
        bot = MeteredPeer(token_provider=lambda: server.mint_token(peer_id="bot"), url=server.url)
        recorder = Recorder(tmp_path / "{peer}.mkv")
        recorder.follow(bot)
        async with bot, recorder:
            await bot.join("room")
            program = lose_time(server.url, server.mint_token(peer_id="ann"))
            running = threading.Thread(target=asyncio.run, args=(program,))
            running.start()
            await written(recorder, video=30, audio=60)
            connected.set()
            await written(recorder, video=120, audio=240)
            stopping.set()
            await eventually(lambda: not running.is_alive())
    (path,) = files(tmp_path)
    found = offsets(path)
    assert len(found) >= 3
    assert max(map(abs, found[-3:])) < APART
