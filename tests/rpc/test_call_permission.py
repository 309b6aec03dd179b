"""A key or token that may not send to peers: one error says so, and what to do."""

from __future__ import annotations

import logging

import pytest

from metered_realtime import FatalError, MeteredPeer, NegotiationError, PeerJoined, ReconnectOptions, ServerRequestError
from tests.support.inside import session_of, signalling_client
from tests.support.peers import EventLog, GreyTrack, Room, Wire, eventually, state_of

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.05, max_attempts=1000)
NO_CALLS = ["publish", "subscribe", "presence"]


def peer_with(room: Room, permissions: list[str], url: str | None = None) -> MeteredPeer:
    """Return the peer `m`, whose next tokens have these permissions."""
    peer = MeteredPeer(
        token_provider=lambda: room.server.mint_token(peer_id="m", permissions=permissions),
        url=url if url is not None else room.server.url,
        reconnect=QUICK,
    )
    room.peers.append(peer)
    return peer


async def test_a_peer_that_may_not_send_is_told_once_with_what_to_do(room: Room) -> None:
    others = [room.peer() for _ in range(3)]
    await room.join(*others)
    peer = peer_with(room, NO_CALLS)
    seen = EventLog(peer)
    peer.add_track(GreyTrack(), metadata={"n": 1})
    peer.open_channel("chat")
    await peer.join("room")
    told = await seen.until(FatalError)
    await seen.until(PeerJoined, 3)
    assert (told.code, isinstance(told.err, ServerRequestError)) == ("action_not_permitted", True)
    assert "keys create --for calls" in str(told.err)
    logs = [EventLog(remote) for remote in peer.remote_peers]
    await eventually(lambda: session_of(signalling_client(peer)).pending_requests == 0)
    peer.add_track(GreyTrack())
    await eventually(lambda: session_of(signalling_client(peer)).pending_requests == 0)
    assert len(seen.of(FatalError)) == 1
    assert not any(log.of(NegotiationError) for log in logs)
    assert peer.state == "joined"


async def test_without_a_handler_it_is_logged(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    other, peer = room.peer(), peer_with(room, NO_CALLS)
    await room.join(other, peer)
    with caplog.at_level(logging.ERROR, "metered_realtime"):
        peer.add_track(GreyTrack())
        await eventually(lambda: "keys create --for calls" in caplog.text)


async def test_what_was_held_is_signalled_with_a_token_that_permits_it(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        permissions = list(NO_CALLS)
        other, peer = room.peer(), peer_with(room, permissions, wire.url)
        seen = EventLog(peer)
        await room.join(other, peer)
        peer.add_track(GreyTrack())
        await seen.until(FatalError)
        permissions.append("send")
        wire.break_off(told=False)
        await state_of(peer, "reconnecting")
        await state_of(peer, "joined")
        await state_of(peer.remote_peers[0], "connected")
        assert len(seen.of(FatalError)) == 1
        await peer.close()
