"""Signals that can never be delivered: what flows goes on, what did not fit is told, and the rest still works."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    DataChannel,
    Disconnected,
    FatalError,
    MediaStream,
    MeteredPeer,
    MeteredPeerOversizedError,
    NegotiationError,
    NegotiationFailedError,
    PeerJoined,
    ReconnectOptions,
    ServerRequestError,
    Track,
)
from metered_realtime.core.negotiation import negotiator
from metered_realtime.server import SignallingServer
from metered_realtime.server.limits import Limits
from tests.support.inside import blink, retry_refused, session_of, signalling_client
from tests.support.peers import EventLog, GreyTrack, Pair, Room, Wire, eventually, fresh_frames, shows

CAP = 8_192
"""Bytes of a payload: room for the data section and four or five of video."""


@pytest.fixture
async def small() -> AsyncIterator[Room]:
    """A room on a server that takes small messages only."""
    async with SignallingServer(port=0, limits=Limits(max_message_size=CAP)) as server:
        room = Room(server)
        yield room
        await asyncio.gather(*(peer.close() for peer in room.peers))


def tracks(count: int, level: int = 90) -> list[GreyTrack]:
    return [GreyTrack(level) for _ in range(count)]


def unharmed(pair: Pair) -> bool:
    return pair.log_a.of(ConnectionReset) == pair.log_b.of(ConnectionReset) == []


class Refusing:
    """Refuses signals of a peer that have a text in them, as a server does."""

    def __init__(self, peer: MeteredPeer, text: str, code: str = "channel_not_authorized") -> None:
        self.refused: list[Any] = []
        self.is_on = True
        client: Any = signalling_client(peer)
        send = client._send_raw

        async def refusing(to: str, payload: Any) -> None:
            if self.is_on and text.encode() in bytes(payload):
                self.refused.append(json.loads(bytes(payload)))
                raise ServerRequestError(code)
            await send(to, payload)

        client._send_raw = refusing


class Passing:
    """Counts the signals of a peer that have a text in them."""

    def __init__(self, peer: MeteredPeer, text: str) -> None:
        self.count = 0
        client: Any = signalling_client(peer)
        send = client._send_raw

        async def counting(to: str, payload: Any) -> None:
            self.count += text.encode() in bytes(payload)
            await send(to, payload)

        client._send_raw = counting


# --- too large


async def test_tracks_that_no_offer_has_room_for_are_told_and_the_others_arrive(small: Room) -> None:
    pair = await small.pair()
    _, first = await pair.media_to_b(200)
    many = tracks(12)
    pair.a.add_stream(MediaStream(many))
    event = await pair.log_a.until(NegotiationError)
    assert isinstance(event.err, MeteredPeerOversizedError)
    assert event.err.size > event.err.cap == CAP
    left_out = set(event.track_ids)
    arriving = [track for track in many if track.id not in left_out]
    assert 1 <= len(arriving) < len(many)
    assert left_out == {track.id for track in many[len(arriving) :]}, "the newest"
    await pair.log_b.until(Track, 1 + len(arriving))
    await fresh_frames(first)
    await shows(pair.log_b.of(Track)[-1].track, 90)
    assert unharmed(pair)
    assert len(pair.log_a.of(NegotiationError)) == 1
    pair.a.remove_track(arriving[-1])
    pair.a.add_track(GreyTrack(60))
    await shows((await pair.log_b.until(Track, 2 + len(arriving))).track, 60)
    late = DataChannel(pair.to_a.create_data_channel("late"))
    await late.wait_open()
    assert len(pair.log_a.of(NegotiationError)) == 1
    assert unharmed(pair)


async def test_a_first_offer_that_is_too_large_is_made_to_fit(small: Room) -> None:
    one, other = small.peer("a"), small.peer("b")
    one.add_stream(MediaStream(tracks(12)))
    pair = await small.meet(one, other)
    await shows((await pair.log_b.until(Track)).track, 90)
    event = await pair.log_a.until(NegotiationError)
    assert isinstance(event.err, MeteredPeerOversizedError)
    assert len(pair.to_a.streams[0].get_tracks()) == 12 - len(event.track_ids)
    assert unharmed(pair)


async def test_an_answer_that_has_no_room_declines_what_does_not_fit(room: Room) -> None:
    pair = await room.pair()
    _, first = await pair.media_to_b(200)
    takes(pair.b, 7_000)
    pair.a.add_stream(MediaStream(tracks(8)))
    event = await pair.log_b.until(NegotiationError)
    assert isinstance(event.err, MeteredPeerOversizedError)
    arrived = len(pair.log_b.of(Track))
    assert 1 < arrived < 9
    await shows(pair.log_b.of(Track)[-1].track, 90)
    await fresh_frames(first)
    assert pair.log_a.of(NegotiationError) == []
    takes(pair.b, 65_536)
    pair.b.add_track(GreyTrack(60))
    await shows((await pair.log_a.until(Track)).track, 60)
    pair.a.add_track(GreyTrack(130))
    await shows((await pair.log_b.until(Track, arrived + 1)).track, 130)
    await fresh_frames(first)
    assert unharmed(pair)


async def test_a_server_that_takes_less_than_before_gets_smaller_offers(room: Room) -> None:
    pair = await room.pair()
    _, first = await pair.media_to_b(200)
    takes(pair.a, 1_000)
    pair.a.add_track(GreyTrack())
    event = await pair.log_a.until(NegotiationError)
    assert isinstance(event.err, MeteredPeerOversizedError)
    await fresh_frames(first)
    assert len(pair.log_a.of(NegotiationError)) == 1, "nothing fits, and nothing is tried again"
    takes(pair.a, 65_536)
    pair.a.add_track(GreyTrack(60))
    await shows((await pair.log_b.until(Track, 2)).track, 60)
    assert unharmed(pair)


async def test_a_server_that_ends_the_connection_for_a_large_frame_is_sent_smaller_ones(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes less than it says, as one whose cap is for the frame with its envelope."""
    monkeypatch.setattr(Limits, "max_frame_size", CAP)
    one = room.peer("a", reconnect=ReconnectOptions(initial_delay=0.01, max_delay=0.05))
    pair = await room.meet(one, room.peer("b"))
    _, first = await pair.media_to_b(200)
    losses = EventLog(signalling_client(one))
    many = tracks(12)
    pair.a.add_stream(MediaStream(many))

    def arrived() -> bool:
        left_out = [track_id for event in pair.log_a.of(NegotiationError) for track_id in event.track_ids]
        return 0 < len(left_out) == len(many) + 1 - len(pair.log_b.of(Track))

    await eventually(arrived)
    await fresh_frames(first)
    assert {type(event.err) for event in pair.log_a.of(NegotiationError)} == {MeteredPeerOversizedError}
    assert {event.code for event in losses.of(Disconnected)} == {1009}
    assert len(losses.of(Disconnected)) <= 3
    assert unharmed(pair)


