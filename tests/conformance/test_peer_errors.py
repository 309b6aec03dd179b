"""How a `MeteredPeer` reports errors and the end of its connection.

A permanent end emits, in this order: `FatalError` with a stable `code`, `PeerLeft` for all remotes, `StateChange` to
`closed`, `Left`. A refused call raises, and the state of the peer does not change.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from metered_realtime import (
    DisconnectedError,
    Event,
    FatalError,
    Joined,
    Left,
    MediaStream,
    MeteredPeer,
    MeteredPeerOversizedError,
    MeteredPeerSendError,
    MeteredPeerStateError,
    MeteredRealtimeError,
    PeerJoined,
    PeerLeft,
    ServerRequestError,
    SignallingConnectError,
    SignallingError,
    StateChange,
)
from metered_realtime.options import ReconnectOptions
from metered_realtime.server import SignallingServer
from tests.support.patience import PATIENCE
from tests.support.rest_client import backend
from tests.support.scripted_server import Conversation, ScriptedServer, refuse_handshake

from .support import AT_ONCE

Note = tuple[Any, ...]


class PeerDiary:
    """The events of a peer, in order and in a short form."""

    def __init__(self, peer: MeteredPeer) -> None:
        self.events: list[Event] = []
        self._grew = asyncio.Event()
        peer.on(Event, self._note)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self._grew.set()

    async def wait_for(self, kind: type[Event]) -> Event:
        while not any(isinstance(event, kind) for event in self.events):
            self._grew.clear()
            await self._grew.wait()
        return next(event for event in self.events if isinstance(event, kind))

    def since_joined(self) -> list[Note]:
        """Return the events after bob's `PeerJoined`."""
        met = next(index for index, event in enumerate(self.events) if isinstance(event, PeerJoined))
        return [_short(event) for event in self.events[met + 1 :]]


def _short(event: Event) -> Note:
    match event:
        case FatalError(err, code):
            return "fatal", code, getattr(err, "close_code", None)
        case PeerLeft(peer):
            return "peer left", peer.id
        case StateChange(from_, to):
            return "state", from_, to
        case Left(peer_id, channel, reason):
            return "left", peer_id, channel, reason
    return (type(event).__name__,)


@asynccontextmanager
async def peer_at(url: str, **options: Any) -> AsyncIterator[tuple[MeteredPeer, PeerDiary]]:
    if "token_provider" not in options:
        options.setdefault("api_key", "pk_live_x")
    options.setdefault("reconnect", AT_ONCE)
    peer = MeteredPeer(url=url, **options)
    diary = PeerDiary(peer)
    try:
        async with asyncio.timeout(PATIENCE):
            yield peer, diary
    finally:
        await peer.close()


def a_room_that_ends(code: int, reason: str = "why") -> Callable[[Conversation], Awaitable[None]]:
    """Act as a server with bob in the channel, which closes after the first publication."""

    async def script(conversation: Conversation) -> None:
        await conversation.welcome()
        frame = await conversation.ack()
        joined = [{"peerId": "bob"}]
        await conversation.say({"type": "presence", "channel": frame["channel"], "joined": joined, "left": []})
        while (await conversation.hear())["type"] != "publish":
            pass
        await conversation.hang_up(code, reason)

    return script


async def join_and_trigger(peer: MeteredPeer, diary: PeerDiary) -> None:
    await peer.join("room")
    await diary.wait_for(PeerJoined)
    with pytest.raises(SignallingError):
        await peer.send("now")


# --- the end


