"""Sound and picture of one participant are together in a recording, though pictures take longer on their way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.flash_and_click import FPS, ClickTrack, FlashTrack, Metronome, offsets

from metered_realtime import MediaStream, Recorder
from metered_realtime.media import codec_fanout
from metered_realtime.media.codec_encoders import FrameEncoder, Packet, SendCodec, make_encoder
from metered_realtime.server import SignallingServer
from tests.media.test_recording_channels import bot_and, decoded, files, written
from tests.mesh.support import Room

LATE = 0.2
"""Seconds that pictures take longer than sound."""


class Behind:
    """An encoder of pictures that gives each one `LATE` after it was taken."""

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
    """Have every picture sent late, from the first one on."""

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


@pytest.mark.usefixtures("pictures_late")
@pytest.mark.parametrize("name", ["{peer}.webm", "{peer}.mp4", "mix.mkv"])
async def test_pictures_that_are_sent_late_are_where_they_were_taken(room: Room, tmp_path: Path, name: str) -> None:
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
