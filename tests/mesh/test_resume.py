"""Peers by publishable key that lose the server come back as themselves, and nothing between them is built anew."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    DataChannelOpened,
    DCClose,
    DCMessage,
    PeerJoined,
    PeerLeft,
    ReconnectOptions,
    StateChange,
    Track,
)
from metered_realtime.server.resume import ResumeTokens
from tests.support.peers import EventLog, Pair, Room, Wire, eventually, fresh_frames, state_of

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.05, max_attempts=1000)


def states(log: EventLog) -> list[str]:
    return [event.to for event in log.of(StateChange)]


class Call:
    """Two peers that talk in every way, and what they notice from then on."""

    def __init__(self, pair: Pair, received: tuple[Any, Any], channels: tuple[DataChannel, DataChannel]) -> None:
        self.pair = pair
        self.peers = pair.a, pair.b
        self.logs = EventLog(pair.a), EventLog(pair.b)
        self._received = received
        self._ids = pair.a.peer_id, pair.b.peer_id
        self._remotes = pair.a.remote_peers, pair.b.remote_peers
        self._connections = pair.to_a.pc, pair.to_b.pc
        self._tracks = [len(log.of(Track)) for log in (pair.log_a, pair.log_b)]
        self._mine, self._theirs = channels
        self._heard = EventLog(channels[1])

    @classmethod
    async def between(cls, pair: Pair) -> Call:
        _, in_b = await pair.media_to_b(60)
        _, in_a = await pair.media_to_a(200)
        mine = DataChannel(pair.to_b.create_data_channel("chat"))
        theirs = DataChannel((await pair.log_b.until(DataChannelOpened)).channel)
        await eventually(lambda: mine.ready_state == "open")
        return cls(pair, (in_a, in_b), (mine, theirs))

    async def goes_on(self, text: str) -> None:
        """Return once media and data that were sent from now on have arrived."""
        await asyncio.gather(*(fresh_frames(track) for track in self._received))
        await self._mine.send(text)
        await self._heard.until(DCMessage, data=text)

    async def is_as_it_was(self) -> None:
        """Check that everything is as before, and that nothing was told but the reconnects."""
        await self.pair.connected()
        await self.goes_on("afterwards")
        pair = self.pair
        assert (pair.a.peer_id, pair.b.peer_id) == self._ids
        assert (pair.a.remote_peers, pair.b.remote_peers) == self._remotes
        assert (pair.to_a.pc, pair.to_b.pc) == self._connections
        assert [len(log.of(Track)) for log in (pair.log_a, pair.log_b)] == self._tracks
        assert self._heard.of(DCClose) == []
        for log in self.logs:
            assert log.of(PeerJoined) == log.of(PeerLeft) == []
        for log in (pair.log_a, pair.log_b):
            assert log.of(ConnectionReset) == []


@pytest.mark.parametrize("told", [True, False], ids=["noticed", "unnoticed"])
async def test_a_lost_server_leaves_id_media_and_data_as_they_were(room: Room, told: bool) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer(url=wire.url, reconnect=QUICK), room.peer())
        call = await Call.between(pair)
        wire.block()
        wire.break_off(told=told)
        await state_of(pair.a, "reconnecting")
        if told:
            await state_of(pair.to_a, "reconnecting")
        await call.goes_on("in between")
        wire.unblock()
        await state_of(pair.a, "joined")
        await call.is_as_it_was()
        assert states(call.logs[0]) == ["reconnecting", "joined"]
        assert states(pair.log_a)[-3:] == ["connected", "reconnecting", "connected"]
        expected = ["connected", "reconnecting", "connected"] if told else ["connected"]
        assert states(pair.log_b)[-len(expected) :] == expected
        assert call.logs[1].events == []
        await pair.a.close()


async def test_one_that_loses_the_server_over_and_over_is_never_missed(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer(url=wire.url, reconnect=QUICK), room.peer())
        call = await Call.between(pair)
        for _ in range(5):
            back = len(call.logs[0].of(StateChange)) + 2
            wire.break_off(told=False)
            await eventually(lambda back=back: len(call.logs[0].of(StateChange)) == back)
        await call.is_as_it_was()
        assert call.logs[1].events == []
        assert states(pair.log_b)[-1] == "connected"
        assert "reconnecting" not in states(pair.log_b)
        await pair.a.close()


async def test_a_server_that_restarts_finds_everybody_under_the_same_id(room: Room) -> None:
    pair = await room.meet(room.peer(reconnect=QUICK), room.peer(reconnect=QUICK))
    call = await Call.between(pair)
    await room.server.stop()
    for peer in call.peers:
        await state_of(peer, "reconnecting")
    await call.goes_on("in between")
    await room.server.start()
    for peer in call.peers:
        await state_of(peer, "joined")
    await call.is_as_it_was()
    for log in call.logs:
        assert states(log) == ["reconnecting", "joined"]


async def test_what_is_added_meanwhile_reaches_the_others(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer(url=wire.url, reconnect=QUICK), room.peer())
        call = await Call.between(pair)
        wire.break_off(told=False)
        await state_of(pair.a, "reconnecting")
        await pair.media_to_b(120)
        assert call.logs[1].of(PeerLeft) == []
        assert pair.log_b.of(ConnectionReset) == []
        await pair.a.close()


async def test_without_a_resume_token_everything_comes_back_under_another_id(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResumeTokens, "read", lambda *_: None)
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer(url=wire.url, reconnect=QUICK), room.peer())
        await pair.media_to_b(60)
        before, seen = pair.a.peer_id, EventLog(pair.b)
        wire.break_off(told=True)
        new = (await seen.until(PeerJoined)).peer
        await state_of(pair.a, "joined")
        assert pair.a.peer_id == new.id != before
        assert await EventLog(new).until(Track)
        await pair.a.close()
