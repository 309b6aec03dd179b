"""Programs that end without closing: one warning for each peer and client, and nothing odd."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from metered_realtime.server import SignallingServer

ROOT = Path(__file__).parents[2]

PRELUDE = """
import asyncio, sys
from metered_realtime import *
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.peers import EventLog, GreyTrack, eventually, frames, state_of

URL, KEY = sys.argv[1:]

async def call(one, other):
    seen = EventLog(one)
    for peer in (one, other):
        peer.add_stream(MediaStream([GreyTrack(), ToneTrack()]))
        await peer.join("room")
    remote = (await seen.until(PeerJoined)).peer
    heard = EventLog(remote)
    await frames((await heard.until(Track)).track)
    return remote
"""

JOINED = """
async def main():
    await MeteredPeer(api_key=KEY, url=URL).join("room")
"""

CLIENT = """
async def main():
    client = SignallingClient(api_key=KEY, url=URL)
    await client.connect()
    await client.subscribe("room")
"""

CALL = """
async def main():
    one, other = (MeteredPeer(api_key=KEY, url=URL) for _ in range(2))
    channels = [peer.open_channel("chat") for peer in (one, other)]
    remote = await call(one, other)
    heard = EventLog(channels[1])
    await channels[0].send("hello")
    await heard.until(ChannelMessage)
    wrapped = DataChannel(remote.create_data_channel("raw"))
    await eventually(lambda: wrapped.ready_state == "open")
"""

CLOSED = """
async def main():
    async with MeteredPeer(api_key=KEY, url=URL) as one, MeteredPeer(api_key=KEY, url=URL) as other:
        await call(one, other)
    client = SignallingClient(api_key=KEY, url=URL)
    await client.connect()
    await client.close()
"""

FAILED = """
async def main():
    peer, client = MeteredPeer(api_key="wrong", url=URL), SignallingClient(api_key="wrong", url=URL)
    for attempt in (peer.join("room"), client.connect()):
        try:
            await attempt
        except SignallingConnectError:
            pass
"""


async def stderr_of(program: str, *options: str) -> str:
    """Return what a program writes to its standard error, in asyncio.run and with these options of Python."""
    async with SignallingServer(port=0) as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *options,
            "-c",
            f"{PRELUDE}{program}\nasyncio.run(main())",
            server.url,
            server.api_key,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return errors.decode()


@pytest.mark.parametrize(
    ("program", "unclosed"),
    [
        (JOINED, ["MeteredPeer"]),
        (CLIENT, ["SignallingClient"]),
        (CALL, ["MeteredPeer", "MeteredPeer"]),
        (CLOSED, []),
        (FAILED, []),
    ],
    ids=["joined", "client", "call", "closed", "failed"],
)
async def test_what_is_not_closed_is_warned_of_and_nothing_else_is_said(program: str, unclosed: list[str]) -> None:
    lines = (await stderr_of(program, "-W", "always::ResourceWarning")).splitlines()
    told = [line for line in lines if "ResourceWarning: " in line and "tracemalloc" not in line]
    assert [re.search(r"unclosed <(\w+)", line)[1] for line in told] == unclosed, lines  # type: ignore[index]
    rest = [line for line in lines if line not in told and "tracemalloc" not in line and "warnings.warn" not in line]
    assert rest == []


@pytest.mark.parametrize("program", [JOINED, CLIENT, CALL], ids=["joined", "client", "call"])
async def test_of_what_is_not_closed_nothing_is_said_by_default(program: str) -> None:
    assert await stderr_of(program) == ""
