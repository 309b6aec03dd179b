"""A record of the events of one peer and its remotes, with those that contradict earlier ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from ..events import (
    ConnectionReset,
    DataChannelOpened,
    FatalError,
    IceCandidateError,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    StateChange,
    StreamAdded,
    StreamRemoved,
    Track,
)
from ..mesh.remote_peer import RemotePeer
from .trace import Trace
from .virtual_media import VirtualChannel
from .virtual_peer import VirtualPeer

MESSAGES = ("first", "second", "third")
"""The messages that are sent on every data channel when it opens."""

SURELY_SENT = 30.0
"""Seconds that a stream must have been sent without a break before it was added, for its removal to be a fault."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Events that are no faults in a world with failures.

    Attributes:
        fatal_errors: Codes of errors from which the peer recovers by itself.
        streams_may_flicker: Whether streams may be removed and added again, as where single signals are lost.
        streams_may_be_late: Whether streams may be removed after their connection was replaced, and added again only
            later, as where the signals about them wait for the server.
    """

    fatal_errors: frozenset[str] = frozenset()
    streams_may_flicker: bool = False
    streams_may_be_late: bool = False


class RemoteRecord:
    """The streams of one remote, according to the events.

    Attributes:
        joined_at: When the remote joined.
        streams: The time at which each present stream was added.
        missing: The streams of a replaced connection that have not been added again.
        resets: The number of replaced connections.
    """

    def __init__(self, joined_at: float) -> None:
        self.joined_at = joined_at
        self.streams: dict[str, float] = {}
        self.missing: set[str] = set()
        self.resets = 0


class Ledger:
    """The events of one peer, with the data channels that it opened and the messages that it received.

    Attributes:
        faults: The events that contradict earlier ones, in words.
        remotes: The present remotes by their ids.
        received: The messages received on each channel that a remote opened.
        opened: The channels that this peer opened.
    """

    def __init__(
        self,
        peer: VirtualPeer,
        trace: Trace,
        random: Random,
        *,
        sent_since: Callable[[str, str], float | None],
        on_track: Callable[[str, Track], None],
        on_reset: Callable[[str, RemoteRecord], None],
        tolerance: Tolerance,
    ) -> None:
        self._tolerance = tolerance
        self.faults: list[str] = []
        self.remotes: dict[str, RemoteRecord] = {}
        self.received: dict[VirtualChannel, list[str]] = {}
        self.opened: list[VirtualChannel] = []
        self._name = peer.process.name
        self._random = random
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self._sent_since = sent_since
        self._on_track = on_track
        self._on_reset = on_reset
        self._muted = False
        peer.on(PeerJoined, self._peer_joined)
        peer.on(PeerLeft, self._peer_left)
        peer.on(StateChange, lambda event: self._note("is %s", event.to))
        peer.on(FatalError, self._failed)

    def mute(self) -> None:
        """Ignore all further events: the program was killed."""
        self._muted = True

    def open_channel(self, remote: RemotePeer, label: str) -> None:
        """Open a data channel that sends `MESSAGES` when it opens."""
        channel: Any = remote.create_data_channel(label)
        self.opened.append(channel)
        channel.on("open", lambda: [channel.send(message) for message in MESSAGES])

    def _note(self, what: str, *values: object) -> None:
        if not self._muted:
            self._trace(self._name, what, *values)

    def _fault(self, what: str) -> None:
        if not self._muted:
            self._trace.fault(self._name, what)
            self.faults.append(f"{self._loop.time():.4f} {self._name}: {what}")

    def _failed(self, event: FatalError) -> None:
        if event.code in self._tolerance.fatal_errors:
            self._note("fatal error %s", event.code)
        else:
            self._fault(f"fatal error {event.code}: {event.err}")

    def _peer_joined(self, event: PeerJoined) -> None:
        remote = event.peer
        self._note("sees %s join", remote.id)
        if remote.id in self.remotes:
            self._fault(f"PeerJoined of {remote.id}, which has not left")
        record = self.remotes[remote.id] = RemoteRecord(self._loop.time())
        state = _StateChain(remote, self)
        remote.on(StateChange, state.follow)
        remote.on(StreamAdded, lambda it: self._stream_added(remote.id, record, it))
        remote.on(StreamRemoved, lambda it: self._stream_removed(remote.id, record, it))
        remote.on(Track, lambda it: self._on_track(remote.id, it))
        remote.on(ConnectionReset, lambda it: self._reset(remote.id, record))
        remote.on(DataChannelOpened, lambda it: self._channel_opened(remote.id, it.channel))  # type: ignore[arg-type]
        remote.on(NegotiationError, lambda it: self._note("negotiation with %s failed: %s", remote.id, it.err))
        remote.on(IceCandidateError, lambda it: self._fault(f"candidate of {remote.id} refused: {it.err}"))

    def _peer_left(self, event: PeerLeft) -> None:
        self._note("sees %s leave", event.peer.id)
        if self.remotes.pop(event.peer.id, None) is None:
            self._fault(f"PeerLeft of {event.peer.id}, which is not there")

    def _stream_added(self, remote_id: str, record: RemoteRecord, event: StreamAdded) -> None:
        name = event.stream.id
        self._note("gets stream %s of %s", name, remote_id)
        if self.remotes.get(remote_id) is not record:
            self._fault(f"StreamAdded {name} of {remote_id}, which has left")
        if name in record.streams:
            self._fault(f"StreamAdded {name} of {remote_id} twice")
        record.missing.discard(name)
        record.streams[name] = self._loop.time()

    def _stream_removed(self, remote_id: str, record: RemoteRecord, event: StreamRemoved) -> None:
        name = event.stream.id
        self._note("loses stream %s of %s", name, remote_id)
        added_at = record.streams.pop(name, None)
        if added_at is None and name not in record.missing:
            self._fault(f"StreamRemoved {name} of {remote_id}, which is not there")
        record.missing.discard(name)
        since = self._sent_since(remote_id, name)
        is_sent = since is not None and (added_at is None or since < added_at - SURELY_SENT)
        may_flicker = (
            self._tolerance.streams_may_flicker if added_at is not None else self._tolerance.streams_may_be_late
        )
        if is_sent and may_flicker:
            self._note("stream %s of %s flickers", name, remote_id)
        elif is_sent:
            self._fault(f"StreamRemoved {name} of {remote_id}, which is still sent")

    def _reset(self, remote_id: str, record: RemoteRecord) -> None:
        self._note("has a new connection to %s", remote_id)
        record.resets += 1
        record.missing.update(record.streams)
        record.streams.clear()
        self._on_reset(remote_id, record)

    def _channel_opened(self, remote_id: str, channel: VirtualChannel) -> None:
        self._note("gets channel %s of %s", channel.label, remote_id)
        inbox = self.received[channel] = []
        # The listener comes sooner or later; nothing may be lost until then.
        self._loop.call_later(self._random.choice((0.0, 0.5)), channel.on, "message", inbox.append)


class _StateChain:
    """The states of one remote: each change has to begin with the state in which the previous one ended."""

    def __init__(self, remote: RemotePeer, ledger: Ledger) -> None:
        self._id = remote.id
        self._state: str = remote.state
        self._ledger = ledger

    def follow(self, event: StateChange) -> None:
        """Check the next change."""
        self._ledger._note("sees %s %s", self._id, event.to)
        if event.from_ != self._state or self._state == "closed":
            self._ledger._fault(f"{self._id} goes from {event.from_} to {event.to}, but was {self._state}")
        self._state = event.to
