"""The example programs, run as a user would run them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metered_realtime.media.sources.testsource import write_test_clip
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE

EXAMPLES = Path(__file__).parent.parent / "examples"


class Program:
    """A running example."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.output = ""

    async def prints(self, text: str) -> None:
        """Wait until it has printed this."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while text not in self.output:
                line = await self._process.stdout.readline()
                assert line, f"ended without printing {text!r}:\n{self.output}"
                self.output += line.decode()

    async def stop(self) -> None:
        """End it, whatever it is doing."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


class Runner:
    """Starts examples against one server."""

    def __init__(self, server: SignallingServer) -> None:
        self._server = server
        self._programs: list[Program] = []

    async def start(self, name: str, *arguments: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-u",
            str(EXAMPLES / name),
            f"--url={self._server.url}",
            f"--api-key={self._server.api_key}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        program = Program(process)
        self._programs.append(program)
        return program

    async def stop(self) -> None:
        await asyncio.gather(*(program.stop() for program in self._programs))


@pytest.fixture
async def runner() -> AsyncIterator[Runner]:
    async with SignallingServer() as server:
        runner = Runner(server)
        yield runner
        await runner.stop()


async def test_pubsub_hears_the_other_one(runner: Runner) -> None:
    first = await runner.start("pubsub.py", "--say=first")
    await first.prints("published to lobby")
    await runner.start("pubsub.py", "--say=second")
    await first.prints("{'text': 'second'}")


async def test_data_channel_echo_comes_back_to_both(runner: Runner) -> None:
    first = await runner.start("data_channel_echo.py")
    await first.prints("echoing in lobby")
    second = await runner.start("data_channel_echo.py")
    await first.prints("echoed 'are you there?'")
    await second.prints("echoed 'are you there?'")


async def test_surviving_channel_counts_on_over_a_broken_connection(runner: Runner) -> None:
    first = await runner.start("surviving_channel.py")
    await first.prints("counting in lobby")
    second = await runner.start("surviving_channel.py", "--break-every=0.7")
    for program in (first, second):
        await program.prints("was replaced")
        await program.prints("has counted to 20")
        assert "instead of" not in program.output


async def test_stream_file_reaches_another_one_that_counts_its_frames(runner: Runner, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    await asyncio.to_thread(write_test_clip, clip, seconds=1.0, width=160, height=120)
    watcher = await runner.start("stream_file.py", str(clip), "--loop")
    await watcher.prints("streaming")
    sender = await runner.start("stream_file.py", str(clip), "--loop")
    for program in (watcher, sender):
        for kind in ("audio", "video"):
            await program.prints(f"sends {kind}")
    await sender.stop()
    for kind in ("audio", "video"):
        await watcher.prints(f"{kind} frames")


async def test_push_video_shows_what_numpy_drew_to_another_one(runner: Runner) -> None:
    first = await runner.start("push_video.py")
    await first.prints("drawing in lobby")
    second = await runner.start("push_video.py")
    for program in (first, second):
        await program.prints("sends video of 320 x 240")
        await program.prints("sends audio of 48000 Hz")


async def test_send_file_reaches_another_one_and_says_so(runner: Runner, tmp_path: Path) -> None:
    file = tmp_path / "holiday.jpeg"
    await asyncio.to_thread(file.write_bytes, bytes(300_000))
    receiver = await runner.start("send_file.py", f"--directory={tmp_path / 'inbox'}")
    await receiver.prints("receiving into")
    sender = await runner.start("send_file.py", f"--directory={tmp_path / 'other'}", f"--send={file}")
    await receiver.prints(f"received {tmp_path / 'inbox' / 'holiday.jpeg'}")
    await sender.prints("sent holiday.jpeg")
