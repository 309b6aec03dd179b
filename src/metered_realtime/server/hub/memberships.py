"""The channels of a node: who of its connections is in them, what the engine is asked for that, and who is told.

For each connection and channel there is one request to the engine at a time (`Turns`). What has failed to end is tried
again by `retry`: an entry that a connection has given up must not show its peer for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from ...core.wire.frames import Subscribe
from ...core.wire.patterns import is_pattern
from .. import charges
from ..engine.contract import Engine, EngineError, EngineUnavailable, JoinResult, Member, Position, Stored
from ..limits import Limits
from ..routing import GONE, LIVE, LOST, METADATA, OFFSETS, OVER, Channel, PatternTable, Subscriber
from .checks import may_return
from .identity import Later, OnChange
from .writer import HubWriter

Answer: TypeAlias = Callable[[Position | EngineError | None], None]
"""Answers a subscribe: with how far the messages of the channel are, None for a pattern, or with what has failed."""

RETRY_INTERVAL = 1.0
"""Seconds until the engine is asked again to end what it could not end."""

MEMBER_SIZE = 128
"""Bytes of a presence frame with one peer, as it is charged for each peer that is told."""


class Memberships:
    """The memberships of the connections of one app at this node.

    Attributes:
        channels: The channels in which the node has an entry.
        patterns: The pattern subscriptions.
    """

    def __init__(self, app: str, engine: Engine, writer: HubWriter, on_change: OnChange | None, later: Later) -> None:
        self._app = app
        self._engine = engine
        self._writer = writer
        self._on_change = on_change
        self._later = later
        self._is_retrying = False
        self._join_number = 0
        self._unsettled: dict[tuple[Subscriber, str], bool] = {}
        self._not_ended: dict[Subscriber, None] = {}
        self.channels: dict[str, Channel] = {}
        self.patterns: PatternTable[Subscriber] = PatternTable()

    # --- what a connection asks for

    def subscribe(self, subscriber: Subscriber, frame: Subscribe, limits: Limits, answer: Answer) -> None:
        """Add a connection to a channel, or change what it wishes there, and send it the snapshot."""
        name, is_new = frame.channel, frame.channel not in subscriber.subscriptions
        subscriber.subscriptions.add(name)
        if is_pattern(name):
            answer(None)
            self._listen(subscriber, name, METADATA if frame.include_sender_metadata else 0)
            return
        since = None if frame.epoch is None or frame.offset is None else Position(frame.epoch, frame.offset)
        self._join(subscriber, name, partial(self._subscribed, subscriber, frame, is_new, limits, answer), since)

    def unsubscribe(self, subscriber: Subscriber, name: str, *, expelled: bool = False) -> None:
        """Remove a connection from a channel, or a place that is kept for it there. Idempotent."""
        if name in subscriber.subscriptions:
            subscriber.subscriptions.remove(name)
            if is_pattern(name):
                self._unlisten(subscriber, name)
            else:
                self._remove(subscriber, name)
                self._leave(subscriber, name, expelled)
        elif name in subscriber.kept:
            self.vacate(subscriber, name, expelled=expelled)

    def update(self, subscriber: Subscriber, name: str, *, shows_snapshot: bool) -> None:
        """Have the engine know what an entry has become."""
        if name in subscriber.subscriptions:
            self._join(subscriber, name, partial(self._updated, subscriber, name, shows_snapshot))

    # --- connections that end, and those that take their place

    def end(self, subscriber: Subscriber, *, expelled: bool = False) -> None:
        """Remove a connection from all channels, and from the engine."""
        subscriber.state = OVER
        for name in [*subscriber.subscriptions, *subscriber.kept]:
            subscriber.turns.run(name, partial(self.unsubscribe, subscriber, name, expelled=expelled))
        self._disconnect_if_gone(subscriber)

    def lose(self, subscriber: Subscriber) -> None:
        """Keep the places of a connection that may come back. Patterns end."""
        subscriber.state = LOST
        for name in sorted(subscriber.subscriptions):
            subscriber.turns.run(name, partial(self._keep, subscriber, name))

    def succeed(self, old: Subscriber, heir: Subscriber, most: int) -> None:
        """Give a connection the places of one that is over, as far as it may subscribe there."""
        old.state = OVER
        for name in sorted({*old.subscriptions, *old.kept}):
            old.turns.run(name, partial(self._hand_over, old, heir, name, most))
        self._disconnect_if_gone(old)

    def vacate(self, subscriber: Subscriber, name: str, *, expelled: bool = False) -> None:
        """Give up a place that is kept for a connection. Idempotent."""
        of = subscriber.kept.pop(name, None)
        if of is not None:
            if name not in subscriber.subscriptions:
                self._remove(subscriber, name)
            for old in of:
                self._leave_in_turn(old, name, expelled)

    # --- what the engine tells

    def presence(self, name: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None:
        """Tell the subscribers of a channel who came and went. What only changed its metadata is not told."""
        channel = self.channels.get(name)
        if channel is None:
            return
        came = [member for member in joined if member.peer_id not in channel.roster]
        went = [member for member in left if member.peer_id in channel.roster]
        channel.roster.update(member.peer_id for member in joined)
        channel.roster.difference_update(member.peer_id for member in left)
        if self._on_change is not None:
            for member in joined:
                if member.peer_id in channel.peers and member.peer_id not in channel.told:
                    self._report_joined(channel, name, member.peer_id)
        self._writer.announce(channel, name, came, went)

    def report_lost(self, name: str, position: Position, count: int | None) -> None:
        """Report to the subscribers that know offsets that messages cannot be delivered."""
        channel = self.channels.get(name)
        if channel is not None:
            for subscriber, wishes in channel.subscribers.items():
                if wishes & OFFSETS:
                    self._writer.lost(subscriber, name, position, count)

    def retry(self) -> None:
        """Try again what could not be ended."""
        unsettled, self._unsettled = self._unsettled, {}
        for (subscriber, name), expelled in unsettled.items():
            self._leave_in_turn(subscriber, name, expelled)
        not_ended, self._not_ended = self._not_ended, {}
        for subscriber in not_ended:
            self._disconnect_if_gone(subscriber)

    def _retry_later(self) -> None:
        if not self._is_retrying:
            self._is_retrying = True
            self._later(RETRY_INTERVAL, self._retry_now)

    def _retry_now(self) -> None:
        self._is_retrying = False
        self.retry()

    # --- joining

    def _join(
        self,
        subscriber: Subscriber,
        name: str,
        done: Callable[[JoinResult | EngineError], None],
        since: Position | None = None,
    ) -> None:
        self._join_number += 1
        subscriber.joins[self._join_number] = None
        subscriber.joined.add(name)
        self._unsettled.pop((subscriber, name), None)
        subscriber.turns.begin(name)
        request = partial(self._joined, subscriber, name, self._join_number, done)
        self._engine.join(self._app, name, subscriber.entry, request, since=since)

    def _joined(
        self,
        subscriber: Subscriber,
        name: str,
        number: int,
        done: Callable[[JoinResult | EngineError], None],
        outcome: JoinResult | EngineError,
    ) -> None:
        done(outcome)
        del subscriber.joins[number]
        self._writer.write_held(subscriber)
        subscriber.turns.end(name)
        self._disconnect_if_gone(subscriber)

    def _subscribed(
        self,
        subscriber: Subscriber,
        frame: Subscribe,
        is_new: bool,
        limits: Limits,
        answer: Answer,
        outcome: JoinResult | EngineError,
    ) -> None:
        name = frame.channel
        if isinstance(outcome, EngineError):
            answer(outcome)
            if is_new:
                subscriber.subscriptions.discard(name)
                self._undo(subscriber, name, outcome)
            return
        answer(outcome.position)
        owed = subscriber.charges
        wishes = (METADATA if frame.include_sender_metadata else 0) | (OFFSETS if frame.recover else 0)
        channel = self._enter(subscriber, name, wishes, outcome)
        if is_new:
            subscriber.charge(charges.fan_out(len(outcome.members), MEMBER_SIZE))
        if subscriber.grant.permits("presence"):
            self._writer.snapshot(subscriber, name, outcome.members)
        if name not in subscriber.greeted and len(subscriber.greeted) < limits.channels_per_connection:
            subscriber.greeted.add(name)
            subscriber.charges = owed
        if outcome.missed is not None:
            render = partial(self._render, name, wishes)
            self._writer.replay(subscriber, name, outcome.missed, outcome.position, render)
        if outcome.is_first:
            self._report_joined(channel, name, subscriber.peer_id)

    def _enter(self, subscriber: Subscriber, name: str, wishes: int, joined: JoinResult) -> Channel:
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels[name] = Channel({member.peer_id for member in joined.members})
            if joined.is_first:
                self._report("opened", name, subscriber.peer_id)
        channel.add(subscriber, wishes)
        for old in subscriber.kept.pop(name, ()):
            self._leave_in_turn(old, name, False)
        return channel

    def _render(self, name: str, wishes: int, stored: Stored) -> bytes:
        return self._writer.message(name, stored, wishes)

    def _updated(
        self, subscriber: Subscriber, name: str, shows_snapshot: bool, outcome: JoinResult | EngineError
    ) -> None:
        if not isinstance(outcome, EngineError) and shows_snapshot and subscriber.grant.permits("presence"):
            self._writer.snapshot(subscriber, name, outcome.members)

    def _undo(self, subscriber: Subscriber, name: str, error: EngineError) -> None:
        """End what a request that has failed may have begun."""
        if isinstance(error, EngineUnavailable):
            subscriber.joined.discard(name)
        else:
            self._leave_in_turn(subscriber, name, False)

    # --- leaving

    def _leave_in_turn(self, subscriber: Subscriber, name: str, expelled: bool) -> None:
        subscriber.turns.run(name, partial(self._leave, subscriber, name, expelled))

    def _leave(self, subscriber: Subscriber, name: str, expelled: bool) -> None:
        if name not in subscriber.joined or name in subscriber.subscriptions:
            return  # it has left already, or has come back
        subscriber.turns.begin(name)
        done = partial(self._left, subscriber, name, expelled)
        self._engine.leave(self._app, name, subscriber.entry, done, expelled=expelled)

    def _left(self, subscriber: Subscriber, name: str, expelled: bool, outcome: bool | EngineError) -> None:
        if isinstance(outcome, EngineError):
            self._unsettled[subscriber, name] = expelled
            self._retry_later()
        else:
            subscriber.joined.discard(name)
            self._report_left(subscriber, name, outcome)
        subscriber.turns.end(name)
        self._disconnect_if_gone(subscriber)

    def _disconnect_if_gone(self, subscriber: Subscriber) -> None:
        if subscriber.state == OVER and not subscriber.joined and not subscriber.turns:
            subscriber.state = GONE
            self._engine.disconnect(self._app, subscriber.entry, partial(self._disconnected, subscriber))

    def _disconnected(self, subscriber: Subscriber, outcome: EngineError | None) -> None:
        if isinstance(outcome, EngineError):
            subscriber.state = OVER
            self._not_ended[subscriber] = None
            self._retry_later()

    def _remove(self, subscriber: Subscriber, name: str) -> None:
        channel = self.channels.get(name)
        if channel is not None:
            subscriber.charge(charges.fan_out(len(channel.roster), MEMBER_SIZE))
            channel.remove(subscriber)
            if not channel.peers:
                del self.channels[name]

    # --- places

    def _keep(self, subscriber: Subscriber, name: str) -> None:
        if subscriber.state != LOST or name not in subscriber.subscriptions:
            return
        subscriber.subscriptions.remove(name)
        if is_pattern(name):
            self._unlisten(subscriber, name)
        else:
            self.channels[name].subscribers.pop(subscriber, None)
            subscriber.kept.setdefault(name, []).append(subscriber)

    def _hand_over(self, old: Subscriber, heir: Subscriber, name: str, most: int) -> None:
        of = old.kept.pop(name, [])
        if name in old.subscriptions:
            old.subscriptions.remove(name)
            if is_pattern(name):
                return self._unlisten(old, name)
            of = [*of, old]
        is_kept = (
            heir.state in (LIVE, LOST)
            and name not in heir.subscriptions
            and may_return(heir, name)
            and (name in heir.kept or len(heir.kept) < most)
            and name in self.channels
        )
        if is_kept:
            self.channels[name].keep_place(heir)
            heir.kept.setdefault(name, []).extend(of)
        self._remove(old, name)
        if not is_kept:
            for one in of:
                self._leave_in_turn(one, name, False)
        return None

    # --- patterns

    def _listen(self, subscriber: Subscriber, pattern: str, wishes: int) -> None:
        if pattern not in self.patterns:
            self._engine.listen(self._app, pattern)
        self.patterns.add(pattern, subscriber, wishes)

    def _unlisten(self, subscriber: Subscriber, pattern: str) -> None:
        self.patterns.remove(pattern, subscriber)
        if pattern not in self.patterns:
            self._engine.unlisten(self._app, pattern)

    # --- reports

    def _report(self, kind: str, name: str, peer_id: str) -> None:
        if self._on_change is not None and not self._writer.is_silent:
            self._on_change(kind, name, peer_id)  # type: ignore[arg-type]

    def _report_joined(self, channel: Channel, name: str, peer_id: str) -> None:
        if self._on_change is not None:
            channel.told.add(peer_id)
            self._report("joined", name, peer_id)

    def _report_left(self, subscriber: Subscriber, name: str, is_empty: bool) -> None:
        if self._on_change is None:
            return
        if is_empty:
            self._report("left", name, subscriber.peer_id)
            self._report("emptied", name, subscriber.peer_id)
        else:
            done = partial(self._report_if_gone, name, subscriber.peer_id)
            self._engine.roster(self._app, name, done)

    def _report_if_gone(self, name: str, peer_id: str, outcome: tuple[Member, ...] | EngineError) -> None:
        if not isinstance(outcome, EngineError) and peer_id not in {member.peer_id for member in outcome}:
            self._report("left", name, peer_id)
