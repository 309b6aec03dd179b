"""A server and peers on it, and helpers to wait for events instead of for time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import pytest

from metered_realtime import Event, MeteredPeer, PeerJoined, RemotePeer
from metered_realtime.emitter import AsyncEventEmitter
from metered_realtime.server import SignallingServer

E = TypeVar("E", bound=Event)

PATIENCE = 10.0
"""Seconds after which a test that waits for an event fails."""


async def next_event(emitter: AsyncEventEmitter, event_type: type[E], **fields: Any) -> E:
    """Return the next event of a type whose fields have these values."""
    async with asyncio.timeout(PATIENCE):
        with_stream = emitter.events(event_type)
        async with with_stream as stream:
            async for event in stream:
                if all(getattr(event, name) == value for name, value in fields.items()):
                    return event
    raise AssertionError("the emitter ended")


async def state_of(remote: RemotePeer, state: str) -> None:
    """Return once a remote is in a state."""
    from metered_realtime import StateChange

    if remote.state != state:
        await next_event(remote, StateChange, to=state)


class Room:
    """One channel of one server, and the peers that tests put in it."""

    def __init__(self, server: SignallingServer) -> None:
        self.server = server
        self.peers: list[MeteredPeer] = []

    def peer(self, peer_id: str | None = None, **options: Any) -> MeteredPeer:
        """Make a peer, with this id or with one that the server chooses."""
        if peer_id is None:
            peer = MeteredPeer(api_key=self.server.api_key, url=self.server.url, **options)
        else:
            peer = MeteredPeer(
                token_provider=lambda: self.server.mint_token(peer_id=peer_id), url=self.server.url, **options
            )
        self.peers.append(peer)
        return peer

    async def join(self, *peers: MeteredPeer, channel: str = "room") -> None:
        """Let peers join one after the other."""
        for peer in peers:
            await peer.join(channel)

    async def pair(self, first: str = "a", second: str = "b") -> tuple[MeteredPeer, RemotePeer, MeteredPeer, RemotePeer]:
        """Return two joined peers, each followed by how it sees the other."""
        one, other = self.peer(first), self.peer(second)
        await one.join("room")
        seen = asyncio.ensure_future(next_event(one, PeerJoined))
        await asyncio.sleep(0)
        await other.join("room")
        remote = (await seen).peer
        return one, remote, other, other.remote_peers[0]


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    """Give a test a server with an empty channel."""
    async with SignallingServer(port=0) as server:
        room = Room(server)
        yield room
        await asyncio.gather(*(peer.close() for peer in room.peers))
