"""Janus as the other end: a VideoRoom, which takes media and data of a connection and passes them on by another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from examples.sfu_bridge.janus import JanusHandle, open_session
from examples.sfu_bridge.videoroom import VideoRoom

from metered_realtime import DataChannel, DataChannelOpened, DCMessage, OneShotConnection, StateChange, ToneTrack, Track
from tests.support.peer_fixtures import no_socket_left_behind  # noqa: F401 - a fixture
from tests.support.peers import EventLog, GreyTrack, fresh_frames, next_event, shows
from tests.support.sfu.janus import janus, needs_janus

pytestmark = needs_janus

NUMBER = 1234

KINDS = {
    "full ICE": {},
    "full ICE, RSA": {"rsa": True},
    "ICE-lite": {"ice_lite": True},
    "ICE-lite, RSA": {"ice_lite": True, "rsa": True},
}
"""How Janus may be configured: with another implementation of ICE (RFC 8445 section 2.5), and another certificate."""


class Room:
    """A room with connections to it."""

    def __init__(self, room: VideoRoom, stack: AsyncExitStack) -> None:
        self.room = room
        self._stack = stack

    async def publish(self, *tracks: Any, **options: Any) -> Published:
        """Publish tracks: Python offers."""
        publisher = await self._stack.enter_async_context(self.room.publisher("python"))
        connection = await self._stack.enter_async_context(OneShotConnection(tracks, **options))
        published = Published(publisher, connection)
        await published.offer()
        while (await publisher.handle.next_event()).kind != "webrtcup":
            pass
        return published

    async def subscribe(self, feed: Any) -> Subscribed:
        """Subscribe to a feed: Janus offers."""
        subscriber = await self._stack.enter_async_context(self.room.subscriber(feed))
        connection = await self._stack.enter_async_context(OneShotConnection())
        await subscriber.start(await connection.accept_offer(subscriber.offer))
        return Subscribed(subscriber.handle, connection)


class Published:
    """A publisher and its connection."""

    def __init__(self, publisher: Any, connection: OneShotConnection) -> None:
        self.id, self.connection = publisher.id, connection
        self._publisher = publisher

    async def request(self, **body: Any) -> None:
        """Ask for something."""
        await self._publisher.handle.request(body)

    async def offer(self, **options: Any) -> None:
        """Offer what the connection has to send."""
        offer = await self.connection.create_offer(**options)
        await self.connection.accept_answer(await self._publisher.publish(offer, "", {}))


class Subscribed:
    """A subscriber and its connection."""

    def __init__(self, handle: JanusHandle, connection: OneShotConnection) -> None:
        self.connection = connection
        self._handle = handle

    def track(self, kind: str) -> Any:
        """Return the first track of a kind."""
        return next(track for track in self.connection.tracks if track.kind == kind)

    async def request(self, **body: Any) -> None:
        """Ask for something that Janus does with another offer, and answer it."""
        event = await self._handle.request(body)
        assert event.jsep is not None
        answer = await self.connection.accept_offer(event.jsep["sdp"])
        await self._handle.request({"request": "start"}, {"type": "answer", "sdp": answer})


@pytest.fixture(params=["full ICE"])
async def sfu(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Room]:
    """A Janus with a room."""
    async with janus(tmp_path, **KINDS[request.param]) as running, AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(running.url))
        room = VideoRoom(session, NUMBER)
        await room.create()
        yield Room(room, stack)


@pytest.mark.parametrize("sfu", KINDS, indirect=True)
async def test_media_goes_in_when_python_offers_and_comes_out_when_janus_offers(sfu: Room) -> None:
    picture, tone = GreyTrack(99), ToneTrack()
    published = await sfu.publish(picture, tone)
    subscribed = await sfu.subscribe(published.id)
    await shows(subscribed.track("video"), 99)
    await fresh_frames(subscribed.track("audio"))
    assert {track.codec for track in subscribed.connection.tracks} == {"video/VP8", "audio/opus"}
    tone.stop()


async def test_data_goes_in_and_comes_out(sfu: Room) -> None:
    published = await sfu.publish(data=True)
    channel = DataChannel(published.connection.create_data_channel("words"))
    subscribed = await sfu.subscribe(published.id)
    DataChannel(subscribed.connection.create_data_channel("JanusDataChannel"))  # before, Janus sends nothing
    opened = asyncio.ensure_future(next_event(subscribed.connection, DataChannelOpened))
    while not opened.done():  # Janus opens a channel with its first message, and keeps none for later
        await channel.send("are you there?")
        await asyncio.wait([opened], timeout=0.05)
    arrived = opened.result().channel
    assert arrived.label == str(published.id), "Janus names the channel after the publisher"
    log = EventLog(DataChannel(arrived))
    for data in ("a text", "ü" * 5_000):
        await channel.send(data)
        await log.until(DCMessage, data=data)


async def test_python_restarts_ice(sfu: Room) -> None:
    published = await sfu.publish(GreyTrack(99))
    track = (await sfu.subscribe(published.id)).track("video")
    await shows(track, 99)
    log = EventLog(published.connection)
    await published.offer(restart_ice=True)
    await fresh_frames(track)
    assert published.connection.state == "connected"
    assert not log.of(StateChange)


async def test_janus_restarts_ice(sfu: Room) -> None:
    published = await sfu.publish(GreyTrack(99))
    subscribed = await sfu.subscribe(published.id)
    track = subscribed.track("video")
    await shows(track, 99)
    await subscribed.request(request="configure", restart=True)
    await fresh_frames(track)
    assert subscribed.connection.state == "connected"


async def test_python_adds_a_track_and_removes_one(sfu: Room) -> None:
    first, second = GreyTrack(60), GreyTrack(200)
    published = await sfu.publish(first)
    subscribed = await sfu.subscribe(published.id)
    await shows(subscribed.track("video"), 60)
    published.connection.add_track(second)
    await published.offer()
    both = await sfu.subscribe(published.id)
    assert len(both.connection.tracks) == 2
    await asyncio.gather(*(shows(track, level) for track, level in zip(both.connection.tracks, (60, 200), strict=True)))
    published.connection.remove_track(first)
    await published.offer()
    await shows((await sfu.subscribe(published.id)).track("video"), 200)


async def test_janus_adds_a_feed_and_removes_one(sfu: Room) -> None:
    first, second = await sfu.publish(GreyTrack(60)), await sfu.publish(GreyTrack(200))
    subscribed = await sfu.subscribe(first.id)
    await shows(subscribed.track("video"), 60)
    log = EventLog(subscribed.connection)
    await subscribed.request(request="update", subscribe=[{"feed": second.id}])
    await shows((await log.until(Track)).track, 200)
    await shows(subscribed.track("video"), 60)
    await subscribed.request(request="update", unsubscribe=[{"feed": first.id}])
    assert len(subscribed.connection.tracks) == 1
    await shows(subscribed.track("video"), 200)


async def test_a_publisher_that_janus_hangs_up_is_told(sfu: Room) -> None:
    published = await sfu.publish(GreyTrack(99))
    log = EventLog(published.connection)
    await published.request(request="unpublish")
    await log.until(StateChange, to="closed")
    assert published.connection.error is not None
    assert published.connection.error.reason == "closed_by_remote"
