"""Mistakes of the program: logged with their traceback, by default too, and they cost nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from metered_realtime import (
    AudioSource,
    DataChannel,
    DataChannelOpened,
    DCMessage,
    FileFailed,
    FileTransferError,
    IceServerConfig,
    Recorder,
    RpcError,
    Track,
)
from metered_realtime.media.sources.testsource import ToneTrack
from metered_realtime.recording.stats import RecordingError
from tests.support.peers import GreyTrack, Room, eventually, frames


class ListLogger:
    """A logger of the program's own: the text of everything."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(f"{msg} {ctx}")

    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.lines.append(f"{msg} {ctx}")


def mistaken(*_: Any) -> Any:
    raise ZeroDivisionError("oops")


def shown(caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the mistake above was logged with its traceback."""
    return ", in mistaken" in caplog.text and "ZeroDivisionError: oops" in caplog.text


async def test_a_mistake_in_a_handler_of_messages_is_logged_with_its_place(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await room.pair()
    channel = DataChannel(pair.to_b.create_data_channel("text"))
    other = DataChannel((await pair.log_b.until(DataChannelOpened)).channel)
    heard: list[Any] = []
    await channel.wait_open()
    other.on(DCMessage, mistaken)
    other.on(DCMessage, lambda event: heard.append(event.data))
    await channel.send("one")
    await channel.send("two")
    await eventually(lambda: heard == ["one", "two"])
    assert shown(caplog)


async def test_a_mistake_in_a_method_that_is_called_is_logged_with_its_place(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await room.pair()
    pair.b.rpc.add("sum", mistaken)
    with pytest.raises(RpcError):
        await pair.to_b.rpc.call("sum", [1])
    assert shown(caplog)


async def test_a_mistake_where_an_offered_file_is_looked_at_is_logged_with_its_place(
    room: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = await room.pair()
    pair.b.receive_files(tmp_path / "in", accept=mistaken)
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(FileTransferError):
        await pair.to_b.send_file(tmp_path / "file")
    assert isinstance((await pair.log_b.until(FileFailed)).err, ZeroDivisionError)
    assert shown(caplog)


async def test_a_mistake_in_what_gives_the_ice_servers_is_logged_with_its_place(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [(IceServerConfig("stun:127.0.0.1:9"),)]

    def provider() -> Any:
        return answers.pop() if answers else mistaken()

    peer = room.peer("a", ice_servers=provider)
    pair = await room.meet(peer, room.peer("b"))
    peer._ice_servers._fetched_at = None  # as an hour later
    await pair.media_to_b()
    assert shown(caplog)


async def test_a_mistake_in_a_track_that_gives_no_frames_is_logged_with_its_place(room: Room) -> None:
    log = ListLogger()
    pair = await room.meet(room.peer("a", logger=log), room.peer("b"))
    track = GreyTrack()
    give: Any = track.recv

    async def garbage() -> Any:
        await give()
        return "a picture"

    track.recv = garbage  # type: ignore[method-assign]
    pair.a.add_track(track)
    sound = ToneTrack()
    pair.a.add_track(sound)
    await eventually(lambda: any((it.frames_failed or 0) > 2 for it in pair.to_b.stats().outbound))
    tracks = {event.track.kind: event.track for event in pair.log_b.of(Track)}
    await frames(tracks["audio"])
    (line,) = log.lines
    assert "frames cannot be sent" in line
    assert "Traceback" in line
    sound.stop()


async def test_a_mistake_in_what_hears_of_a_failed_recording_is_logged_with_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder(tmp_path / "file.webm", on_error=mistaken)
    recorder._report(RecordingError("the disk is full", {}))
    assert shown(caplog)


async def test_a_mistake_in_a_track_that_is_recorded_is_logged_with_its_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    track = AudioSource()
    track.recv = mistaken  # type: ignore[method-assign]
    async with Recorder(tmp_path / "file.mp4") as recorder:
        recorder.add_track(track)
        await recorder.wait_ended()
    assert shown(caplog)
