"""Recording a channel from the command line."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest

from metered_realtime import MediaStream, MeteredPeer
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.server import SignallingServer
from tests.cli.test_files import Commands
from tests.support.patience import PATIENCE
from tests.support.peers import eventually


@pytest.fixture
async def commands() -> AsyncIterator[Commands]:
    async with SignallingServer(port=0) as server:
        commands = Commands(server)
        yield commands
        await commands.stop()


async def test_a_channel_is_recorded_until_it_is_enough(commands: Commands, tmp_path: Path) -> None:
    ann = MeteredPeer(token_provider=lambda: commands.server.mint_token("ann"), url=commands.server.url)
    ann.add_stream(MediaStream([PatternTrack(width=320, height=240), ToneTrack()]))
    async with ann:
        await ann.join("room")
        code, out, err = await commands.run(
            "record", str(tmp_path / "{peer}.webm"), "--channel", "room", "--seconds", "3"
        )
    assert (code, out.split()) == (0, [str(tmp_path / "ann.webm")]), err
    with av.open(str(tmp_path / "ann.webm")) as container:
        assert len(list(container.decode(video=0))) > 30


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_finishes_the_files_and_prints_them(
    commands: Commands, tmp_path: Path, number: signal.Signals
) -> None:
    path = tmp_path / "calls" / "today" / "mix.mp4"  # neither directory is there
    process = await commands.start("record", str(path), "--channel", "room")
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE):
        assert b"recording room" in await process.stderr.readline()
        await eventually(lambda: path.exists() and path.stat().st_size > 5_000)
        process.send_signal(number)
        printed, _ = await process.communicate()
    assert process.returncode == 130
    assert printed.decode().split() == [str(path)]
    with av.open(str(path)) as container:
        assert container.duration is not None
        assert container.duration > 500_000


async def test_a_name_that_cannot_be_is_said(commands: Commands, tmp_path: Path) -> None:
    code, _, err = await commands.run("record", str(tmp_path / "call.avi"), "--channel", "room")
    assert code == 1
    assert ".avi" in err