async def test_metadata_that_turns_out_to_be_too_large_is_told_once_and_its_track_arrives(small: Room) -> None:
    one, other = small.peer("a"), small.peer("b")
    track = GreyTrack(60)
    one.add_track(track, MediaStream([track]), {"text": "x" * CAP})  # the server's cap is not known yet
    logs: list[EventLog] = []
    one.on(PeerJoined, lambda event: logs.append(EventLog(event.peer)))  # it is told at once
    pair = await small.meet(one, other)
    event = await logs[0].until(NegotiationError)
    assert isinstance(event.err, MeteredPeerOversizedError)
    assert event.track_ids == (track.id,)
    await shows((await pair.log_b.until(Track)).track, 60)
    one.add_track(GreyTrack(90))
    await shows((await pair.log_b.until(Track, 2)).track, 90)
    assert len(logs[0].of(NegotiationError)) == 1


def takes(peer: MeteredPeer, size: int) -> None:
    """Have the server of a peer take messages of this size, as its next welcome would say."""
    client: Any = signalling_client(peer)
    session_of(client)._exchange.max_message_size = size


# --- refused


async def test_an_offer_that_is_refused_is_told_and_not_repeated_and_what_flows_goes_on(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await room.pair()
    _, first = await pair.media_to_b(200)
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 0.05)
    refusing = Refusing(pair.a, '"type":"offer"')
    track = GreyTrack()
    pair.a.add_track(track)
    event = await pair.log_a.until(NegotiationError)
    assert isinstance(event.err, ServerRequestError)
    assert (event.err.code, event.track_ids) == ("channel_not_authorized", (track.id,))
    await fresh_frames(first, 10)  # longer than all the repetitions that there used to be
    assert len(refusing.refused) == 1
    assert pair.a.stats().signals_refused == 1
    refusing.is_on = False
    pair.a.add_track(GreyTrack(60))
    await shows((await pair.log_b.until(Track, 3)).track, 60)
    assert {it.track.id for it in pair.log_b.of(Track)} >= {track.id}
    assert unharmed(pair)


