"""The two programs of `benchmarks.file_transfer`: `send PATH` and `receive DIRECTORY`, steered by lines of text.

Both take URL and token from the environment, print lines of JSON, and replace their connection when `reset` comes in.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import threading
from typing import Any

from metered_realtime import MeteredPeer, PeerJoined, TransferProgress
from metered_realtime.streams.stream_channel import LABEL, MAX_FRAME

STEP = 0.005
"""Progress is printed in steps of this share."""


def tell(**fields: Any) -> None:
    """Print a line."""
    print(json.dumps(fields), flush=True)


def peak_rss() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def obey(peer: MeteredPeer) -> None:
    """Replace the connections to everybody whenever a line says so."""
    loop = asyncio.get_running_loop()
    resets: set[asyncio.Future[Any]] = set()

    def reset() -> None:
        for remote in peer.remote_peers:
            resets.add(asyncio.ensure_future(remote.pc.close()))

    def read() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(reset)

    threading.Thread(target=read, daemon=True).start()


def note_resent(peer: MeteredPeer, resent: dict[int, int]) -> None:
    """Note by channel how many frames of streams went out again on another connection."""
    for remote in peer.remote_peers:
        entry = remote._channels._entries.get(LABEL)
        if entry is not None:
            resent[entry.channel.instance_id] = entry.channel.stats().messages_resent


async def send(path: str) -> None:
    """Send a file to the first one who comes, and tell how that went."""
    async with MeteredPeer(url=os.environ["URL"], token_provider=lambda: os.environ["TOKEN"]) as peer:
        obey(peer)
        async with peer.events(PeerJoined) as joined:
            await peer.join("files")
            remote = (await joined.__anext__()).peer
        baseline, told = peak_rss(), 0.0
        resent: dict[int, int] = {}

        def progress(step: TransferProgress) -> None:
            nonlocal told
            note_resent(peer, resent)
            if step.done >= step.size * told:
                tell(share=step.done / step.size)
                told = step.done / step.size + STEP

        result = await remote.send_file(path, progress=progress)
        note_resent(peer, resent)
        tell(
            resent=sum(resent.values()) * MAX_FRAME,
            size=result.size,
            sent=result.sent,
            attempts=result.attempts,
            seconds=result.seconds,
            digest=result.digest,
            baseline=baseline,
            peak=peak_rss(),
        )


async def receive(directory: str) -> None:
    """Receive one file and tell of it."""
    async with MeteredPeer(url=os.environ["URL"], token_provider=lambda: os.environ["TOKEN"]) as peer:
        obey(peer)
        async with peer.receive_files(directory) as files:
            await peer.join("files")
            tell(ready=True, baseline=peak_rss())
            file = await files.__anext__()
            tell(path=str(file.path), digest=file.digest, peak=peak_rss())


if __name__ == "__main__":
    asyncio.run({"send": send, "receive": receive}[sys.argv[1]](sys.argv[2]))
