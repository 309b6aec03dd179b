"""A native peer and a foreign end in one channel, and what they do there."""

from __future__ import annotations

import asyncio
from typing import Any

from aiortc import MediaStreamTrack

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DCMessage,
    MediaStream,
    MeteredPeer,
    NegotiationError,
    RemotePeer,
    Track,
    TrackEnded,
)
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.foreign_ends import ForeignEnd, key_frame
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, fresh_frames

BOTH = ("audio", "video")

LONG_TEXT = "0123456789" * 6_000
"""A message of many packets, below the 64 KiB that every end can receive (RFC 8841 section 6.1)."""


class Meeting:
    """A native peer `m`, which sees the foreign one as `remote`, and sends back what comes over its channels."""

    def __init__(self, native: MeteredPeer, remote: RemotePeer, foreign: ForeignEnd) -> None:
        self.native, self.remote, self.foreign = native, remote, foreign
        self.log = EventLog(remote)
        remote.on(DataChannelOpened, lambda event: _echo(DataChannel(event.channel)))

    def python_sends(self, start: asyncio.Event | None = None) -> None:
        """Let the native peer send sound and pictures, from an event on if there is one."""
        tracks = [GreyTrack(), ToneTrack()]
        self.native.add_stream(MediaStream(tracks if start is None else [HeldTrack(it, start) for it in tracks]))

    async def other_sends(self, *kinds: str) -> None:
        """Let the foreign end have tracks to send, which it does not offer yet."""
        for kind in kinds:
            await self.foreign.command("add", kind=kind, picture=key_frame())

    async def python_receives(self, *kinds: str, tracks: int = 1) -> None:
        """Wait for fresh frames of so many tracks of each kind that are being sent."""

        def of(kind: str) -> list[Track]:
            ended = [it.track for it in self.log.of(TrackEnded)]
            return [it.track for it in self.log.of(Track) if it.track.kind == kind and it.track not in ended]

        await self.log.holds(lambda: all(len(of(kind)) == tracks for kind in kinds))
        await asyncio.gather(*(fresh_frames(track) for kind in kinds for track in of(kind)))

    async def media_flows(self, *kinds: str) -> None:
        """Wait for more media in both directions."""
        await asyncio.gather(self.python_receives(*kinds), self.foreign.receives(*kinds))

    async def opens_a_channel(self, label: str = "python's") -> DataChannel:
        """Let the native peer open a channel, over which messages go both ways."""
        channel = DataChannel(self.remote.create_data_channel(label))
        await channel.wait_open()
        await self.is_answered(channel)
        return channel

    async def is_answered(self, channel: DataChannel, text: str = LONG_TEXT) -> None:
        """Wait until the foreign end has sent a message back."""
        messages = channel.events(DCMessage)
        await channel.send(text)
        async with asyncio.timeout(PATIENCE):
            assert (await anext(messages)).data == f"echo {text}"
        messages.close()

    def assert_undisturbed(self) -> None:
        """Fail if anything went wrong at either end, whether it was repaired or not."""
        assert self.log.of(ConnectionReset) == []
        assert self.log.of(NegotiationError) == []
        assert self.foreign.failures == []


class HeldTrack(MediaStreamTrack):
    """The frames of another track, from an event on."""

    def __init__(self, source: MediaStreamTrack, start: asyncio.Event) -> None:
        super().__init__()
        self.kind = source.kind
        self._source, self._start = source, start

    async def recv(self) -> Any:
        await self._start.wait()
        return await self._source.recv()

    def stop(self) -> None:
        super().stop()
        self._source.stop()


def _echo(channel: DataChannel) -> None:
    async def answer(event: DCMessage) -> None:
        if not str(event.data).startswith("echo "):
            await channel.send(f"echo {event.data}")

    channel.on(DCMessage, answer)
