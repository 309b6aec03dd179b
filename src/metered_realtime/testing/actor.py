"""The actions of one participant of a run: join, send media, leave, come back, all drawn from a seed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from random import Random

from aiortc import MediaStreamTrack

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
    """A participant whose program is started, killed and started again.

    Attributes:
        peer: The peer of its program, None while none runs.
        ledgers: The events of each program that was started.
        is_wanted: Whether it has joined the room, or is joining.
        aliases: The ids under which each track may arrive: its own, and those of tracks that it replaced.
        lingering: The ids of tracks that may still arrive although they are sent no longer.
        metadata_sent: The metadata sent for each track id, oldest first.
        joined_at: When it last came back to the room, minus infinity the first time.
    """

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
        self.metadata_sent: dict[str, list[dict[str, object] | None]] = {}
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
        """The events of the program that runs, or of the last one."""
        return self.ledgers[-1]

    @property
    def is_here(self) -> bool:
        """Whether it is in the room, and is not leaving."""
        return self.is_wanted and self.peer is not None and self.peer.state in ("joined", "reconnecting")

    def attachments(self) -> list[Attachment]:
        """Return the tracks that it sends to all remotes."""
        return list(self.peer._media._book) if self.peer is not None else []

    def sent_since(self, stream_id: str) -> float | None:
        """Return the time since when it sends a stream without a break.

        Minus infinity for a stream that was never interrupted, None for one that is not sent.
        """
        return self._since.get(stream_id)

    # --- coming and going

    def start(self, sent_since: Callable[[str, str], float | None]) -> None:
        """Start a program that joins the room, and retries until it succeeds."""
        peer = self.peer = self._world.start(self.host, credential=self._credential)
        self.aliases.clear()
        self.lingering.clear()
        self.metadata_sent.clear()
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
        """Join the room, in the background."""
        if self.peer is not None and self._joining is None:
            self.is_wanted = True
            self.joined_at = self._world.loop.time() if self._has_been_here else -math.inf
            self._has_been_here = True
            self._joining = asyncio.ensure_future(self._join(self.peer))

    async def leave(self) -> None:
        """Leave the room, if it is in there. The program runs on."""
        if self.peer is not None and self.is_here and self._joining is None:
            self.is_wanted = False
            self._note("leaves")
            await self.peer.leave()

    async def quit(self) -> None:
        """Close the peer and end the program."""
        peer = self._drop()
        if peer is not None:
            self._world.trace(peer.process.name, "quits")
            await peer.close()

    def kill(self, *, ghost: bool) -> None:
        """End the program without closing its peer."""
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

    # --- sending

    async def act(self) -> None:
        """Take one random action, if it is possible now."""
        if self.peer is None or self.peer.state in ("leaving", "closed"):
            return
        actions = (self.add_stream, self.add_track, self.remove_track, self.remove_stream, self.open_channel, None)
        action = self._random.choices(actions, (6, 3, 3, 2, 2, 3))[0]
        if action is None:
            await self.replace()
        else:
            action()

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
        """Send a track, alone or with a stream that is or was sent."""
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
        sent = self.attachments()
        if sent:
            gone = self._random.choice(sent)
            self._note("removes %s", gone.track_id)
            self.peer.remove_track(gone.track)
            self._end(gone.stream)

    def remove_stream(self) -> None:
        """Stop sending a stream, and sometimes send it again at once."""
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
        """Replace a track by another one, or by nothing."""
        sent = self.attachments()
        if self.peer is None or not sent or self.peer.state != "joined":
            return
        old = self._random.choice(sent)
        new = self._track(old.kind) if self._random.random() < 0.7 else None
        self._note("replaces %s by %s", old.track_id, new.id if new is not None else "nothing")
        former = self.aliases.pop(old.track) | {old.track_id}
        if new is None:
            self.lingering |= former
        else:
            self.aliases[new] |= former
            self.metadata_sent.setdefault(new.id, []).append(self.peer.get_track_metadata(old.track))
        await self.peer.replace_track(old.track, new)
        self._end(old.stream)

    def open_channel(self) -> None:
        """Open a data channel to a random remote."""
        assert self.peer is not None
        remotes = self.peer.remote_peers
        if remotes:
            remote = self._random.choice(remotes)
            label = self._name("c")
            self._note("opens channel %s to %s", label, remote.id)
            self.ledger.open_channel(remote, label)

    # --- internals

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

    def _metadata(self, *tracks: MediaStreamTrack) -> dict[str, object] | None:
        metadata: dict[str, object] | None = {"n": self._serial} if self._random.random() < 0.6 else None
        for track in tracks:
            self.metadata_sent.setdefault(track.id, []).append(metadata)
        return metadata

    def _begin(self, stream: MediaStream) -> None:
        if stream.id not in self._since:
            self._since[stream.id] = self._world.loop.time() if stream.id in self._ever_sent else -math.inf
            self._ever_sent.add(stream.id)

    def _end(self, stream: MediaStream | None) -> None:
        if stream is not None and self.peer is not None and not self.peer._media.of_stream(stream):
            self._since.pop(stream.id, None)
