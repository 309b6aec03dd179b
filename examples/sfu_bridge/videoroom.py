"""A Janus VideoRoom as a participant sees it: who publishes what, publishing, and subscribing.

https://janus.conf.meetecho.com/docs/videoroom.html
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from .janus import JanusError, JanusEvent, JanusHandle, JanusSession

ROOM_EXISTS = 427
"""The code of an error: a room of this number exists."""

PUBLISHERS = 100
"""Publishers that may be in a room that is made here. Janus' own default is 3."""

RoomId = int | str

_CODEC_LISTS = "audiocodec", "videocodec"
"""The fields of a room that list what it takes, `vp8,h264` for instance."""

_MID = re.compile(r"^a=mid:(\S+)", re.MULTILINE)


class RoomClosedError(Exception):
    """The room was destroyed, or this participant was kicked."""


@dataclass(frozen=True, slots=True)
class Feed:
    """A publisher of the room: its id, its display name, and a description of each stream that it publishes."""

    id: RoomId
    name: str
    streams: tuple[tuple[str, str], ...]
    """The kind and the description of each stream, `("video", "")` for instance."""

    @classmethod
    def of(cls, published: Mapping[str, Any]) -> Feed:
        """Return the feed that an entry of `publishers` tells of."""
        streams = [it for it in published.get("streams", ()) if not it.get("disabled")]
        described = [(str(it["type"]), str(it.get("description", ""))) for it in streams]
        return cls(published["id"], str(published.get("display") or published["id"]), tuple(described))


class VideoRoom:
    """One room. `session` is the one of Janus, `pin` what the room asks of participants, if anything."""

    def __init__(self, session: JanusSession, room: RoomId, pin: str | None = None) -> None:
        self._session = session
        self._room: dict[str, Any] = {"room": room}
        self._pin = {} if pin is None else {"pin": pin}
        self._control: JanusHandle | None = None
        self._feeds: dict[RoomId, Feed] = {}
        self._own: set[RoomId] = set()
        self._codecs: frozenset[str] = frozenset()

    async def create(self, **options: Any) -> None:
        """Make the room unless it exists. It takes VP8, H.264 and Opus, and lasts until Janus ends.

        `options` are those of Janus' request `create`.
        """
        wanted = {"publishers": PUBLISHERS, "videocodec": "vp8,h264", "audiocodec": "opus", **options}
        handle = await self._session.attach()
        try:
            await handle.request({"request": "create", **self._room, **self._pin, **wanted})
        except JanusError as error:
            if error.code != ROOM_EXISTS:
                raise
        finally:
            await handle.detach()

    async def enter(self, name: str) -> dict[RoomId, Feed]:
        """Enter the room to see who publishes, and return the feeds, without those that are published from here.

        Raises:
            JanusError: there is no such room, or the PIN is another.
            JanusLostError: the session has ended.
        """
        self._control = await self._session.attach()
        self._codecs = await self._codecs_of_room(self._control)
        self._note(await self._join(self._control, name))
        return self._foreign()

    async def changes(self) -> dict[RoomId, Feed]:
        """Return the feeds after the next change.

        Raises:
            JanusLostError: the session has ended.
            RoomClosedError: the room is gone.
        """
        assert self._control is not None, "enter() comes first"
        self._note((await self._control.next_event()).data)
        return self._foreign()

    @asynccontextmanager
    async def publisher(self, name: str) -> AsyncIterator[Publisher]:
        """Enter the room as a participant that can publish, until the block ends. Raises like `enter`."""
        handle = await self._session.attach()
        try:
            joined = await self._join(handle, name)
            self._own.add(joined["id"])
            yield Publisher(handle, joined["id"], self._codecs)
        finally:
            await handle.detach()

    @asynccontextmanager
    async def subscriber(self, feed: RoomId) -> AsyncIterator[Subscriber]:
        """Subscribe to all streams of a feed, until the block ends. Raises like `enter`."""
        handle = await self._session.attach()
        try:
            wanted = {"ptype": "subscriber", "streams": [{"feed": feed}], "autoupdate": False}
            offer = await handle.request({"request": "join", **self._room, **self._pin, **wanted})
            yield Subscriber(handle, _sdp(offer))
        finally:
            await handle.detach()

    def _foreign(self) -> dict[RoomId, Feed]:
        return {key: feed for key, feed in self._feeds.items() if key not in self._own}

    async def _codecs_of_room(self, handle: JanusHandle) -> frozenset[str]:
        """Return what the room takes, `{"opus", "vp8"}` for instance. Nothing is known of a private room."""
        rooms: list[dict[str, Any]] = (await handle.request({"request": "list"})).data.get("list", [])
        named = [it.get(kind, "") for it in rooms if it["room"] == self._room["room"] for kind in _CODEC_LISTS]
        return frozenset(name for names in named for name in names.split(",") if name)

    async def _join(self, handle: JanusHandle, name: str) -> dict[str, Any]:
        wanted = {"ptype": "publisher", "display": name}
        return (await handle.request({"request": "join", **self._room, **self._pin, **wanted})).data

    def _note(self, data: Mapping[str, Any]) -> None:
        """Follow what Janus says of the room."""
        if data.get("videoroom") == "destroyed" or ("kicked" in data and data.get("leaving") == "ok"):
            raise RoomClosedError("the room was destroyed, or this participant was kicked")
        for published in data.get("publishers", ()):
            feed = Feed.of(published)
            self._feeds[feed.id] = feed
        for gone in ("leaving", "unpublished", "kicked"):
            self._feeds.pop(data.get(gone, ""), None)


@dataclass(slots=True)
class Publisher:
    """A participant that can publish. `id` is that of its feed, `codecs` what the room takes, if that is known."""

    handle: JanusHandle
    id: RoomId
    codecs: frozenset[str]
    has_published: bool = False

    async def publish(self, offer: str, description: str, codecs: Mapping[str, str]) -> str:
        """Publish the sections of an offer, with a description for each, and return the answer. May be repeated.

        `codecs` has the codec to be chosen for each kind, if the room takes it: `{"video": "h264"}` for instance.

        Raises:
            JanusError: the room has as many publishers as it may have, or has no use for the offer.
        """
        described = [{"mid": mid, "description": description} for mid in _MID.findall(offer)]
        preferred = {f"{kind}codec": codec for kind, codec in codecs.items() if codec in self.codecs}
        body = {"request": "configure" if self.has_published else "publish", "descriptions": described, **preferred}
        answer = _sdp(await self.handle.request(body, {"type": "offer", "sdp": offer}))
        self.has_published = True
        return answer


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A subscription, which begins with an offer of Janus."""

    handle: JanusHandle
    offer: str

    async def start(self, answer: str) -> None:
        """Answer the offer."""
        await self.handle.request({"request": "start"}, {"type": "answer", "sdp": answer})


def _sdp(event: JanusEvent) -> str:
    if event.jsep is None:
        raise JanusError(0, f"no description came: {event.data}")
    return str(event.jsep["sdp"])
