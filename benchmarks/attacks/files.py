"""Files that cost their receiver, or another sender, more than who sends them."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.attacks.stage import CHANNEL, Attack, Stage
from metered_realtime import FileReceived, MeteredPeer, PeerJoined, RemotePeer, StreamWriter

OFFER = "metered.file.1"
PATIENCE = 15.0
"""Seconds in which the file of the honest third has to arrive."""


@asynccontextmanager
async def attacker_of(stage: Stage) -> AsyncIterator[tuple[MeteredPeer, dict[str, RemotePeer]]]:
    """Give an attacker in the channel, and the remotes that it sees."""
    attacker = stage.peer("attacker")
    remotes: dict[str, RemotePeer] = {}
    complete = asyncio.Event()

    @attacker.on(PeerJoined)
    def _(event: PeerJoined) -> None:
        remotes[event.peer.id] = event.peer
        if len(remotes) == 2:
            complete.set()

    await attacker.join(CHANNEL)
    await complete.wait()
    try:
        yield attacker, remotes
    finally:
        await attacker.close()


def offer(transfer: str, name: str, size: int) -> dict[str, str | int]:
    return {"transfer": transfer, "attempt": os.urandom(8).hex(), "name": name, "size": size}


def _remote(stage: Stage, peer_id: str) -> RemotePeer:
    return next(remote for remote in stage.honest.remote_peers if remote.id == peer_id)


async def _trickle(writer: StreamWriter) -> None:
    while True:
        await asyncio.sleep(1.0)
        await writer.write(b"x")


async def known_transfer(stage: Stage) -> None:
    """Go on with the transfer of a file that the attacker was sent, at the victim, byte by byte; fails if the
    sender's own never arrives."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.bin"
        path.write_bytes(os.urandom(1_000_000))
        inbox = stage.victim.receive_files(Path(folder) / "inbox")
        async with attacker_of(stage) as (attacker, remotes):
            known: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            attacker._files.takes = lambda remote, reader: known.set_result(reader.attributes["transfer"]) is None  # type: ignore[method-assign]
            sending = asyncio.ensure_future(_remote(stage, "attacker").send_file(path))
            writer = remotes["victim"].open_stream(OFFER, offer(await known, "film.bin", 1_000_000))
            sending.cancel()
            await writer.__aenter__()
            await writer.write(bytes(8) + b"x")
            trickling = asyncio.ensure_future(_trickle(writer))
            await asyncio.sleep(0.5)
            arrived = asyncio.ensure_future(anext(stage.victim.events(FileReceived)))
            async with stage.watch():
                again = asyncio.ensure_future(_remote(stage, "victim").send_file(path))
                await asyncio.wait_for(arrived, PATIENCE)
            for task in (again, trickling):
                task.cancel()
            await asyncio.gather(sending, again, trickling, return_exceptions=True)
        await inbox.close()


async def one_name(stage: Stage) -> None:
    """Send a file under a name that 3,000 others have, 100 times."""
    with tempfile.TemporaryDirectory() as folder:
        inbox = Path(folder) / "inbox"
        receiver = stage.victim.receive_files(inbox)
        for number in range(2, 3_001):
            (inbox / f"x ({number})").touch()
        (inbox / "x").touch()
        path = Path(folder) / "x"
        async with attacker_of(stage) as (_, remotes), stage.watch():
            for _ in range(100):
                path.write_bytes(os.urandom(8))
                await remotes["victim"].send_file(path)
        await receiver.close()


ATTACKS: dict[str, Attack] = {
    "files_known_transfer": known_transfer,
    "files_one_name": one_name,
}
