"""Publishing to and playing from a media server on the command line."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import av
import pytest

from metered_realtime import ToneTrack
from metered_realtime.media.sources.testsource import write_test_clip
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, eventually
from tests.whip.endpoint import Endpoint, endpoint, replies

__all__ = ["endpoint"]


class Program:
    """Runs the command line, with a bearer token in the environment."""

    def __init__(self) -> None:
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        environment = {**os.environ, "METERED_WHIP_TOKEN": "hush"}
        command = (sys.executable, "-m", "metered_realtime", *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)
        self.processes.append(process)
        return process

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def program() -> AsyncIterator[Program]:
    program = Program()
    yield program
    for process in program.processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_test_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", seconds=1.5, width=128, height=96, fps=25).path


async def test_a_file_is_published_to_its_end(program: Program, endpoint: Endpoint, clip: Path) -> None:
    code, out, err = await program.run("publish", "--whip", endpoint.url, "--json", str(clip))
    assert code == 0, err
    assert sorted(track.kind for track in endpoint.tracks) == ["audio", "video"]
    progress = [json.loads(line) for line in out.splitlines()]
    assert {it["state"] for it in progress} == {"connected"}
    assert progress[-1]["bytes"] > 0
    assert [it.headers["Authorization"] for it in endpoint.seen] == ["Bearer hush"] * len(endpoint.seen)
    assert endpoint.ended == ["s0"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_ends_the_session_at_the_endpoint(
    program: Program, endpoint: Endpoint, clip: Path, number: signal.Signals
) -> None:
    process = await program.start("publish", "--whip", endpoint.url, "--loop", "--no-audio", "--json", str(clip))
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        assert json.loads(await process.stdout.readline())["state"] == "connected"
        process.send_signal(number)
        _, err = await process.communicate()
    assert (process.returncode, err.decode()) == (130, "")
    assert [track.kind for track in endpoint.tracks] == ["video"]
    assert endpoint.ended == ["s0"]


async def test_a_refusal_is_said(program: Program, endpoint: Endpoint, clip: Path) -> None:
    endpoint.answer("POST", replies(403, text="not you"))
    code, _, err = await program.run("publish", "--whip", endpoint.url, str(clip))
    assert (code, err.strip()) == (1, "Error: POST was answered with 403: not you")


async def test_the_end_of_the_media_server_is_said(program: Program, endpoint: Endpoint, clip: Path) -> None:
    process = await program.start("publish", "--whip", endpoint.url, "--loop", "--json", str(clip))
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        await process.stdout.readline()
        await eventually(lambda: all(pc.connectionState == "connected" for pc in endpoint.sessions.values()))
        await endpoint.close()
        _, err = await process.communicate()
    assert (process.returncode, err.decode().strip().splitlines()[-1]) == (1, "Error: closed_by_remote")


async def test_what_cannot_be_published_is_said(program: Program, endpoint: Endpoint, clip: Path) -> None:
    for arguments, reason in (
        ([str(clip), "--no-audio", "--no-video"], "leave nothing"),
        ([str(clip.with_name("none.mp4"))], "no such media file"),
    ):
        code, _, err = await program.run("publish", "--whip", endpoint.url, *arguments)
        assert code != 0
        assert reason in err
    assert endpoint.seen == []


async def test_what_is_played_is_recorded_as_it_arrives(program: Program, endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.sends = [ToneTrack(), GreyTrack(200)]
    path = tmp_path / "played.mkv"
    code, out, err = await program.run("play", "--whep", endpoint.url, "--output", str(path), "--seconds", "3")
    assert (code, out.split()) == (0, [str(path)]), err
    with av.open(str(path)) as container:
        assert {stream.codec_context.name for stream in container.streams} == {"opus", "vp8"}
        assert len(list(container.decode(video=0))) > 10
    assert endpoint.ended == ["s0"]
