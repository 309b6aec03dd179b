"""One stream on its way: a participant's into the room, or a publisher's into the channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from metered_realtime import MediaStream, MeteredPeer, OneShotConnection, StreamMetadata

from .janus import JanusHandle
from .videoroom import Feed, Publisher, VideoRoom

LOOK = 0.05
"""Seconds between two looks for the first packet of a track, which no event tells. Its codec is known then, and is the
one that is negotiated."""

SETTLE = 0.5
"""Seconds that the tracks of a stream that have begun wait for the others, so that all are negotiated at once."""

Report = Callable[..., None]
"""Called with the name of an event, and fields that describe it."""


class CarryError(Exception):
    """Janus ended the connection of a stream."""


@dataclass(slots=True, eq=False)
class Source:
    """A stream of a participant of the channel: its name, and its tracks by their ids, without those in `beginning`,
    of which nothing has come yet."""

    name: str
    tracks: dict[str, Any] = field(default_factory=dict)
    beginning: set[Any] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def settle(self) -> None:
        """Return when all tracks have begun, or `SETTLE` later: one may be silent for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while self.beginning:
                    self.changed.clear()
                    await self.changed.wait()


async def begun(track: Any) -> bool:
    """Return when the first packet of a track has come: True, or False if the track has ended before."""
    while track.codec is None and track.readyState == "live":  # noqa: ASYNC110 - there is nothing to wait on
        await asyncio.sleep(LOOK)
    return bool(track.readyState == "live")


async def into_room(room: VideoRoom, source: Source, origin: str, report: Report, *, transcode: bool = False) -> None:
    """Publish a stream of the channel in the room, until its connection fails. `origin` describes its tracks there.

    Without `transcode` a track is left out whose codec the room does not take.

    Raises:
        CarryError, MeteredRealtimeError: the connection has ended, or could not be made.
        JanusError, JanusLostError, TimeoutError: Janus refused, or is gone.
    """
    async with room.publisher(source.name) as publisher, OneShotConnection() as connection:
        publication = _Publication(publisher, connection, origin)
        try:
            while True:
                await source.settle()
                source.changed.clear()
                await publication.send(list(source.tracks.values()))
                if not transcode and (others := publication.encoded_again()):
                    await publication.leave_out(others)
                    codecs = [track.codec for track in others]
                    report("not carried", name=source.name, codecs=codecs, error="the room takes other codecs")
                codecs = [track.codec for track in publication.sent]
                report("to room", name=source.name, publisher=publisher.id, codecs=codecs)
                await first(source.changed.wait(), hung_up(publisher.handle, connection), connection.wait_closed())
        finally:
            if publication.sent:
                report("stopped", name=source.name, publisher=publisher.id)


async def into_channel(room: VideoRoom, feed: Feed, peer: MeteredPeer, mark: StreamMetadata, report: Report) -> None:
    """Send a feed of the room to everybody in the channel, until its connection fails. Raises like `into_room`.

    `mark` becomes part of the metadata of the stream.
    """
    async with room.subscriber(feed.id) as subscription, OneShotConnection() as connection:
        await subscription.start(await connection.accept_offer(subscription.offer))
        stream, metadata = MediaStream(), {"label": feed.name, **mark}

        def add(track: Any) -> None:
            peer.add_track(track, stream, metadata)
            report("to channel", name=feed.name, publisher=feed.id, codecs=[track.codec])

        try:
            await first(
                _for_each_begun(connection.tracks, add),
                hung_up(subscription.handle, connection),
                connection.wait_closed(),
            )
        finally:
            if peer.get_stream_metadata(stream) is not None:
                report("stopped", name=feed.name, publisher=feed.id)
            if peer.state not in ("leaving", "closed"):
                peer.remove_stream(stream)


async def hung_up(handle: JanusHandle, connection: OneShotConnection) -> None:
    """Pass on the candidates of Janus, until it ends the connection.

    Raises:
        CarryError: it did.
        JanusLostError: the session has ended.
    """
    while True:
        event = await handle.next_event()
        if event.kind in ("hangup", "detached"):
            raise CarryError(f"Janus ended the connection: {event.data.get('reason', event.kind)}")
        if event.kind == "trickle":
            await connection.add_candidate(event.data["candidate"].get("candidate"))


async def first(*works: Coroutine[Any, Any, Any]) -> None:
    """Run these until one of them ends, and raise what it raises."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _for_each_begun(tracks: Sequence[Any], add: Callable[[Any], None]) -> None:
    """Add each track when it has begun. Does not return."""

    async def wait(track: Any) -> None:
        if await begun(track):
            add(track)

    await asyncio.gather(*map(wait, tracks), asyncio.Event().wait())


class _Publication:
    """The connection of a publisher, which sends some tracks. `sent` has those that Janus knows of."""

    def __init__(self, publisher: Publisher, connection: OneShotConnection, origin: str) -> None:
        self.sent: list[Any] = []
        self._left_out: list[Any] = []
        self._publisher = publisher
        self._connection = connection
        self._origin = origin

    async def send(self, tracks: Sequence[Any]) -> None:
        """Negotiate to send these tracks, apart from those that were left out."""
        wanted = [track for track in tracks if track not in self._left_out]
        for track in self.sent:
            if track not in wanted:
                self._connection.remove_track(track)
        for track in wanted:
            self._connection.add_track(track)
        codecs = {track.kind: track.codec.partition("/")[2].lower() for track in reversed(wanted)}
        offer = await self._connection.create_offer()
        await self._connection.accept_answer(await self._publisher.publish(offer, self._origin, codecs))
        self.sent = wanted

    def encoded_again(self) -> list[Any]:
        """Return the tracks that would have to be encoded again: the room takes another codec of their kind."""
        negotiated = {it.track_id: it.codec for it in self._connection.stats().outbound}
        return [track for track in self.sent if negotiated.get(track.id) != track.codec]

    async def leave_out(self, tracks: Sequence[Any]) -> None:
        """Negotiate not to send these tracks, now and later."""
        self._left_out += tracks
        await self.send(self.sent)
