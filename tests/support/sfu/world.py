"""A channel and a VideoRoom with the bridge of the examples between them, and visitors of both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from examples.sfu_bridge.bridge import MARK, JanusRoom, SfuBridge
from examples.sfu_bridge.janus import JanusLostError, open_session
from examples.sfu_bridge.videoroom import Feed, Publisher, VideoRoom

from metered_realtime import (
    MediaStream,
    MeteredPeer,
    OneShotConnection,
    PeerJoined,
    RemotePeer,
    StreamAdded,
    StreamRemoved,
)
from tests.support.peers import Room, eventually
from tests.support.sfu.janus import Janus, janus

NUMBER = 1234
"""The number of the room."""


class Visitor:
    """A participant of the VideoRoom that publishes and watches. `feeds` has the others' at the moment."""

    def __init__(self, room: VideoRoom, stack: AsyncExitStack) -> None:
        self.feeds: dict[str, Feed] = {}
        self._room = room
        self._stack = stack

    async def enter(self, **wanted: Any) -> None:
        """Enter the room, and follow what happens there."""
        await self._room.create(**wanted)
        self._note(await self._room.enter("visitor"))
        following = asyncio.ensure_future(self._follow())
        self._stack.push_async_callback(asyncio.wait, [following])
        self._stack.callback(following.cancel)

    async def feed(self, name: str) -> Feed:
        """Return a feed by its name, present or to come."""
        await eventually(lambda: name in self.feeds)
        return self.feeds[name]

    async def feed_with(self, name: str, *kinds: str) -> None:
        """Return when a feed has streams of these kinds, and no others."""

        def found() -> list[str]:
            return sorted(kind for kind, _ in self.feeds[name].streams) if name in self.feeds else []

        await eventually(lambda: found() == sorted(kinds))

    async def publish(self, name: str, *tracks: Any) -> Publisher:
        """Publish tracks."""
        publisher = await self._stack.enter_async_context(self._room.publisher(name))
        connection = await self._stack.enter_async_context(OneShotConnection(tracks))
        await connection.accept_answer(await publisher.publish(await connection.create_offer(), "", {}))
        return publisher

    async def publish_with_aiortc(self, name: str, *tracks: Any) -> None:
        """Publish tracks with aiortc as it is."""
        publisher = await self._stack.enter_async_context(self._room.publisher(name))
        pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._stack.push_async_callback(pc.close)
        for track in tracks:
            pc.addTrack(track)
        await pc.setLocalDescription(await pc.createOffer())
        answer = await publisher.publish(pc.localDescription.sdp, "", {})
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def watch(self, name: str) -> list[Any]:
        """Subscribe to a feed and return its tracks, video first."""
        subscriber = await self._stack.enter_async_context(self._room.subscriber((await self.feed(name)).id))
        connection = await self._stack.enter_async_context(OneShotConnection())
        await subscriber.start(await connection.accept_offer(subscriber.offer))
        return sorted(connection.tracks, key=lambda track: track.kind, reverse=True)

    def _note(self, feeds: dict[Any, Feed]) -> None:
        self.feeds = {feed.name: feed for feed in feeds.values()}

    async def _follow(self) -> None:
        with suppress(JanusLostError):
            while True:
                self._note(await self._room.changes())


@asynccontextmanager
async def visitor(running: Janus, **wanted: Any) -> AsyncIterator[Visitor]:
    """Visit the VideoRoom. It is made unless it exists, with the options that are given."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(open_session(running.url))
        visiting = Visitor(VideoRoom(session, NUMBER), stack)
        await visiting.enter(**wanted)
        yield visiting


class Member:
    """A peer in the channel. `streams` has what bridges send there at the moment, by the name of the publisher."""

    def __init__(self, peer: MeteredPeer) -> None:
        self.peer = peer
        self.streams: dict[str, MediaStream] = {}
        self.metadata: dict[str, Any] = {}
        peer.on(PeerJoined, lambda event: self._follow(event.peer))

    async def video(self, name: str) -> Any:
        """Return the video of a publisher of the room, present or to come."""
        await eventually(lambda: name in self.streams and self.streams[name].get_video_tracks())
        return self.streams[name].get_video_tracks()[0]

    def _follow(self, remote: RemotePeer) -> None:
        remote.on(StreamAdded, self._added)
        remote.on(StreamRemoved, lambda event: self._removed(event.stream))

    def _added(self, event: StreamAdded) -> None:
        if event.metadata is not None and MARK in event.metadata:
            self.streams[event.metadata["label"]] = event.stream
            self.metadata[event.metadata["label"]] = event.metadata

    def _removed(self, stream: MediaStream) -> None:
        self.streams = {name: it for name, it in self.streams.items() if it is not stream}


class World:
    """One Janus and one server, with a bridge for each of some channels. `reports` has what the bridges told."""

    def __init__(self, room: Room, running: Janus) -> None:
        self.janus = running
        self.reports: list[dict[str, Any]] = []
        self._room = room
        self._bridges: list[asyncio.Task[None]] = []

    async def bridge(self, channel: str = "room", **options: Any) -> None:
        """Bridge a channel."""
        where = JanusRoom(self.janus.url, NUMBER, create=True)
        bridge = SfuBridge(self._room.peer(), channel, where, self._report, **options)
        self._bridges.append(asyncio.ensure_future(bridge.run()))
        await self.reported("room entered", count=len(self._bridges))

    async def member(self, name: str, *tracks: Any, channel: str = "room") -> Member:
        """Let a peer join a channel, sending some tracks."""
        token = self._room.server.mint_token(peer_id=name.lower(), peer_metadata={"name": name})
        peer = MeteredPeer(token_provider=lambda: token, url=self._room.server.url)
        self._room.peers.append(peer)
        member = Member(peer)
        if tracks:
            peer.add_stream(MediaStream(tracks))
        await peer.join(channel)
        return member

    async def reported(self, event: str, count: int = 1, **fields: Any) -> dict[str, Any]:
        """Return report number `count` of an event with these fields, past or to come."""

        def fitting() -> list[dict[str, Any]]:
            return [it for it in self.reports if it["event"] == event and fields.items() <= it.items()]

        await eventually(lambda: len(fitting()) >= count)
        return fitting()[count - 1]

    async def close(self) -> None:
        """End the bridges."""
        for task in self._bridges:
            task.cancel()
        await asyncio.gather(*self._bridges, return_exceptions=True)

    def _report(self, event: str, **fields: Any) -> None:
        self.reports.append({"event": event, **fields})


@asynccontextmanager
async def world(room: Room, folder: Path, **options: Any) -> AsyncIterator[World]:
    """Run Janus beside the server of a room."""
    async with janus(folder, **options) as running:
        made = World(room, running)
        try:
            yield made
        finally:
            await made.close()
