"""What a peer is told of messages that it missed, by a server that keeps them."""

from __future__ import annotations

from typing import Any

import pytest

from metered_realtime import Data, Joined, MessagesLost, MeteredPeer, ReconnectOptions, SignallingClient, StateChange
from tests.support.peers import EventLog
from tests.support.scripted_server import Conversation, ScriptedServer

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.02, max_attempts=1000)
SNAPSHOT = {"type": "presence", "channel": "room", "joined": [{"peerId": "ann"}, {"peerId": "bob"}], "left": []}


def message(offset: int, channel: str = "room") -> dict[str, Any]:
    return {"type": "message", "channel": channel, "from": "bob", "data": offset, "offset": offset}


def direct(offset: int) -> dict[str, Any]:
    return {"type": "direct", "from": "bob", "data": f"direct {offset}", "offset": offset}


def lost(offset: int, **fields: Any) -> dict[str, Any]:
    return {"type": "lost", "epoch": "e", "offset": offset, **fields}


async def subscribed(conversation: Conversation, offset: int, *first: dict[str, Any]) -> None:
    """Welcome a client and let it into the channel."""
    await conversation.welcome(epoch="e", offset=offset)
    for frame in first:
        await conversation.say(frame)
    asked = await conversation.hear()
    await conversation.say({"type": "ack", "requestId": asked["requestId"], "epoch": "e", "offset": offset})
    await conversation.say(SNAPSHOT)


async def drops(conversation: Conversation) -> None:
    await subscribed(conversation, 2)
    await conversation.say(message(3))
    await conversation.hear()  # a publish: the client is done with everything above
    conversation.drop()


async def goes_on(conversation: Conversation) -> None:
    await subscribed(conversation, 9, lost(6, count=4), direct(7))
    for frame in (lost(5, channel="room", count=2), message(3), message(6), lost(1, channel="other"), message(7)):
        await conversation.say(frame)
    await conversation.listen()


@pytest.mark.parametrize("is_shared", [False, True], ids=["own client", "shared client"])
async def test_a_peer_passes_on_what_it_missed_and_what_is_lost_of_its_channel(is_shared: bool) -> None:
    async with ScriptedServer(drops, goes_on) as server:
        client = SignallingClient(api_key="k", url=server.url, reconnect=QUICK)
        options: Any = {"client": client} if is_shared else {"api_key": "k", "url": server.url, "reconnect": QUICK}
        peer = MeteredPeer(**options)
        log = EventLog(peer)
        await peer.join("room")
        await log.until(Data, data=3)
        with pytest.raises(Exception, match="answer"):
            await peer.send("over")
        await log.until(Data, data=7)
        told = [it for it in log.events if isinstance(it, Data | MessagesLost)]
        assert [it.data if isinstance(it, Data) else it for it in told] == [
            3,
            MessagesLost(None, 4),
            "direct 7",
            MessagesLost("room", 2),
            6,
            7,
        ]
        assert [event.to for event in log.of(StateChange)] == ["joining", "joined", "reconnecting", "joined"]
        await peer.close()
        await client.close()


async def test_losses_during_a_join_are_told_after_it() -> None:
    async def busy(conversation: Conversation) -> None:
        await conversation.welcome(epoch="e", offset=0)
        asked = await conversation.hear()
        await conversation.say(lost(4, count=4))
        await conversation.say({"type": "ack", "requestId": asked["requestId"], "epoch": "e", "offset": 2})
        await conversation.say(SNAPSHOT)
        await conversation.say(lost(9, channel="room"))
        await conversation.listen()

    async with ScriptedServer(busy) as server:
        peer = MeteredPeer(api_key="k", url=server.url)
        log = EventLog(peer)
        await peer.join("room")
        await log.until(MessagesLost, channel="room")
        told = [it for it in log.events if isinstance(it, Joined | MessagesLost)]
        assert told == [Joined("ann", "room"), MessagesLost(None, 4), MessagesLost("room", None)]
        await peer.close()
