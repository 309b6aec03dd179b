"""A real server process that is killed or stopped, and comes back: the calls of its clients go on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime import ConnectionReset, MeteredPeer, PeerJoined, PeerLeft, Track
from tests.cli.test_serve import program
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, Pair, state_of

KEYS = ("--api-key", "pk_live_mine", "--secret-id", "sk_id_test", "--secret", "sk_secret_" + "t" * 40)


@asynccontextmanager
async def serving(port: int = 0) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a server process. Return it and its address."""
    async with program("serve", "--port", str(port), "--json", *KEYS) as process:
        assert process.stdout is not None
        yield process, json.loads(await process.stdout.readline())["url"]


class Reader:
    """Reads a track all the time, and knows the longest hole between two of its frames."""

    def __init__(self, track: Any) -> None:
        self.frames = 0
        self.longest_gap = 0.0
        self._last: float | None = None
        self._grew = asyncio.Event()
        self._reading = asyncio.ensure_future(self._read(track))

    async def more(self, count: int) -> None:
        """Return when so many further frames have come."""
        wanted = self.frames + count
        async with asyncio.timeout(PATIENCE):
            while self.frames < wanted:
                self._grew.clear()
                await self._grew.wait()

    async def stop(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])

    async def _read(self, track: Any) -> None:
        with contextlib.suppress(MediaStreamError):
            while True:
                frame = await track.recv()
                at = float(frame.pts * frame.time_base)
                if self._last is not None:
                    self.longest_gap = max(self.longest_gap, at - self._last)
                self._last = at
                self.frames += 1
                self._grew.set()


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_call_goes_on_while_the_server_restarts(number: signal.Signals) -> None:
    peers: list[MeteredPeer] = []
    readers: list[Reader] = []
    try:
        async with serving() as (process, url):
            peers = [MeteredPeer(api_key="pk_live_mine", url=url) for _ in range(2)]
            logs = [EventLog(peer) for peer in peers]
            for peer in peers:
                peer.add_track(GreyTrack())
                await peer.join("room")
            met = [(await log.until(PeerJoined)).peer for log in logs]
            pair = Pair(peers[0], met[0], peers[1], met[1])
            remote_logs = (pair.log_a, pair.log_b)
            readers = [Reader((await log.until(Track)).track) for log in remote_logs]
            await asyncio.gather(*(reader.more(5) for reader in readers))
            process.send_signal(number)
            await process.wait()
        for peer in peers:
            await state_of(peer, "reconnecting")
        await asyncio.gather(*(reader.more(20) for reader in readers))
        async with serving(int(url.rpartition(":")[2])):
            for peer in peers:
                await state_of(peer, "joined")
            await pair.connected()
            await asyncio.gather(*(reader.more(20) for reader in readers))
            assert [len(log.of(PeerLeft)) for log in logs] == [0, 0]
            assert [len(log.of(PeerJoined)) for log in logs] == [1, 1]
            assert [len(log.of(ConnectionReset)) for log in remote_logs] == [0, 0]
            assert max(reader.longest_gap for reader in readers) < 1.0
            await asyncio.gather(*(peer.close() for peer in peers))
    finally:
        await asyncio.gather(*(reader.stop() for reader in readers), *(peer.close() for peer in peers))
