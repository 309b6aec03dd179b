"""Two peers that add, replace and remove media and open channels at random moments: in the end everything flows."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime import ConnectionReset, DataChannel, MediaStream, MeteredPeer, NegotiationError, RemotePeer
from tests.support.peers import GreyTrack, Pair, Room, eventually, fresh_frames

SEEDS = 8
OPERATIONS = 12
LONGEST_PAUSE = 0.15


class Actor:
    """One peer that does random things, and knows what it should be sending."""

    def __init__(self, peer: MeteredPeer, remote: RemotePeer, chance: random.Random) -> None:
        self.peer = peer
        self.remote = remote
        self.streams: list[MediaStream] = []
        self._chance = chance
        self._channels: list[DataChannel] = []

    async def act(self) -> None:
        for _ in range(OPERATIONS):
            await asyncio.sleep(self._chance.uniform(0, LONGEST_PAUSE))
            await self._chance.choice([self._add, self._add, self._remove, self._replace, self._open])()

    async def _add(self) -> None:
        if len(self.streams) < 3:
            stream = MediaStream([GreyTrack()])
            self.streams.append(stream)
            self.peer.add_stream(stream, {"stream": stream.id})

    async def _remove(self) -> None:
        if self.streams:
            self.peer.remove_stream(self.streams.pop(self._chance.randrange(len(self.streams))))

    async def _replace(self) -> None:
        if self.streams:
            stream = self._chance.choice(self.streams)
            old, new = stream.get_tracks()[0], GreyTrack()
            await self.peer.replace_track(old, new)
            stream.remove_track(old)
            stream.add_track(new)
            if self._chance.random() < 0.5:
                old.stop()

    async def _open(self) -> None:
        self._channels.append(DataChannel(self.remote.create_data_channel(f"channel {len(self._channels)}")))

    def ids(self) -> set[str]:
        return {stream.id for stream in self.streams}

    def opened(self) -> bool:
        return all(channel.ready_state == "open" for channel in self._channels)


def tracks_of(remote: RemotePeer) -> list[Any]:
    return [track for stream in remote.streams for track in stream.get_tracks()]


async def all_flow(remote: RemotePeer) -> None:
    """Return once every track of a remote flows. One that is sent again meanwhile ends, and comes as another."""
    while True:
        tracks = tracks_of(remote)
        try:
            await asyncio.gather(*(fresh_frames(track) for track in tracks))
        except MediaStreamError:
            await eventually(lambda tracks=tracks: tracks_of(remote) != tracks)
        else:
            return


async def play(pair: Pair, seed: int) -> tuple[Actor, Actor]:
    chance = random.Random(seed)
    one, other = Actor(pair.a, pair.to_b, chance), Actor(pair.b, pair.to_a, chance)
    await asyncio.gather(one.act(), other.act())
    return one, other


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_a_random_session_ends_with_everything_flowing_and_nothing_reset(room: Room, seed: int) -> None:
    pair = await room.pair()
    one, other = await play(pair, seed)
    await eventually(lambda: {stream.id for stream in pair.to_a.streams} == one.ids())
    await eventually(lambda: {stream.id for stream in pair.to_b.streams} == other.ids())
    await eventually(lambda: one.opened() and other.opened())
    for remote in (pair.to_a, pair.to_b):
        await all_flow(remote)
    for log in (pair.log_a, pair.log_b):
        assert not log.of(ConnectionReset)
        assert not log.of(NegotiationError)
