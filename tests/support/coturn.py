"""A real TURN server on loopback: coturn, with a shared secret."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE

EXECUTABLE = shutil.which("turnserver")

needs_coturn = pytest.mark.skipif(
    EXECUTABLE is None and "CI" not in os.environ, reason="turnserver is needed: apt-get install coturn"
)
"""Skips the test where coturn is missing, except in CI, where it fails."""

REALM = "relay.example"


@asynccontextmanager
async def coturn(shared_secret: str, directory: Path, arguments: Sequence[str] | None = None) -> AsyncIterator[str]:
    """Run a TURN server, with other arguments than those of most tests if there are some. Yield its URL."""
    assert EXECUTABLE is not None, "turnserver is needed: apt-get install coturn"
    port = _free_port()
    log = directory / "log"
    process = await asyncio.create_subprocess_exec(
        EXECUTABLE,
        "-n",  # no configuration file
        *("--listening-ip=127.0.0.1", f"--listening-port={port}", "--relay-ip=127.0.0.1"),
        *(_usual(shared_secret) if arguments is None else arguments),
        *(f"--userdb={directory / 'users.db'}", f"--pidfile={directory / 'pid'}", f"--log-file={log}", "--simple-log"),
        cwd=directory,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        try:
            async with asyncio.timeout(PATIENCE):
                await _answering(port)
        except TimeoutError:
            raise AssertionError(f"coturn does not answer on port {port}:\n{log.read_text()}") from None
        yield f"turn:127.0.0.1:{port}?transport=udp"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def _usual(shared_secret: str) -> tuple[str, ...]:
    return (
        *(f"--realm={REALM}", "--use-auth-secret", f"--static-auth-secret={shared_secret}", "--fingerprint"),
        *("--allow-loopback-peers", "--no-cli", "--no-tcp", "--no-tls", "--no-dtls", "--no-rfc5780"),
    )


def _free_port() -> int:
    # For UDP only: on TCP the port may be in use, or in TIME_WAIT.
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answering(port: int) -> None:
    """Send STUN binding requests until there is an answer."""
    request = bytes.fromhex("000100002112a442") + b"are-you-there"[:12]
    loop = asyncio.get_running_loop()
    while True:
        with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
            probe.setblocking(False)
            probe.connect(("127.0.0.1", port))
            try:
                await loop.sock_sendall(probe, request)
                await asyncio.wait_for(loop.sock_recv(probe, 1_500), 0.2)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
            else:
                return
