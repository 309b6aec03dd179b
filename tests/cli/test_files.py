"""Sending files from one command to another."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from metered_realtime.cli.app import app
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE


class Commands:
    """Runs the program against one server."""

    def __init__(self, server: SignallingServer) -> None:
        self.server = server
        self.processes: list[asyncio.subprocess.Process] = []

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        environment = {**os.environ, "METERED_URL": self.server.url, "METERED_API_KEY": self.server.api_key}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "metered_realtime",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment,
        )
        self.processes.append(process)
        return process

    async def run(self, *arguments: str) -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return process.returncode, out.decode(), err.decode()

    async def receiver(self, directory: Path, *arguments: str) -> asyncio.subprocess.Process:
        process = await self.start("receive-files", str(directory), "--channel", "files", *arguments)
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            assert b"receiving into" in await process.stderr.readline()
        return process

    async def stop(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.communicate()


@pytest.fixture
async def commands() -> AsyncIterator[Commands]:
    async with SignallingServer(port=0) as server:
        commands = Commands(server)
        yield commands
        await commands.stop()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a file.bin"
    path.write_bytes(os.urandom(1_000_000))
    return path


async def test_a_file_goes_from_one_program_to_another(commands: Commands, path: Path, tmp_path: Path) -> None:
    receiver = await commands.receiver(tmp_path / "inbox", "--count", "1")
    code, out, err = await commands.run("send-file", str(path), "--channel", "files")
    assert (code, err) == (0, "")
    assert "a file.bin, 1000000 bytes in" in out
    async with asyncio.timeout(PATIENCE):
        printed, _ = await receiver.communicate()
    assert receiver.returncode == 0
    target = tmp_path / "inbox" / "a file.bin"
    assert printed.decode().strip() == str(target)
    assert await asyncio.to_thread(target.read_bytes) == await asyncio.to_thread(path.read_bytes)


async def test_a_refusal_and_an_interruption_have_their_exit_codes(
    commands: Commands, path: Path, tmp_path: Path
) -> None:
    token = commands.server.mint_token(peer_id="box")
    receiver = await commands.receiver(tmp_path / "inbox", "--max-size", "10", "--token", token)
    code, out, err = await commands.run("send-file", str(path), "--channel", "files", "--to", "box")
    assert (code, out) == (1, "")
    assert "box: failed: too_large" in err
    receiver.send_signal(signal.SIGINT)
    async with asyncio.timeout(PATIENCE):
        _, err_bytes = await receiver.communicate()
    assert receiver.returncode == 130
    assert b"Traceback" not in err_bytes


async def test_who_is_not_there_is_not_waited_for_without_end(commands: Commands, path: Path) -> None:
    code, _, err = await commands.run("send-file", str(path), "--channel", "files", "--to", "box", "--wait", "0.2")
    assert code == 1
    assert "box was not there within 0.2 s" in err


async def test_a_server_that_is_not_there_is_an_error_and_no_traceback(commands: Commands, path: Path) -> None:
    code, _, err = await commands.run("send-file", str(path), "--channel", "x", "--url", "ws://127.0.0.1:1")
    assert code == 1
    assert err.startswith("Error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["send-file", "receive-files", "record"])
def test_without_an_address_a_command_asks_for_one(path: Path, command: str) -> None:
    """A key of this project must not go to another service by default."""
    target = {"send-file": path, "receive-files": path.parent, "record": path.with_suffix(".webm")}[command]
    environment = {"METERED_URL": None, "METERED_API_KEY": "pk_live_mine", "COLUMNS": "120"}
    done = CliRunner().invoke(app, [command, str(target), "--channel", "x"], env=environment)
    assert done.exit_code == 2
    assert "a server is needed: --url or METERED_URL" in done.output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("send-file", "/nowhere", "--channel", "x"), "/nowhere"),
        (("receive-files", "/tmp"), "--channel"),
        (("receive-files", "/tmp", "--channel", "x", "--max-size", "-1"), "--max-size"),
    ],
)
async def test_bad_arguments_are_named(commands: Commands, arguments: tuple[str, ...], named: str) -> None:
    code, _, err = await commands.run(*arguments)
    assert code == 2
    assert named in err
