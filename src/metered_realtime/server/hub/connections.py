"""The connections of one app at this node: how they come, end, get lost, and take each other's place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from msgspec import structs

from ...core.wire.frames import Welcome
from ...events import WsCloseCode
from ..engine.contract import (
    ConnectResult,
    Engine,
    EngineError,
    Entry,
    OverConnectionLimit,
    Position,
    Stored,
)
from ..limits import Limits
from ..plan import Meter
from ..routing import ARRIVING, LIVE, LOST, OVER, Subscriber
from .identity import Identity, Later, Recovery
from .memberships import Memberships
from .writer import HubWriter

TRY_AGAIN_LATER = 1013
"""The close code of a connection that cannot be served while the engine is down (RFC 6455's registry)."""


class Connections:
    """The connections of one app at this node, by peer.

    Attributes:
        peers: Those that are served.
        lost: Those that ended without a goodbye, while their places are kept.
        limits: The limits of connections to come.
    """

    def __init__(
        self,
        engine: Engine,
        app: str,
        limits: Limits,
        writer: HubWriter,
        members: Memberships,
        meter: Meter,
        origin: str,
        later: Later,
    ) -> None:
        self._engine = engine
        self._app = app
        self._writer = writer
        self._members = members
        self._meter = meter
        self._origin = origin
        self._later = later
        self._serial = 0
        self._arriving: dict[str, list[Subscriber]] = {}
        self.limits = limits
        self.peers: dict[str, list[Subscriber]] = {}
        self.lost: dict[str, list[Subscriber]] = {}

    def add(
        self,
        identity: Identity,
        write: Callable[[bytes], None],
        close: Callable[[int, str], None],
        now: float,
        replaced: Sequence[Subscriber],
        recovery: Recovery | None,
    ) -> Subscriber:
        """Add a connection, and welcome it when the engine knows it."""
        self._serial += 1
        name = f"{self._origin}-{self._serial:x}"
        entry = Entry(identity.peer_id, name, identity.peer_metadata, identity.key)
        subscriber = Subscriber(self._serial, entry, identity.grant, write, close)
        self._arriving.setdefault(identity.peer_id, []).append(subscriber)
        self._engine.connect(
            self._app,
            entry,
            partial(self._connected, subscriber, identity, now, replaced, recovery),
            since=None if recovery is None else recovery.since,
            resumes=identity.resumes,
            max_connections=self._limit(identity),
        )
        return subscriber

    def end(self, subscriber: Subscriber, *, expelled: bool = False) -> None:
        """Remove a connection that is served. Idempotent."""
        if subscriber.state == ARRIVING:
            subscriber.state = OVER
        elif subscriber.state == LIVE:
            self._remove(subscriber)
            self._members.end(subscriber, expelled=expelled)

    def lose(self, subscriber: Subscriber) -> None:
        """Remove a connection that is served, and keep its places. Idempotent."""
        if subscriber.state == ARRIVING:
            subscriber.state = OVER
        elif subscriber.state == LIVE:
            self._remove(subscriber)
            self.lost.setdefault(subscriber.peer_id, []).append(subscriber)
            self._members.lose(subscriber)
            if not self._writer.is_silent:  # what a node leaves behind when it stops, the engine ends
                self._later(self.limits.return_time, partial(self.release, subscriber))

    def release(self, subscriber: Subscriber) -> None:
        """Give up the places that are kept for a connection, and the connection if it is lost. Idempotent."""
        if subscriber.state == LOST:
            self._remove(subscriber)
            self._members.end(subscriber)
        for name in sorted(subscriber.kept):
            self._members.vacate(subscriber, name)

    def expel(self, subscriber: Subscriber, code: int, reason: str) -> None:
        """Close a connection, or end a lost one, that must not be there any more."""
        if subscriber.state == LOST:
            self._remove(subscriber)
            self._members.end(subscriber, expelled=True)
        else:
            self.end(subscriber, expelled=True)
            subscriber.close(code, reason)

    def replace(self, entry: Entry) -> None:
        """Close the connections that another one, at any node, has replaced. Their places are kept for its peer."""
        for old in list(self.peers.get(entry.peer_id, ())):
            if old.entry.key == entry.key and old.entry.connection != entry.connection:
                self.lose(old)
                _close_replaced(old)

    def of_key(self, key: str) -> list[Subscriber]:
        """Return the connections of a key, those that are lost included."""
        return [one for of in (*self.peers.values(), *self.lost.values()) for one in of if one.entry.key == key]

    def of_peer(self, peer_id: str) -> list[Subscriber]:
        """Return the connections of a peer, those that are lost included."""
        return [*self.peers.get(peer_id, ()), *self.lost.get(peer_id, ())]

    def hold_early(self, peer_id: str, epoch: str, stored: Stored) -> None:
        """Have a direct wait for the welcome of connections that are on their way."""
        for subscriber in self._arriving.get(peer_id, ()):
            if subscriber.early is not None:
                subscriber.early.append(partial(self._deliver_early, subscriber, epoch, stored))

    def _limit(self, identity: Identity) -> int | None:
        plan = self._meter.plan
        if plan.max_concurrent_connections is None or plan.overages:
            return None
        # A connection that was lost here gives way to the one that its peer comes back with.
        lost = 0 if identity.resumes else len(self.lost.get(identity.peer_id, ()))
        return plan.max_concurrent_connections + lost

    def _connected(
        self,
        subscriber: Subscriber,
        identity: Identity,
        now: float,
        replaced: Sequence[Subscriber],
        recovery: Recovery | None,
        outcome: ConnectResult | EngineError,
    ) -> None:
        _take(self._arriving, subscriber)
        early, subscriber.early = subscriber.early, None
        if isinstance(outcome, OverConnectionLimit):
            subscriber.state = OVER
            return subscriber.close(WsCloseCode.OVER_CONCURRENT_LIMIT, "too many connections")
        if isinstance(outcome, EngineError):
            self._members.end(subscriber)
            return subscriber.close(TRY_AGAIN_LATER, "backend error")
        if subscriber.state != ARRIVING:  # it was closed meanwhile
            return self._members.end(subscriber)
        former = self._former(identity, replaced)
        for old in former:
            self._remove(old)
        subscriber.state = LIVE
        self.peers.setdefault(subscriber.peer_id, []).append(subscriber)
        self._meter.connect()
        self._welcome(subscriber, identity, now, recovery, outcome)
        for old in former:
            self._members.succeed(old, subscriber, self.limits.channels_per_connection)
            _close_replaced(old)
        if former:
            self._later(self.limits.return_time, partial(self.release, subscriber))
        for wait in early or ():
            wait(outcome.position)
        return None

    def _former(self, identity: Identity, replaced: Sequence[Subscriber]) -> list[Subscriber]:
        """Return the connections of this node that a new one replaces, those that are lost included."""
        former = [old for old in replaced if old.state in (LIVE, LOST)]
        if identity.resumes:
            former += [
                old for old in self.of_peer(identity.peer_id) if old.entry.key == identity.key and old not in former
            ]
        return former

    def _welcome(
        self, subscriber: Subscriber, identity: Identity, now: float, recovery: Recovery | None, found: ConnectResult
    ) -> None:
        subscriber.recovers = recovery is not None
        subscriber.recoverable = min(self.limits.recovered_bytes, self.limits.outbox_size // 2)
        welcome = Welcome(
            identity.peer_id,
            seconds(identity.expires_at),
            int(now),
            self.limits.max_message_size,
            identity.metadata,
            identity.resume_token,
        )
        if subscriber.recovers:
            welcome = structs.replace(welcome, epoch=found.position.epoch, offset=found.position.offset)
        self._writer.reply(subscriber, welcome)
        if found.missed is not None:
            render = partial(self._writer.direct, with_offset=True)
            self._writer.replay(subscriber, None, found.missed, found.position, render)

    def _deliver_early(self, subscriber: Subscriber, epoch: str, stored: Stored, welcomed_at: Position) -> None:
        # Those up to the position of the welcome were among the missed ones, or meant for an earlier connection.
        if epoch != welcomed_at.epoch or stored.offset > welcomed_at.offset:
            self._writer.hold(subscriber, self._writer.direct(stored, subscriber.recovers))

    def _remove(self, subscriber: Subscriber) -> None:
        """Remove a connection from those that are served or lost."""
        if subscriber.state == LIVE:
            _take(self.peers, subscriber)
            self._meter.disconnect()
        else:
            _take(self.lost, subscriber)


def seconds(expires_at: float | None) -> int | None:
    """Return a time in whole seconds, as frames have it."""
    return None if expires_at is None else math.floor(expires_at)


def _take(table: dict[str, list[Subscriber]], subscriber: Subscriber) -> None:
    of_peer = table[subscriber.peer_id]
    of_peer.remove(subscriber)
    if not of_peer:
        del table[subscriber.peer_id]


def _close_replaced(old: Subscriber) -> None:
    # Tells the client to reconnect without its resume token. Usually the old connection is dead, and no one reads it.
    old.close(WsCloseCode.TOKEN_EXPIRED, "resumed by another connection")
