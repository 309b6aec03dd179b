"""How a `MeteredPeer` handles the frames of a server, in all orders that the protocol allows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from metered_realtime import Data, FatalError, Joined, MeteredPeer, PeerJoined, Presence, StateChange
from metered_realtime.mesh.early_events import MAX_EARLY_EVENTS
from metered_realtime.signalling import SignallingClient
from metered_realtime.signalling.for_peers import check_connection
from tests.support.peers import eventually
from tests.support.programs import HASTY, make_client
from tests.support.scripted_server import Conversation, ScriptedServer

from .test_peer_errors import PeerDiary, peer_at


def presence(*joined: str) -> dict[str, Any]:
    return {"type": "presence", "channel": "room", "joined": [{"peerId": it} for it in joined], "left": []}


async def everything_at_once(conversation: Conversation) -> None:
    """Send all frames of a subscription before the client runs."""
    await conversation.welcome()
    frame = await conversation.hear()
    await conversation.say({"type": "direct", "from": "bob", "data": 1})
    await conversation.say({"type": "ack", "requestId": frame["requestId"]})
    await conversation.say(presence("bob"))
    await conversation.say({"type": "message", "channel": "room", "from": "bob", "data": 2})
    await conversation.listen()


async def test_what_comes_before_the_join_is_done_is_told_after_joined_and_can_be_answered() -> None:
    states: list[str] = []
    async with ScriptedServer(everything_at_once) as server, peer_at(server.url) as (peer, diary):
        peer.on(Data, lambda event: states.append(peer.state))
        await peer.join("room")
        await eventually(lambda: len(states) == 2)
        told = [event for event in diary.events if not isinstance(event, StateChange)]
        assert [type(event) for event in told] == [Joined, Data, PeerJoined, Data]
        assert [event.data for event in told if isinstance(event, Data)] == [1, 2]
        assert states == ["joined", "joined"]


async def test_a_flood_before_the_join_is_done_costs_no_presence() -> None:
    async def flood(conversation: Conversation) -> None:
        await conversation.welcome()
        frame = await conversation.hear()
        for number in range(MAX_EARLY_EVENTS + 10):
            await conversation.say({"type": "direct", "from": "eve", "data": number})
        await conversation.say(presence("bob"))
        await conversation.say({"type": "ack", "requestId": frame["requestId"]})
        await conversation.listen()

    async with ScriptedServer(flood) as server, peer_at(server.url) as (peer, diary):
        await peer.join("room")
        assert [remote.id for remote in peer.remote_peers] == ["bob"]
        assert len([event for event in diary.events if isinstance(event, Data)]) == MAX_EARLY_EVENTS


async def test_what_comes_while_a_join_fails_is_forgotten() -> None:
    async def refuse_first(conversation: Conversation) -> None:
        await conversation.welcome()
        await conversation.say({"type": "direct", "from": "bob", "data": 1})
        await conversation.refuse("channel_not_authorized")
        await conversation.ack()
        await conversation.listen()

    async with ScriptedServer(refuse_first) as server, peer_at(server.url) as (peer, diary):
        with pytest.raises(Exception, match="channel_not_authorized"):
            await peer.join("hall")
        await peer.join("room")
        assert not any(isinstance(event, Data) for event in diary.events)


async def lonely(conversation: Conversation) -> None:
    await conversation.welcome()
    await conversation.ack()
    await conversation.say(presence())
    await conversation.hear()
    conversation.drop()


async def refusing(conversation: Conversation) -> None:
    await conversation.welcome()
    while True:
        await conversation.refuse("channel_not_authorized")


async def silent(conversation: Conversation) -> None:
    await conversation.welcome()
    await conversation.listen()


@pytest.mark.parametrize(("then", "code"), [(refusing, "channel_not_authorized"), (silent, "subscription_lost")])
async def test_a_channel_that_does_not_come_back_is_told_also_when_nobody_was_there(
    then: Callable[[Conversation], Awaitable[None]], code: str
) -> None:
    async with ScriptedServer(lonely, then) as server:
        client: SignallingClient = make_client(server, _timings=HASTY)
        peer = MeteredPeer(client=client)
        diary, listed = PeerDiary(peer), client.events(Presence)
        await peer.join("room")
        await anext(listed)
        check_connection(client)
        fatal = await diary.wait_for(FatalError)
        assert isinstance(fatal, FatalError)
        assert fatal.code == code
        await peer.close()
        await client.close()
