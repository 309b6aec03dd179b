"""Following a participant, or everybody in a channel, and passing their tracks to a recording."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from ..emitter import E, Handler
from ..events import PeerJoined, PeerLeft, Track
from ..media.receiving.remote_track import RemoteTrack
from .stats import ParticipantFigures, Totals


class Emitter(Protocol):
    """An object with events: `AsyncEventEmitter`."""

    def on(self, event_type: type[E], handler: Handler[E]) -> Handler[E]:
        """Call a handler with every event of a type."""

    def off(self, event_type: type[E], handler: Handler[E]) -> None:
        """Remove a handler."""


@runtime_checkable
class Participant(Emitter, Protocol):
    """What a recording needs of a remote: `RemotePeer`. It emits `Track` for each track that the remote sends."""

    id: str

    @property
    def incoming_tracks(self) -> Sequence[RemoteTrack]:
        """The tracks that the remote sends now, including those in no stream."""


@runtime_checkable
class ParticipantChannel(Emitter, Protocol):
    """What a recording needs of a channel: `MeteredPeer`. It emits `PeerJoined` and `PeerLeft`."""

    @property
    def remote_peers(self) -> Sequence[Participant]:
        """The participants that are present."""


class RecordingTarget(Protocol):
    """A recording of the tracks of any number of participants."""

    @property
    def participants(self) -> tuple[ParticipantFigures, ...]:
        """The state of each participant's recording, in the order of arrival."""

    @property
    def forgotten(self) -> Totals:
        """The sums over participants that are no longer in `participants`."""

    def add_track(self, peer_id: str, track: RemoteTrack) -> None:
        """Record a track from now on."""

    def remove_participant(self, peer_id: str) -> None:
        """Finish the recording of a participant that has left."""

    async def close(self) -> None:
        """Finish the files."""


class Follower:
    """Adds every track to `target` that a participant, or everybody in a channel, sends. Begins at once."""

    def __init__(self, source: Participant | ParticipantChannel, target: RecordingTarget) -> None:
        self.target = target
        self._handlers: defaultdict[Emitter, list[tuple[type[Any], Callable[[Any], None]]]] = defaultdict(list)
        if isinstance(source, ParticipantChannel):
            self._follow_channel(source)
        else:
            self._follow_participant(source)

    async def close(self) -> None:
        """Stop following, and finish the files."""
        for emitter in list(self._handlers):
            self._remove_handlers(emitter)
        await self.target.close()

    def _follow_channel(self, channel: ParticipantChannel) -> None:
        self._on(channel, PeerJoined, lambda event: self._follow_participant(event.peer))
        self._on(channel, PeerLeft, lambda event: self._remove_participant(event.peer))
        for participant in channel.remote_peers:
            self._follow_participant(participant)

    def _follow_participant(self, participant: Participant) -> None:
        self._on(participant, Track, lambda event: self.target.add_track(participant.id, event.track))
        for track in participant.incoming_tracks:
            self.target.add_track(participant.id, track)

    def _remove_participant(self, participant: Participant) -> None:
        self._remove_handlers(participant)
        self.target.remove_participant(participant.id)

    def _on(self, emitter: Emitter, event_type: type[Any], handler: Callable[[Any], None]) -> None:
        self._handlers[emitter].append((event_type, handler))
        emitter.on(event_type, handler)

    def _remove_handlers(self, emitter: Emitter) -> None:
        for event_type, handler in self._handlers.pop(emitter, ()):
            emitter.off(event_type, handler)
