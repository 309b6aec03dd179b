"""Carries the streams of a channel into a VideoRoom, and the publishers of the room into the channel.

Each stream of a participant of the channel becomes a publisher of the room, on a connection of its own. Each publisher
of the room becomes a stream of this one peer. What arrives encoded leaves encoded.

Nothing goes round. A stream that a bridge sends is marked in its metadata, and no bridge carries it into a room. A
publisher whose streams are described as carried from this channel is not carried back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from metered_realtime import (
    MeteredPeer,
    MeteredRealtimeError,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    RemotePeer,
    Track,
    TrackEnded,
)

from .carrying import CarryError, Report, Source, begun, into_channel, into_room
from .janus import JanusError, JanusLostError, open_session
from .videoroom import Feed, RoomClosedError, RoomId, VideoRoom

MARK = "sfu_bridge"
"""The key that the metadata of the streams of a bridge have."""

MAX_CARRIED = 100
"""Streams that are carried in each direction. Each costs a connection, and the bandwidth of this program."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds between two attempts: twice as many each time."""

STEADY = 30.0
"""Seconds after which an attempt counts as a success, so that the next pause is the first one again."""

MAX_NAME = 80
"""Characters of a name in the room."""


@dataclass(frozen=True, slots=True)
class JanusRoom:
    """Where the room is, and what Janus and the room ask for. `create` makes the room if it does not exist."""

    url: str
    room: RoomId
    pin: str | None = None
    api_secret: str | None = None
    token: str | None = None
    create: bool = False


