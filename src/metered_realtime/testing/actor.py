"""What somebody does in a virtual world: join, send this and that, leave, come back. All of it drawn from a seed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from random import Random

from ..core.negotiation.attachments import Attachment
from ..errors import MeteredRealtimeError
from ..events import Track
from ..media.stream import MediaStream
from .ledger import Ledger, RemoteRecord, Tolerance
from .virtual_peer import VirtualPeer, VirtualTrack
from .virtual_socket import CredentialKind
from .world import VirtualWorld

ROOM = "room"

JOIN_PAUSE = 1.0
"""Seconds between attempts to join while the server refuses."""


class Actor:
    """Somebody with a program, which is started, killed and started again. `peer` is None while none runs."""

    def __init__(
        self,
        world: VirtualWorld,
        host: str,
        random: Random,
        credential: CredentialKind,
        *,
        on_track: Callable[[Actor, str, Track], None],
        on_reset: Callable[[Actor, str, RemoteRecord], None],
        tolerance: Tolerance,
    ) -> None:
        self.host = host
        self.peer: VirtualPeer | None = None
        self.ledgers: list[Ledger] = []
        self.is_wanted = False
        self.aliases: dict[VirtualTrack, set[str]] = {}
        self.lingering: set[str] = set()
        self.told: dict[str, list[dict[str, object] | None]] = {}
        self.joined_at = -math.inf
        self._world = world
        self._random = random
        self._credential = credential
        self._on_track = on_track
        self._on_reset = on_reset
        self._tolerance = tolerance
        self._streams: list[MediaStream] = []
        self._since: dict[str, float] = {}
        self._has_been_here = False
        self._ever_sent: set[str] = set()
        self._serial = 0
        self._joining: asyncio.Task[None] | None = None

    @property
    def ledger(self) -> Ledger:
        """The events of the program that runs, or ran last."""
        return self.ledgers[-1]

    @property
    def is_here(self) -> bool:
        """Tell whether it is in the room, and means to be."""
        return self.is_wanted and self.peer is not None and self.peer.state in ("joined", "reconnecting")

    def book(self) -> list[Attachment]:
        """Return what it sends to everybody."""
        return list(self.peer._media._book) if self.peer is not None else []

    def sent_since(self, stream_id: str) -> float | None:
        """Return since when it sends a stream without a break: minus infinity for ever, None if it does not."""
        return self._since.get(stream_id)

    # --- coming and going

    def start(self, sent_since: Callable[[str, str], float | None]) -> None:
        """Start a program that joins, and keeps trying."""
        peer = self.peer = self._world.start(self.host, credential=self._credential)
        self.aliases.clear()
        self.lingering.clear()
        self.told.clear()
        self._streams.clear()
        self._since.clear()
        self.ledgers.append(
            Ledger(
                peer,
                self._world.trace,
                self._random,
                sent_since=sent_since,
                on_track=lambda sender, event: self._on_track(self, sender, event),
                on_reset=lambda sender, record: self._on_reset(self, sender, record),
                tolerance=self._tolerance,
            )
        )
        for _ in range(self._random.choice((0, 0, 1, 1, 2))):
            self.add_stream()
        self.join()

    def join(self) -> None:
        """Enter the room."""
        if self.peer is not None and self._joining is None:
            self.is_wanted = True
            self.joined_at = self._world.loop.time() if self._has_been_here else -math.inf
            self._has_been_here = True
            self._joining = asyncio.ensure_future(self._join(self.peer))

    async def leave(self) -> None:
        """Leave the room with the program running on, if it is in there."""
        if self.peer is not None and self.is_here and self._joining is None:
            self.is_wanted = False
            self._note("leaves")
            await self.peer.leave()

    async def quit(self) -> None:
        """End the program properly."""
        peer = self._drop()
        if peer is not None:
            self._world.trace(peer.process.name, "quits")
            await peer.close()

    def kill(self, *, ghost: bool) -> None:
        """End the program without a word."""
        peer = self._drop()
        if peer is not None:
            self.ledger.mute()
            self._world.kill(peer, ghost=ghost)

    def _drop(self) -> VirtualPeer | None:
        peer, self.peer = self.peer, None
        self.is_wanted = False
        if self._joining is not None:
            self._joining.cancel()
            self._joining = None
        return peer

    async def _join(self, peer: VirtualPeer) -> None:
        try:
            while peer.state == "idle":
                try:
                    await peer.join(ROOM)
                except MeteredRealtimeError as error:
                    self._note("cannot join: %s", str(error))
                    await asyncio.sleep(JOIN_PAUSE)
        finally:
            if asyncio.current_task() is self._joining:
                self._joining = None

    # --- what it sends

    async def act(self) -> None:
        """Do one thing, if it can be done now."""
        if self.peer is None or self.peer.state in ("leaving", "closed"):
            return
        deeds = (self.add_stream, self.add_track, self.remove_track, self.remove_stream, self.open_channel, None)
        deed = self._random.choices(deeds, (6, 3, 3, 2, 2, 3))[0]
        if deed is None:
            await self.replace()
        else:
            deed()

    def add_stream(self) -> None:
        """Send a stream of one or two tracks."""
        assert self.peer is not None
        stream = MediaStream(id=self._name("s"))
        for kind in self._random.choice((["audio"], ["video"], ["audio", "video"], ["video", "video"])):
            stream.add_track(self._track(kind))
        self._streams.append(stream)
        self._begin(stream)
        self._note("adds %s with %d tracks", stream.id, len(stream.get_tracks()))
        self.peer.add_stream(stream, self._metadata(*stream.get_tracks()))

    def add_track(self) -> None:
        """Send a track, on its own, or with a stream that is sent, or was."""
        assert self.peer is not None
        stream = self._random.choice((None, *self._streams))
        track = self._track(self._random.choice(("audio", "video")))
        if stream is not None:
            self._begin(stream)
        self._note("adds %s to %s", track.id, stream.id if stream is not None else "no stream")
        self.peer.add_track(track, stream, self._metadata(track))

    def remove_track(self) -> None:
        """Stop sending a track."""
        assert self.peer is not None
        book = self.book()
        if book:
            gone = self._random.choice(book)
            self._note("removes %s", gone.track_id)
            self.peer.remove_track(gone.track)
            self._end(gone.stream)

    def remove_stream(self) -> None:
        """Stop sending a stream, and perhaps send it again at once."""
        assert self.peer is not None
        if not self._streams:
            return
        stream = self._random.choice(self._streams)
        tracks = [it.track for it in self.peer._media.of_stream(stream)]
        self._note("removes %s", stream.id)
        self.peer.remove_stream(stream)
        self._end(stream)
        if tracks and self._random.random() < 0.3:
            self._begin(stream)
            self._note("adds %s again", stream.id)
            for track in tracks:
                self.peer.add_track(track, stream, self._metadata(track))

    async def replace(self) -> None:
        """Send another track, or nothing, in the place of one."""
        book = self.book()
        if self.peer is None or not book or self.peer.state != "joined":
            return
        old = self._random.choice(book)
        new = self._track(old.kind) if self._random.random() < 0.7 else None
        self._note("replaces %s by %s", old.track_id, new.id if new is not None else "nothing")
        former = self.aliases.pop(old.track) | {old.track_id}
        if new is None:
            self.lingering |= former
        else:
            self.aliases[new] |= former
            self.told.setdefault(new.id, []).append(self.peer.get_track_metadata(old.track))
        await self.peer.replace_track(old.track, new)
        self._end(old.stream)

    def open_channel(self) -> None:
        """Open a data channel to somebody."""
        assert self.peer is not None
        remotes = self.peer.remote_peers
        if remotes:
            remote = self._random.choice(remotes)
            label = self._name("c")
            self._note("opens channel %s to %s", label, remote.id)
            self.ledger.open_channel(remote, label)

    # --- inside

    def _note(self, what: str, *values: object) -> None:
        name = self.peer.process.name if self.peer is not None else self.host
        self._world.trace(name, what, *values)

    def _name(self, prefix: str) -> str:
        self._serial += 1
        return f"{self.host}-{prefix}{self._serial}"

    def _track(self, kind: str) -> VirtualTrack:
        track = VirtualTrack(kind, self._name(kind[0]))
        self.aliases[track] = {track.id}
        return track

    def _metadata(self, *tracks: VirtualTrack) -> dict[str, object] | None:
        metadata: dict[str, object] | None = {"n": self._serial} if self._random.random() < 0.6 else None
        for track in tracks:
            self.told.setdefault(track.id, []).append(metadata)
        return metadata

    def _begin(self, stream: MediaStream) -> None:
        if stream.id not in self._since:
            self._since[stream.id] = self._world.loop.time() if stream.id in self._ever_sent else -math.inf
            self._ever_sent.add(stream.id)

    def _end(self, stream: MediaStream | None) -> None:
        if stream is not None and self.peer is not None and not self.peer._media.of_stream(stream):
            self._since.pop(stream.id, None)