async def test_a_change_that_was_refused_goes_out_when_the_connection_to_the_server_is_another(room: Room) -> None:
    pair = await room.pair()
    _, first = await pair.media_to_b(200)
    refusing = Refusing(pair.a, '"type":"offer"')
    pair.a.add_track(GreyTrack(60))
    await pair.log_a.until(NegotiationError)
    refusing.is_on = False
    blink(pair.a)
    await shows((await pair.log_b.until(Track, 2)).track, 60)
    await fresh_frames(first)
    assert unharmed(pair)


async def test_a_peer_that_may_not_send_tries_once_and_again_with_its_next_connection(room: Room) -> None:
    permissions = {"publish", "subscribe", "presence"}
    async with Wire(room.server.port) as wire:
        one = MeteredPeer(
            token_provider=lambda: room.server.mint_token(peer_id="a", permissions=permissions),
            url=wire.url,
            reconnect=ReconnectOptions(initial_delay=0.01, max_delay=0.05),
        )
        room.peers.append(one)
        pair = await room.meet(one, room.peer("b"))
        told = EventLog(one)
        offers = Passing(one, '"type":"offer"')
        one.add_track(GreyTrack(60))
        assert (await told.until(FatalError)).code == "action_not_permitted"
        permissions.add("send")
        wire.break_off(told=True)
        await shows((await pair.log_b.until(Track)).track, 60)
        assert offers.count == 2
        assert len(told.of(FatalError)) == 1
        assert pair.log_a.of(NegotiationError) == []
        assert pair.log_a.of(ConnectionReset) == pair.log_b.of(ConnectionReset) == []
        await one.close()


async def test_an_answer_that_is_refused_is_not_repeated_and_what_flows_goes_on(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await room.pair()
    _, first = await pair.media_to_b(200)
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 0.05)
    monkeypatch.setattr(negotiator, "MAX_OFFER_WAIT", 0.05)
    refusing = Refusing(pair.b, '"type":"answer"')
    offers = Passing(pair.a, '"type":"offer"')
    pair.a.add_track(GreyTrack(60))
    event = await pair.log_b.until(NegotiationError)
    assert isinstance(event.err, ServerRequestError)
    await eventually(lambda: offers.count > 2 * negotiator.MAX_OFFER_RESENDS)
    refused, more = len(refusing.refused), offers.count + 5
    await eventually(lambda: offers.count > more)
    assert len(refusing.refused) == refused < offers.count / 2
    assert [type(it.err) for it in pair.log_a.of(NegotiationError)] == [NegotiationFailedError]
    await fresh_frames(first)
    refusing.is_on = False
    retry_refused(pair.b)
    await shows((await pair.log_b.until(Track, 2)).track, 60)
    await fresh_frames(first)
    assert unharmed(pair)


async def test_metadata_that_is_refused_harms_nothing(room: Room) -> None:
    one, other = room.peer("a"), room.peer("b")
    refusing = Refusing(one, '"metadata"')
    track = GreyTrack(60)
    one.add_track(track, MediaStream([track]), {"n": 1})
    pair = await room.meet(one, other)
    event = await pair.log_b.until(Track)
    await shows(event.track, 60)
    assert event.metadata is None
    assert refusing.refused
    assert unharmed(pair)


async def test_candidates_that_are_refused_harm_nothing(small: Room) -> None:
    """They are signals of their own where the offer has no room for them."""
    one, other = small.peer("a"), small.peer("b")
    refusing = Refusing(one, '"rtc-ice"')
    one.add_stream(MediaStream(tracks(12)))
    pair = await small.meet(one, other)
    await shows((await pair.log_b.until(Track)).track, 90)
    assert refusing.refused
    assert unharmed(pair)
