"""A peer as a program: it joins, sends generated media, and tells what happens to it as lines of JSON.

    python -m tests.network.peer_program '{"url": ..., "id": ..., "secret_id": ..., "secret": ..., "media": ["video"]}'

Each line of output has `at`, seconds of the monotonic clock, which all processes of a machine share, and `event`.
Commands come as lines of JSON on standard input; its end ends the program.

    {"do": "open", "to": "b", "label": "chat"}               open a data channel
    {"do": "send", "label": "chat", "count": 100}            send the numbers from 0 on it
    {"do": "close"}                                          leave

Media is `audio`, `video`, or `noise`: video whose pictures take many packets.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import sys
import time
from typing import Any

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DCClose,
    DCMessage,
    DCOpen,
    MediaStream,
    MeteredPeer,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    RemotePeer,
    SignallingClientOptions,
    StateChange,
    StdlibLogger,
    Track,
    iter_frames,
)
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from metered_realtime.server import mint_token

CHANNEL = "room"
WIDTH, HEIGHT, FPS = 128, 96, 10
"""Small: a dozen of these programs run at once."""


class NoiseTrack(PatternTrack):
    """Pictures of which nothing can be left out."""

    async def recv(self) -> Any:
        frame = await super().recv()
        frame.planes[0].update(random.randbytes(frame.planes[0].buffer_size))
        return frame


KINDS_OF_VIDEO = {"video": PatternTrack, "noise": NoiseTrack}


def tell(event: str, **fields: Any) -> None:
    print(json.dumps({"at": time.monotonic(), "event": event, **fields}), flush=True)


class Program:
    """One peer, everything that it hears, and what it is told to do."""

    def __init__(self, url: str, id: str, secret_id: str, secret: str, media: list[str]) -> None:
        self._channels: dict[str, DataChannel] = {}
        self._readers: set[asyncio.Task[None]] = set()
        options = SignallingClientOptions(
            url=url,
            token_provider=lambda: mint_token(secret_id=secret_id, secret=secret, peer_id=id),
            allow_insecure_url=True,  # the namespaces are as private as loopback
            logger=StdlibLogger(),
        )
        self.peer = MeteredPeer(options)
        self.peer.on(StateChange, lambda it: tell("own_state", to=it.to))
        self.peer.on(PeerJoined, self._on_joined)
        self.peer.on(PeerLeft, lambda it: tell("left", peer=it.peer.id))
        if media:
            tracks = [
                ToneTrack() if it == "audio" else KINDS_OF_VIDEO[it](width=WIDTH, height=HEIGHT, fps=FPS)
                for it in media
            ]
            self.peer.add_stream(MediaStream(tracks))

    async def run(self) -> None:
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        await self.peer.join(CHANNEL)
        tell("joined")
        while line := await commands.readline():
            await self._obey(**json.loads(line))
        await self.peer.close()

    async def _obey(self, do: str, to: str = "", label: str = "", count: int = 0) -> None:
        if do == "open":
            remote = next(it for it in self.peer.remote_peers if it.id == to)
            self._watch(remote, DataChannel(remote.create_data_channel(label)))
        elif do == "send":
            for number in range(count):
                await self._channels[label].send(str(number))
        elif do == "close":
            await self.peer.close()
            tell("closed")

    def _on_joined(self, event: PeerJoined) -> None:
        remote = event.peer
        tell("met", peer=remote.id)
        remote.on(StateChange, lambda it: tell("state", peer=remote.id, to=it.to))
        remote.on(ConnectionReset, lambda _: tell("reset", peer=remote.id))
        remote.on(NegotiationError, lambda it: tell("negotiation_error", peer=remote.id, error=repr(it.err)))
        remote.on(DataChannelOpened, lambda it: self._watch(remote, DataChannel(it.channel)))
        remote.on(Track, lambda it: self._read(remote, it.track))

    def _watch(self, remote: RemotePeer, channel: DataChannel) -> None:
        self._channels[channel.label] = channel
        channel.on(DCOpen, lambda _: tell("open", peer=remote.id, label=channel.label))
        channel.on(DCClose, lambda _: tell("closed_channel", peer=remote.id, label=channel.label))
        channel.on(DCMessage, lambda it: tell("message", peer=remote.id, label=channel.label, data=it.data))

    def _read(self, remote: RemotePeer, track: Any) -> None:
        async def read() -> None:
            async for _ in iter_frames(track):
                tell("frame", peer=remote.id, kind=track.kind)

        reader = asyncio.ensure_future(read())
        self._readers.add(reader)
        reader.add_done_callback(self._readers.discard)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("aioice").setLevel(logging.WARNING)
    asyncio.run(Program(**json.loads(sys.argv[1])).run())