class SfuBridge:
    """One channel and one room. `run` joins the channel as `peer`, and closes it at the end.

    `report` is called with what happens: `joined`, `room entered`, `to room`, `to channel`, `stopped`, `not carried`,
    `janus lost`.
    """

    def __init__(
        self, peer: MeteredPeer, channel: str, room: JanusRoom, report: Report, *, transcode: bool = False
    ) -> None:
        self._peer = peer
        self._channel = channel
        self._where = room
        self._report = report
        self._transcode = transcode
        self._origin = f"carried from the channel {channel}"
        self._sources: dict[tuple[str, str], Source] = {}
        self._beginning: set[asyncio.Task[None]] = set()
        self._to_room, self._to_channel = _Tasks(), _Tasks()
        self._room: VideoRoom | None = None
        self._has_entered = False

    async def run(self) -> None:
        """Carry until cancelled. Once Janus was there, it may go and come back.

        Raises:
            MeteredRealtimeError: the channel cannot be joined.
            JanusError, JanusLostError, TimeoutError: the room cannot be entered at the start.
        """
        self._peer.on(PeerJoined, lambda event: self._on_peer(event.peer))
        self._peer.on(PeerLeft, lambda event: self._on_left(event.peer))
        async with self._peer:
            try:
                await self._peer.join(self._channel)
                self._report("joined", channel=self._channel, peer=self._peer.peer_id)
                await self._stay()
            finally:
                for task in self._beginning:
                    task.cancel()
                await asyncio.gather(*self._beginning, return_exceptions=True)

    # --- Janus comes and goes

    async def _stay(self) -> None:
        pauses = _Pauses()
        while True:
            pauses.begin()
            try:
                await self._attend()
            except (JanusError, JanusLostError, RoomClosedError, TimeoutError) as error:
                if not self._has_entered:
                    raise
                pause = pauses.next()
                self._report("janus lost", error=_reason(error), retry_in=pause)
                await asyncio.sleep(pause)

    async def _attend(self) -> None:
        """Carry while there is a session of Janus."""
        where = self._where
        async with open_session(where.url, api_secret=where.api_secret, token=where.token) as session:
            room = VideoRoom(session, where.room, where.pin)
            if where.create:
                await room.create()
            feeds = await room.enter(f"bridge of {self._channel}")
            self._room, self._has_entered = room, True
            self._report("room entered", room=where.room, publishers=len(feeds))
            try:
                while True:
                    self._carry_feeds(feeds)
                    self._carry_sources()
                    feeds = await room.changes()
            finally:
                self._room = None
                await asyncio.gather(self._to_room.close(), self._to_channel.close())

    # --- what is carried

    def _carry_feeds(self, feeds: Mapping[RoomId, Feed]) -> None:
        foreign = [it for it in feeds.values() if all(description != self._origin for _, description in it.streams)]
        self._to_channel.keep({feed: self._feed_carrier(feed) for feed in foreign[:MAX_CARRIED]})

    def _feed_carrier(self, feed: Feed) -> Callable[[], Coroutine[Any, Any, None]]:
        room, mark = self._room, {MARK: {"room": self._where.room, "publisher": feed.id}}
        assert room is not None
        return lambda: self._persist(feed.name, lambda: into_channel(room, feed, self._peer, mark, self._report))

    def _carry_sources(self) -> None:
        if self._room is not None:
            sources = [source for source in self._sources.values() if source.tracks][:MAX_CARRIED]
            self._to_room.keep({source: self._source_carrier(source) for source in sources})

    def _source_carrier(self, source: Source) -> Callable[[], Coroutine[Any, Any, None]]:
        room, transcode = self._room, self._transcode
        assert room is not None
        return lambda: self._persist(
            source.name, lambda: into_room(room, source, self._origin, self._report, transcode=transcode)
        )

    async def _persist(self, name: str, carry: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Carry something until cancelled, or until Janus is lost; after a failure try again."""
        pauses = _Pauses()
        try:
            while True:
                pauses.begin()
                try:
                    await carry()
                except (CarryError, JanusError, MeteredRealtimeError, TimeoutError) as error:
                    pause = pauses.next()
                    self._report("not carried", name=name, error=_reason(error), retry_in=pause)
                    await asyncio.sleep(pause)
        except JanusLostError:
            pass

    # --- the channel

    def _on_peer(self, remote: RemotePeer) -> None:
        remote.on(Track, lambda event: self._on_track(remote, event))
        remote.on(TrackEnded, lambda event: self._on_track_ended(remote, event.track))
        remote.on(NegotiationError, lambda event: self._report("not sent", to=remote.id, error=_reason(event.err)))

    def _on_track(self, remote: RemotePeer, event: Track) -> None:
        if event.metadata is not None and MARK in event.metadata:
            return
        key = remote.id, event.streams[0].id if event.streams else ""
        if key not in self._sources:
            self._sources[key] = Source(self._name_of(remote, event))
        source = self._sources[key]
        source.beginning.add(event.track)
        task = asyncio.ensure_future(self._add(source, event.track))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)

    async def _add(self, source: Source, track: Any) -> None:
        """Carry a track when it has begun. It takes the place of one of its id, after a reset of the connection."""
        is_live = await begun(track)
        source.beginning.discard(track)
        if is_live:
            source.tracks[track.id] = track
        self._changed(source)

    def _on_track_ended(self, remote: RemotePeer, track: Any) -> None:
        for source in [source for key, source in self._sources.items() if key[0] == remote.id]:
            if track in source.tracks.values():
                del source.tracks[track.id]
                self._changed(source)

    def _changed(self, source: Source) -> None:
        source.changed.set()
        if not source.tracks and not source.beginning:
            self._sources = {key: it for key, it in self._sources.items() if it is not source}
        self._carry_sources()

    def _on_left(self, remote: RemotePeer) -> None:
        for key in [key for key in self._sources if key[0] == remote.id]:
            del self._sources[key]
        self._carry_sources()

    def _name_of(self, remote: RemotePeer, event: Track) -> str:
        """Return the name that a participant has by its token or its stream, and what its further streams show."""
        told: dict[str, Any] = remote.metadata or {}
        about: dict[str, Any] = event.metadata or {}
        names = (told.get("name"), told.get("displayName"), about.get("name"), remote.id)
        name = next(name for name in names if isinstance(name, str) and name)
        label = about.get("label") or about.get("title") or about.get("source")
        is_further = any(key[0] == remote.id for key in self._sources)
        return (f"{name} ({label})" if is_further and isinstance(label, str) else name)[:MAX_NAME]


class _Tasks:
    """Tasks that carry one thing each, by what they carry."""

    def __init__(self) -> None:
        self._running: dict[Any, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def keep(self, wanted: Mapping[Any, Callable[[], Coroutine[Any, Any, None]]]) -> None:
        """Let tasks run for these, and for nothing else."""
        for key in self._running.keys() - wanted.keys():
            task = self._running.pop(key)
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        for key in wanted.keys() - self._running.keys():
            self._running[key] = asyncio.ensure_future(wanted[key]())

    async def close(self) -> None:
        """End all tasks."""
        self.keep({})
        await asyncio.gather(*self._ending, return_exceptions=True)


class _Pauses:
    """Pauses between attempts, which grow until one has worked for a while."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()
        self._next = FIRST_PAUSE

    def begin(self) -> None:
        """Handle the begin of an attempt."""
        self._began = self._clock()

    def next(self) -> float:
        """Return the seconds before the next attempt."""
        if self._clock() - self._began > STEADY:
            self._next = FIRST_PAUSE
        pause, self._next = self._next, min(2 * self._next, LONGEST_PAUSE)
        return pause


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