@pytest.mark.parametrize(
    ("close_code", "code"),
    [
        (4001, "invalid_token"),
        (4003, "channel_not_authorized"),
        (4012, "account_suspended"),
        (4020, "admin_disconnect"),
    ],
)
async def test_a_terminal_close_is_told_in_full_and_in_order(close_code: int, code: str) -> None:
    async with (
        ScriptedServer(a_room_that_ends(close_code)) as server,
        peer_at(server.url) as (peer, diary),
    ):
        await join_and_trigger(peer, diary)
        await diary.wait_for(Left)
        assert diary.since_joined() == [
            ("fatal", code, close_code),
            ("peer left", "bob"),
            ("state", "joined", "closed"),
            ("left", "ann", "room", "why"),
        ]
        assert peer.state == "closed"
        assert len(server.paths) == 1


async def test_an_expired_token_is_fatal_only_if_nothing_may_be_retried() -> None:
    async with (
        ScriptedServer(a_room_that_ends(4002)) as server,
        peer_at(server.url, reconnect=False) as (peer, diary),
    ):
        await join_and_trigger(peer, diary)
        await diary.wait_for(Left)
        assert diary.since_joined() == [
            ("fatal", "token_expired", 4002),
            ("peer left", "bob"),
            ("state", "joined", "closed"),
            ("left", "ann", "room", "why"),
        ]


async def test_an_expired_token_is_otherwise_replaced() -> None:
    async def room(conversation: Conversation) -> None:
        await a_room_that_ends(1000)(conversation)

    provided = iter(["old", "new"])
    async with (
        ScriptedServer(a_room_that_ends(4002), room) as server,
        peer_at(server.url, token_provider=lambda: next(provided)) as (peer, diary),
    ):
        await join_and_trigger(peer, diary)
        while peer.state != "joined" or len(server.paths) < 2:
            diary._grew.clear()
            await diary._grew.wait()
        assert server.paths == ["/v1?token=old&recover=1", "/v1?token=new&recover=1"]
        assert not any(isinstance(event, FatalError) for event in diary.events)


async def test_reconnecting_in_vain_ends_in_reconnect_exhausted() -> None:
    few = ReconnectOptions(initial_delay=0.001, max_delay=0.001, max_attempts=3)
    async with (
        ScriptedServer(a_room_that_ends(1001), refuse_handshake(503)) as server,
        peer_at(server.url, reconnect=few) as (peer, diary),
    ):
        await join_and_trigger(peer, diary)
        await diary.wait_for(Left)
        assert diary.since_joined() == [
            ("state", "joined", "reconnecting"),
            ("fatal", "reconnect_exhausted", 1006),
            ("peer left", "bob"),
            ("state", "reconnecting", "closed"),
            ("left", "ann", "room", "handshake rejected"),
        ]
        assert len(server.paths) == 4


async def test_a_token_provider_that_never_recovers_is_told_and_ends_the_peer() -> None:
    answers = ["first"]

    def provide() -> str:
        if not answers:
            raise OSError("login expired")
        return answers.pop()

    few = ReconnectOptions(initial_delay=0.001, max_delay=0.001, max_attempts=3)
    async with (
        ScriptedServer(a_room_that_ends(1001)) as server,
        peer_at(server.url, token_provider=provide, reconnect=few) as (peer, diary),
    ):
        await join_and_trigger(peer, diary)
        await diary.wait_for(Left)
        assert diary.since_joined() == [
            ("state", "joined", "reconnecting"),
            ("fatal", "token_provider_failed", None),  # the third failure
            ("fatal", "token_provider_failed", 1001),  # the end
            ("peer left", "bob"),
            ("state", "reconnecting", "closed"),
            ("left", "ann", "room", "token provider failed"),
        ]


@pytest.mark.parametrize("close_code", [4001, 4002, 4003, 4010, 4012, 4020])
async def test_before_the_first_welcome_join_raises_and_may_be_tried_again(close_code: int) -> None:
    async def refuse(conversation: Conversation) -> None:
        await conversation.hang_up(close_code, "why")

    async with (
        ScriptedServer(refuse, a_room_that_ends(1000)) as server,
        peer_at(server.url) as (peer, diary),
    ):
        with pytest.raises(SignallingConnectError) as caught:
            await peer.join("room")
        assert caught.value.close_code == close_code
        assert peer.state == "idle"
        assert not any(isinstance(event, FatalError | Left) for event in diary.events)
        await peer.join("room")
        assert peer.state == "joined"


