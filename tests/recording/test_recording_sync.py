"""Sound and picture of a participant are in sync in a recording, although pictures take longer on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.rtp import is_rtcp
from benchmarks.flash_and_click import FPS, ClickTrack, FlashTrack, Metronome, clicks, flashes, offsets

from metered_realtime import MediaStream, Recorder
from metered_realtime.media.codecs.encoders import FrameEncoder, Packet, SendCodec, make_encoder
from metered_realtime.media.sending import codec_fanout
from metered_realtime.recording import mixed_recording
from metered_realtime.recording.packet_file import PacketFile, Unit
from metered_realtime.server import SignallingServer
from tests.recording.test_channel_recording import bot_and, decoded, files, written
from tests.support.coding import pictures
from tests.support.foreign import ForeignPeer
from tests.support.peers import Room, eventually

pytestmark = pytest.mark.alone

LATE = 0.2
"""Seconds that pictures take longer than sound."""


class Behind:
    """A video encoder that returns each picture `LATE` after it was captured."""

    def __init__(self, encoder: FrameEncoder) -> None:
        self._encoder = encoder
        self._held: deque[list[Packet]] = deque([[]] * round(LATE * FPS))

    def encode(self, *args: Any, **options: Any) -> list[Packet]:
        self._held.append(self._encoder.encode(*args, **options))
        return self._held.popleft()

    def reset(self) -> None:
        self._encoder.reset()


@pytest.fixture
def pictures_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send every picture late, from the first one on."""

    def make(codec: SendCodec, shrink: int = 1) -> FrameEncoder:
        encoder = make_encoder(codec, shrink)
        return Behind(encoder) if codec.mime_type.startswith("video") else encoder

    monkeypatch.setattr(codec_fanout, "make_encoder", make)


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with SignallingServer(port=0) as server:
        room = Room(server)
        yield room
        await asyncio.gather(*(peer.close() for peer in room.peers))


@contextmanager
def held_up(pc: Any, source: int) -> Iterator[None]:
    """Delay the media of a source by `LATE` in the network, but not its reports."""
    loop, taken = asyncio.get_running_loop(), []
    timers: list[asyncio.TimerHandle] = []
    for protocol in pc.getTransceivers()[0].sender.transport.transport._connection._protocols:
        transport = protocol.transport
        taken.append((transport, transport.sendto))

        def sendto(data: bytes, address: Any, send: Any = transport.sendto) -> None:
            if data[8:12] == source.to_bytes(4) and not is_rtcp(data):
                timers.append(loop.call_later(LATE, send, data, address))
            else:
                send(data, address)

        transport.sendto = sendto
    try:
        yield
    finally:
        for transport, send in taken:
            transport.sendto = send
        for timer in timers:
            timer.cancel()


@pytest.mark.usefixtures("pictures_late")
@pytest.mark.parametrize("name", ["{peer}.webm", "{peer}.mp4", "mix.mkv"])
async def test_pictures_that_are_sent_late_are_where_they_were_taken(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(mixed_recording, "WIDTH", 320)  # which is drawn and encoded in time on any machine
    monkeypatch.setattr(mixed_recording, "HEIGHT", 240)
    bot, (ann,) = await bot_and(room, "ann")
    beat = Metronome()
    ann.add_stream(MediaStream([FlashTrack(beat, width=320, height=240), ClickTrack(beat)]))
    recorder = Recorder(tmp_path / name)
    recorder.follow(bot)
    async with recorder:
        await ann.join("room")
        await written(recorder, video=90, audio=180)
    (path,) = files(tmp_path)
    found = offsets(path)
    assert len(found) >= 3
    assert max(map(abs, found)) < 0.04, "from the first one on"
    assert decoded(path, "video")


@pytest.mark.usefixtures("pictures_late")
async def test_tracks_that_are_replaced_and_connections_that_are_stay_together(room: Room, tmp_path: Path) -> None:
    bot, (ann,) = await bot_and(room, "ann")
    beat = Metronome()
    camera = FlashTrack(beat, width=320, height=240)
    screen = FlashTrack(beat, width=160, height=120)
    ann.add_stream(MediaStream([camera, ClickTrack(beat)]))
    ann.add_stream(MediaStream([screen]))
    recorder = Recorder(tmp_path / "{peer}.mkv")
    recorder.follow(bot)
    async with recorder:
        await ann.join("room")
        await written(recorder, video=120)
        await ann.replace_track(camera, FlashTrack(beat, width=320, height=240))
        await written(recorder, video=80)
        await ann.remote_peers[0].pc.close()
        await written(recorder, video=120, audio=60)
    alone, of_both = sorted(recorder.stats().participants, key=lambda it: it.packets["audio"])
    (path,), (other,) = of_both.files, alone.files
    assert of_both.began is not None
    assert alone.began is not None
    found = offsets(path)
    assert len(found) >= 4
    assert max(map(abs, found)) < 0.06
    heard, seen = [of_both.began + at for at in clicks(path)], [alone.began + at for at in flashes(other)]
    assert len(seen) >= 4
    assert all(min(abs(click - at) for click in heard) < 0.06 for at in seen), "also in the file of the screen"


async def test_reports_of_bare_aiortc_put_pictures_right_and_none_is_lost(room: Room, tmp_path: Path) -> None:
    """Its first report comes after a second: the pictures are moved within the file."""
    bot, _ = await bot_and(room)
    ann, beat = await ForeignPeer.join(room.server, "ann"), Metronome()
    video, audio = (ann.pc.addTrack(it) for it in (FlashTrack(beat, width=320, height=240), ClickTrack(beat)))
    assert audio.kind == "audio"
    recorder = Recorder(tmp_path / "{peer}.webm")
    recorder.follow(bot)
    await ann.offer("bot")
    await eventually(lambda: ann.pc.connectionState == "connected")
    with held_up(ann.pc, video._ssrc):
        async with recorder:
            await written(recorder, video=130, audio=260)
    await ann.close()
    await asyncio.get_running_loop().shutdown_default_executor()  # in which aiortc encodes
    (stats,) = recorder.stats().participants
    assert (stats.dropped, stats.reencoded) == (0, ())
    (path,) = stats.files
    assert len(decoded(path, "video")) == stats.packets["video"]
    found = offsets(path)
    assert len(found) >= 4
    assert max(map(abs, found[-2:])) < 0.04


@pytest.mark.parametrize("turn", [10, 40], ids=["before the file begins", "in the file"])
async def test_a_picture_that_stands_before_the_last_one_is_moved_behind_it(tmp_path: Path, turn: int) -> None:
    """Whatever its time is: later pictures depend on it."""
    packets, sent = PacketFile(tmp_path / "back.mkv", "matroska"), pictures(60)
    for number, picture in enumerate(sent):
        at = number / 25 - (0.3 if number >= turn else 0)
        packets.write(Unit("video", "video/vp8", picture.data, at, picture.is_key))
    packets.close()
    assert (packets.left_out, packets.written["video"]) == (0, 60)
    with av.open(str(tmp_path / "back.mkv")) as container:
        assert [bytes(it) for it in container.demux() if it.size] == [it.data for it in sent]
    shown = decoded(tmp_path / "back.mkv", "video")
    assert float(shown[-1].time) == pytest.approx(59 / 25 - 0.3, abs=0.01)
