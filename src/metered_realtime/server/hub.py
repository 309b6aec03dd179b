"""The hub: routing for one app, without I/O and without a clock.

Apps are isolated, because each has a hub of its own. The only effects are calls of a subscriber's `write`, which gets a
frame as it goes on the wire and must neither block, raise, nor call back. A frame is encoded once for all subscribers.

Guarantees, in the order in which a client sees them:
- `welcome` is the first frame, and is sent once.
- A request with a `requestId` gets exactly one `ack` or `error`. One without gets no `ack`, but errors.
- `subscribe` is answered by the `ack` and the snapshot, and only then are the other peers told: a peer that hears of
  a newcomer may send to it at once. Subscribing again changes the options and sends the snapshot again.
- Presence is per peer id. A peer without the `presence` right is visible to others, but sees no peers.
- A refresh changes the rights of a connection, and the metadata that others see from then on. Subscriptions that are no
  longer in scope end, each with an `error` that names the channel; a new `presence` right sends the snapshots.
- A connection that ends is removed from all channels.
- A connection that replaces others of its peer id keeps the peer's place in their channels: if it subscribes there too,
  other peers get neither `left` nor `joined`. Until then it gets nothing from the channel. A place that is not taken
  before `release`, that the connection gives up or loses the right to, or that remains when it ends, is given up with a
  `left`. Connections of the same peer id that are not replaced are unaffected.
- The cost of a frame beyond its bytes is added to the `charges` of its subscriber (`server.charges`), which its bucket
  pays. The first subscription to a channel is free: a client that reconnects may restore all its subscriptions.
- After `fall_silent` no presence is sent: the server is stopping, and all peers will reconnect.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from msgspec import Raw, structs

from ..core.wire.frames import (
    MAX_SERVER_FRAME,
    Ack,
    ClientFrame,
    DirectFrame,
    ErrorFrame,
    FrameError,
    MessageFrame,
    Ping,
    Pong,
    PresenceEntry,
    PresenceFrame,
    Publish,
    Resume,
    Send,
    ServerFrame,
    Subscribe,
    Unsubscribe,
    Welcome,
    encode,
)
from ..core.wire.names import is_reserved_channel
from ..core.wire.patterns import MAX_WILDCARDS, count_wildcards, is_pattern
from . import charges
from .limits import Limits
from .plan import Meter
from .rights import Action, Grant
from .routing import Channel, PatternTable, Subscriber

SNAPSHOT_PAGE = 3_500
"""Maximum number of peers in a snapshot frame without metadata: ids of 128 escaped characters stay within the limit."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a connection. `expires_at` is unix seconds; `metadata` and `resume_token` are for its welcome
    only."""

    peer_id: str
    grant: Grant
    expires_at: float | None = None
    metadata: dict[str, Any] | None = None
    peer_metadata: Raw | None = None
    resume_token: str | None = field(default=None, repr=False)


OnChange: TypeAlias = Callable[[Literal["opened", "joined", "left", "emptied"], str, str], None]
"""Called with what has changed, the channel and the peer. It must neither block, raise, nor call back."""


def _ignore(*_: str) -> None:
    pass


_TYPES = {Publish: "publish", Send: "send", Ping: "ping", Subscribe: "subscribe", Unsubscribe: "unsubscribe"}
"""The types that frames are counted by."""


class Hub:
    """Routes the frames of one app. `seal` turns an encoded frame into the argument of `write`; `meter` counts the
    use; `on_change` hears of presence, in order, whoever may see it.

    Attributes:
        outcomes: Number of handled frames by type (`other` if it has none) and error code, or `ok`.
        deliveries: Number of messages written to connections.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        seal: Callable[[bytes], bytes] = bytes,
        meter: Meter | None = None,
        on_change: OnChange = _ignore,
    ) -> None:
        self._on_change = on_change
        self._limits = limits if limits is not None else Limits()
        self._meter = meter if meter is not None else Meter()
        self._seal = seal
        self._serial = 0
        self._peers: dict[str, list[Subscriber]] = {}
        self._channels: dict[str, Channel] = {}
        self._patterns: PatternTable[Subscriber] = PatternTable()
        self._silent = False
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.deliveries = 0

    def connect(
        self, identity: Identity, write: Callable[[bytes], None], now: float, replaced: Sequence[Subscriber] = ()
    ) -> Subscriber:
        """Add a connection and send its welcome. `now` is unix seconds.

        The connections that it replaces are removed, but their places are kept for it: `release` them after a while.
        """
        gone = [old for old in replaced if self._forget(old)]
        self._serial += 1
        subscriber = Subscriber(self._serial, identity.peer_id, identity.grant, identity.peer_metadata, write)
        self._peers.setdefault(identity.peer_id, []).append(subscriber)
        self._meter.connect()
        self._welcome(subscriber, identity, now)
        for old in gone:
            self._succeed(old, subscriber)
        return subscriber

    def disconnect(self, subscriber: Subscriber, *, expelled: bool = False) -> None:
        """Remove a connection, and send `left` to the peers in its channels. Idempotent.

        `expelled` if it has lost the right to be there: other peers need not wait for it to reconnect.
        """
        subscriber.entry = structs.replace(subscriber.entry, expelled=expelled)
        if self._forget(subscriber):
            while subscriber.subscriptions:
                self._drop(subscriber, subscriber.subscriptions.pop())
            self.release(subscriber)

    def release(self, subscriber: Subscriber) -> None:
        """Give up the kept places that a connection has not taken. Idempotent."""
        while subscriber.places:
            self._vacate(subscriber, subscriber.places.pop())

    def fall_silent(self) -> None:
        """Stop sending presence."""
        self._silent = True

    def renew(self, subscriber: Subscriber, resume_token: str) -> None:
        """Send a connection its next resume token."""
        self._reply(subscriber, Resume(resume_token))

    def refresh(self, subscriber: Subscriber, identity: Identity, request_id: str | None) -> None:
        """Replace the rights, the expiry and the metadata of a connection by those of a new token."""
        subscriber.describe(identity.peer_metadata)
        if request_id is not None:
            ack = self._pack(Ack(request_id, _seconds(identity.expires_at), identity.metadata))
            subscriber.charge(len(ack))
            subscriber.write(ack)
        self.regrant(subscriber, identity.grant)

    def handle(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        """Handle a frame and answer it."""
        try:
            self._dispatch(subscriber, frame)
        except FrameError as fault:
            self.refuse(subscriber, fault, _TYPES[type(frame)])
        else:
            self.outcomes[_TYPES[type(frame)], "ok"] += 1

    def refuse(self, subscriber: Subscriber, fault: FrameError, frame_type: str = "other") -> None:
        """Answer a frame with an error."""
        self.outcomes[frame_type, fault.code] += 1
        self._reply(subscriber, ErrorFrame(fault.code, fault.message, fault.request_id))

    def publish(self, channel: str, sender: str, data: Raw, metadata: Raw | None = None) -> int:
        """Send a message to all subscribers except the sender. Return the number of connections."""
        receivers = self._receivers(channel)
        if not receivers:
            return 0
        plain = self._pack(MessageFrame(channel=channel, from_=sender, data=data))
        rich = plain
        if metadata is not None and any(receivers.values()):
            rich = self._pack(MessageFrame(channel=channel, from_=sender, data=data, from_metadata=metadata))
        delivered = 0
        for subscriber, wants_metadata in receivers.items():
            if subscriber.peer_id != sender:
                subscriber.write(rich if wants_metadata else plain)
                delivered += 1
        self.deliveries += delivered
        return delivered

    def regrant(self, subscriber: Subscriber, grant: Grant) -> None:
        """Change the rights of a connection. Each subscription that is no longer in scope ends with an error."""
        gains_presence = grant.permits("presence") and not subscriber.grant.permits("presence")
        subscriber.grant = grant
        for name in sorted(subscriber.subscriptions):
            in_scope = grant.covers if is_pattern(name) else grant.reaches
            if not (grant.permits("subscribe") and in_scope(name)):
                subscriber.subscriptions.remove(name)
                self._drop(subscriber, name)
                self.refuse(subscriber, FrameError("channel_not_authorized", f"no longer in scope: {name}"))
            elif gains_presence and not is_pattern(name):
                self._send_snapshot(subscriber, name, self._channels[name].others(subscriber.peer_id))
        for name in sorted(subscriber.places):
            if not _may_return(subscriber, name):
                self._vacate(subscriber, name)

    def reconfigure(self, limits: Limits) -> None:
        """Replace the limits for frames to come."""
        self._limits = limits

    @property
    def peer_count(self) -> int:
        """The number of connected peers."""
        return len(self._peers)

    @property
    def channel_count(self) -> int:
        """The number of channels with peers."""
        return len(self._channels)

    def has_peer(self, peer_id: str) -> bool:
        """Return whether a peer is connected."""
        return peer_id in self._peers

    def roster(self, channel: str) -> list[PresenceEntry]:
        """Return all peers in a channel."""
        found = self._channels.get(channel)
        return found.others(None) if found is not None else []

    def _dispatch(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        match frame:
            case Publish():
                self._publish(subscriber, frame)
            case Send():
                self._send(subscriber, frame)
            case Ping():
                self._reply(subscriber, Pong(frame.request_id))
            case Subscribe():
                self._subscribe(subscriber, frame)
            case Unsubscribe():
                self._unsubscribe(subscriber, frame)

    def _publish(self, subscriber: Subscriber, frame: Publish) -> None:
        _check_action(subscriber, "publish", frame.request_id)
        _check_channel(frame.channel, subscriber.grant.reaches, frame.request_id)
        self._count(frame.request_id)
        subscriber.charge(charges.PER_PATTERN_COMPARED * self._patterns.comparisons(frame.channel))
        delivered = self.publish(frame.channel, subscriber.peer_id, frame.data, subscriber.peer_metadata)
        subscriber.charge(charges.fan_out(delivered, memoryview(frame.data).nbytes))
        self._acknowledge(subscriber, frame.request_id)

    def _send(self, subscriber: Subscriber, frame: Send) -> None:
        _check_action(subscriber, "send", frame.request_id)
        self._count(frame.request_id)
        targets = self._peers.get(frame.to)
        if not targets:
            raise FrameError("peer_not_found", "the peer is not connected", frame.request_id)
        packed = self._pack(
            DirectFrame(from_=subscriber.peer_id, data=frame.data, from_metadata=subscriber.peer_metadata)
        )
        for target in targets:
            target.write(packed)
        self.deliveries += len(targets)
        subscriber.charge(charges.fan_out(len(targets), len(packed)))
        self._acknowledge(subscriber, frame.request_id)

    def _subscribe(self, subscriber: Subscriber, frame: Subscribe) -> None:
        _check_action(subscriber, "subscribe", frame.request_id)
        pattern = is_pattern(frame.channel)
        if pattern:
            subscriber.charge(charges.PER_PATTERN_SUBSCRIPTION)
            _check_wildcards(frame)
        _check_channel(
            frame.channel, subscriber.grant.covers if pattern else subscriber.grant.reaches, frame.request_id
        )
        self._check_room(subscriber, frame)
        subscriber.subscriptions.add(frame.channel)
        self._acknowledge(subscriber, frame.request_id)
        if pattern:
            self._patterns.add(frame.channel, subscriber, frame.include_sender_metadata)
        else:
            self._join(subscriber, frame)

    def _unsubscribe(self, subscriber: Subscriber, frame: Unsubscribe) -> None:
        self._acknowledge(subscriber, frame.request_id)
        if frame.channel in subscriber.subscriptions:
            subscriber.subscriptions.remove(frame.channel)
            self._drop(subscriber, frame.channel)
        elif frame.channel in subscriber.places:
            self._vacate(subscriber, frame.channel)

    def _join(self, subscriber: Subscriber, frame: Subscribe) -> None:
        if frame.channel not in self._channels:
            self._channels[frame.channel] = Channel()
            self._on_change("opened", frame.channel, subscriber.peer_id)
        channel = self._channels[frame.channel]
        is_new = channel.add(subscriber, frame.include_sender_metadata)
        subscriber.places.discard(frame.channel)
        owed = subscriber.charges
        if subscriber.grant.permits("presence"):
            self._send_snapshot(subscriber, frame.channel, channel.others(subscriber.peer_id))
        if is_new:
            self._on_change("joined", frame.channel, subscriber.peer_id)
            self._announce(channel, PresenceFrame(frame.channel, (subscriber.entry,), ()), subscriber)
        if frame.channel not in subscriber.greeted and len(subscriber.greeted) < self._limits.channels_per_connection:
            subscriber.greeted.add(frame.channel)
            subscriber.charges = owed

    def _drop(self, subscriber: Subscriber, name: str) -> None:
        if is_pattern(name):
            self._patterns.remove(name, subscriber)
            return
        self._depart(subscriber, name)

    def _vacate(self, subscriber: Subscriber, name: str) -> None:
        subscriber.places.discard(name)
        self._depart(subscriber, name)

    def _depart(self, subscriber: Subscriber, name: str) -> None:
        channel = self._channels[name]
        is_gone = channel.remove(subscriber)
        if is_gone and not self._silent:
            self._on_change("left", name, subscriber.peer_id)
        if not channel.peers:
            del self._channels[name]
            if not self._silent:
                self._on_change("emptied", name, subscriber.peer_id)
        elif is_gone:
            self._announce(channel, PresenceFrame(name, (), (subscriber.entry,)), subscriber)

    def _forget(self, subscriber: Subscriber) -> bool:
        """Remove a connection from its peer, but not from its channels. Return False if it is already removed."""
        of_peer = self._peers.get(subscriber.peer_id, [])
        if subscriber not in of_peer:
            return False
        of_peer.remove(subscriber)
        self._meter.disconnect()
        if not of_peer:
            del self._peers[subscriber.peer_id]
        return True

    def _succeed(self, old: Subscriber, heir: Subscriber) -> None:
        """Give a connection the places of a removed one, as far as it may subscribe there."""
        while old.subscriptions:
            name = old.subscriptions.pop()
            if is_pattern(name):
                self._patterns.remove(name, old)
            else:
                old.places.add(name)
        for name in sorted(old.places):
            if _may_return(heir, name) and len(heir.places) < self._limits.channels_per_connection:
                self._channels[name].keep_place(heir)
                heir.places.add(name)
            self._vacate(old, name)

    def _welcome(self, subscriber: Subscriber, identity: Identity, now: float) -> None:
        size, token = self._limits.max_message_size, identity.resume_token
        self._reply(
            subscriber,
            Welcome(identity.peer_id, _seconds(identity.expires_at), int(now), size, identity.metadata, token),
        )

    def _announce(self, channel: Channel, frame: PresenceFrame, subject: Subscriber) -> None:
        if self._silent:
            return
        packed, told = self._pack(frame), 0
        for subscriber in channel.subscribers:
            if subscriber.peer_id != subject.peer_id and subscriber.grant.permits("presence"):
                subscriber.write(packed)
                told += 1
        subject.charge(charges.fan_out(told, len(packed)))

    def _send_snapshot(self, subscriber: Subscriber, name: str, entries: list[PresenceEntry]) -> None:
        """Send a snapshot, in one frame if possible: clients take the first one for the whole roster.

        A snapshot that would exceed the frame size of clients is sent without metadata, and only if the ids alone are
        too many, in several frames.
        """
        if sum(map(_size, entries)) < MAX_SERVER_FRAME:  # otherwise it is too large in any case
            frame = encode(PresenceFrame(name, tuple(entries), ()))
            if len(frame) < MAX_SERVER_FRAME:
                subscriber.charge(len(frame))
                subscriber.write(self._seal(frame))
                return
        bare = [PresenceEntry(entry.peer_id) for entry in entries]
        for start in range(0, len(bare), SNAPSHOT_PAGE):
            page = self._pack(PresenceFrame(name, tuple(bare[start : start + SNAPSHOT_PAGE]), ()))
            subscriber.charge(len(page))
            subscriber.write(page)

    def _count(self, request_id: str | None) -> None:
        if not self._meter.count_message():
            raise FrameError("over_message_quota", "the messages of this period are used up", request_id)

    def _check_room(self, subscriber: Subscriber, frame: Subscribe) -> None:
        if frame.channel in subscriber.subscriptions:
            return
        limit = self._limits.channels_per_connection
        if len(subscriber.subscriptions) >= limit:
            raise FrameError("channel_limit_exceeded", f"at most {limit} channels per connection", frame.request_id)
        if is_pattern(frame.channel):
            self._check_room_for_pattern(subscriber, frame)

    def _check_room_for_pattern(self, subscriber: Subscriber, frame: Subscribe) -> None:
        limit = self._limits.patterns_per_connection
        if sum(map(is_pattern, subscriber.subscriptions)) >= limit:
            raise FrameError("channel_limit_exceeded", f"at most {limit} patterns per connection", frame.request_id)
        limit = self._limits.patterns_per_app
        if frame.channel not in self._patterns and len(self._patterns) >= limit:
            raise FrameError("channel_limit_exceeded", f"at most {limit} patterns per app", frame.request_id)

    def _receivers(self, channel: str) -> dict[Subscriber, int]:
        found = self._channels.get(channel)
        exact = found.subscribers if found is not None else {}
        return self._patterns.receivers(channel, exact) if self._patterns else exact

    def _acknowledge(self, subscriber: Subscriber, request_id: str | None) -> None:
        if request_id is not None:
            self._reply(subscriber, Ack(request_id))

    def _reply(self, subscriber: Subscriber, frame: ServerFrame) -> None:
        subscriber.write(self._pack(frame))

    def _pack(self, frame: ServerFrame) -> bytes:
        return self._seal(encode(frame))


def _check_action(subscriber: Subscriber, action: Action, request_id: str | None) -> None:
    if not subscriber.grant.permits(action):
        raise FrameError("action_not_permitted", f"'{action}' is not granted", request_id)


def _check_wildcards(frame: Subscribe) -> None:
    if count_wildcards(frame.channel) > MAX_WILDCARDS:
        raise FrameError("invalid_channel", f"a pattern has at most {MAX_WILDCARDS} wildcards", frame.request_id)


def _seconds(expires_at: float | None) -> int | None:
    """Return a time in whole seconds, as frames have it."""
    return None if expires_at is None else math.floor(expires_at)


def _size(entry: PresenceEntry) -> int:
    """Return the minimum size of an entry in a snapshot, in bytes."""
    return len(entry.peer_id) + (0 if entry.metadata is None else memoryview(entry.metadata).nbytes)


def _may_return(subscriber: Subscriber, name: str) -> bool:
    return subscriber.grant.permits("subscribe") and subscriber.grant.reaches(name)


def _check_channel(channel: str, in_scope: Callable[[str], bool], request_id: str | None) -> None:
    if is_reserved_channel(channel):
        raise FrameError("channel_reserved", "the channel is reserved", request_id)
    if not in_scope(channel):
        raise FrameError("channel_not_authorized", "the channel is out of scope", request_id)