@pytest.mark.parametrize(("close_code", "code"), [(4003, "channel_not_authorized"), (4020, "admin_disconnect")])
async def test_an_end_for_good_in_the_middle_of_a_join_is_told_with_its_code(close_code: int, code: str) -> None:
    async def end_at_subscribe(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.hear()
        await conversation.hang_up(close_code, "why")

    async with (
        ScriptedServer(end_at_subscribe, a_room_that_ends(1000)) as server,
        peer_at(server.url) as (peer, diary),
    ):
        with pytest.raises(DisconnectedError):
            await peer.join("room")
        notes = [_short(event) for event in diary.events]
        assert notes[1:] == [("fatal", code, close_code), ("state", "joining", "idle")]
        await peer.join("room")
        assert peer.state == "joined"


async def test_an_account_that_is_suspended_within_a_session_is_told_by_the_error_frame_too() -> None:
    async def warn(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.ack()
        await conversation.say({"type": "error", "code": "account_suspended"})
        await conversation.listen()

    async with ScriptedServer(warn) as server, peer_at(server.url) as (peer, diary):
        await peer.join("room")
        told = await diary.wait_for(FatalError)
        assert isinstance(told, FatalError)
        assert told.code == "account_suspended"
        assert isinstance(told.err, ServerRequestError)
        assert peer.state == "joined"


async def test_a_kick_on_the_server_is_told_in_full_and_in_order(server: SignallingServer) -> None:
    async with (
        peer_at(server.url, token_provider=lambda: server.mint_token("bob")) as (bob, _),
        peer_at(server.url, token_provider=lambda: server.mint_token("ann")) as (ann, diary),
        backend(server) as control,
    ):
        await bob.join("room")
        await ann.join("room")
        await diary.wait_for(PeerJoined)
        await control.ask("DELETE", "/peers/ann")
        left = await diary.wait_for(Left)
        assert isinstance(left, Left)
        assert diary.since_joined() == [
            ("fatal", "admin_disconnect", 4020),
            ("peer left", "bob"),
            ("state", "joined", "closed"),
            ("left", "ann", "room", left.reason),
        ]
        assert bob.state == "joined"


# --- refused calls


@asynccontextmanager
async def joined(server: SignallingServer) -> AsyncIterator[MeteredPeer]:
    async with peer_at(server.url, token_provider=lambda: server.mint_token("ann")) as (peer, diary):
        await peer.join("room")
        await diary.wait_for(Joined)
        yield peer


async def test_join_refused_by_the_server_leaves_the_peer_idle(server: SignallingServer) -> None:
    def room_only() -> str:
        return server.mint_token("ann", channels=["room"])

    async with peer_at(server.url, token_provider=room_only) as (peer, diary):
        with pytest.raises(ServerRequestError) as caught:
            await peer.join("hall")
        assert caught.value.code == "channel_not_authorized"
        assert peer.state == "idle"
        await peer.join("room")
        assert peer.state == "joined"
        assert not any(isinstance(event, FatalError) for event in diary.events)


SEND_ERRORS: list[tuple[str, str, Callable[[MeteredPeer], Awaitable[None]]]] = [
    ("invalid_args", "the payload is None", lambda peer: peer.send(None)),
    ("invalid_args", "the payload to a peer is None", lambda peer: peer.send_to("bob", None)),
    ("invalid_args", "the id is empty", lambda peer: peer.send_to("", 1)),
    ("invalid_args", "the id is no text", lambda peer: peer.send_to(7, 1)),  # type: ignore[arg-type]
    ("self_send", "the id is its own", lambda peer: peer.send_to("ann", 1)),
]


@pytest.mark.parametrize(("code", "why", "call"), SEND_ERRORS, ids=lambda it: it if isinstance(it, str) else "")
async def test_wrong_sends_raise(
    server: SignallingServer, code: str, why: str, call: Callable[[MeteredPeer], Awaitable[None]]
) -> None:
    async with joined(server) as peer:
        with pytest.raises(MeteredPeerSendError) as caught:
            await call(peer)
        assert caught.value.code == code
        assert isinstance(caught.value, MeteredRealtimeError)
        assert peer.state == "joined"


@pytest.mark.parametrize("channel", ["_metered/a", "_INTERNAL/a", "_system/a"])
async def test_reserved_channels_are_refused_before_anything_is_sent(channel: str) -> None:
    async with ScriptedServer() as server, peer_at(server.url) as (peer, diary):
        with pytest.raises(MeteredPeerSendError) as caught:
            await peer.join(channel)
        assert caught.value.code == "reserved_channel"
        assert (server.paths, diary.events) == ([], [])


async def test_sending_before_join_raises_not_joined(server: SignallingServer) -> None:
    async with peer_at(server.url, api_key=server.api_key) as (peer, _):
        for call in (peer.send(1), peer.send_to("bob", 1)):
            with pytest.raises(MeteredPeerSendError) as caught:
                await call
            assert caught.value.code == "not_joined"


async def test_too_much_data_raises_with_its_size_and_the_cap(server: SignallingServer) -> None:
    async with joined(server) as peer:
        await peer.send("x" * 65_534)
        for call in (peer.send("x" * 65_535), peer.send_to("bob", "x" * 65_535)):
            with pytest.raises(MeteredPeerOversizedError) as caught:
                await call
            assert (caught.value.size, caught.value.cap) == (65_537, 65_536)


async def test_too_much_metadata_raises_and_is_not_kept(server: SignallingServer) -> None:
    from aiortc import AudioStreamTrack

    async with joined(server) as peer:
        track = AudioStreamTrack()
        with pytest.raises(MeteredPeerOversizedError) as caught:
            peer.add_track(track, metadata={"m": "x" * 65_536})
        assert caught.value.size > caught.value.cap == 65_536
        assert peer.get_track_metadata(track) is None
        track.stop()


async def test_a_track_belongs_to_one_stream(server: SignallingServer) -> None:
    from aiortc import AudioStreamTrack

    async with joined(server) as peer:
        track, stream = AudioStreamTrack(), MediaStream()
        peer.add_track(track, stream)
        peer.add_track(track, stream)
        with pytest.raises(MeteredPeerStateError) as caught:
            peer.add_track(track, MediaStream())
        assert (caught.value.code, caught.value.method) == ("track_already_attached", "add_track")
        peer.remove_track(track)
        track.stop()


async def test_a_closed_peer_refuses_everything_and_says_what_and_why(server: SignallingServer) -> None:
    from aiortc import AudioStreamTrack

    track = AudioStreamTrack()
    async with joined(server) as peer:
        await peer.close()
        calls: list[tuple[str, Callable[[], Any]]] = [
            ("add_stream", lambda: peer.add_stream(MediaStream([track]))),
            ("add_track", lambda: peer.add_track(track)),
            ("remove_stream", lambda: peer.remove_stream(MediaStream([track]))),
            ("remove_track", lambda: peer.remove_track(track)),
        ]
        for method, call in calls:
            with pytest.raises(MeteredPeerStateError) as caught:
                call()
            seen = caught.value.code, caught.value.method, caught.value.current_state
            assert seen == ("invalid_state", method, "closed")
        for method, waiting in (("join", peer.join("room")), ("replace_track", peer.replace_track(track, None))):
            with pytest.raises(MeteredPeerStateError) as caught:
                await waiting
            seen = caught.value.code, caught.value.method, caught.value.current_state
            assert seen == ("invalid_state", method, "closed")
    track.stop()
