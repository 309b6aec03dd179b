"""The hub: routing for one app at one node, without I/O and without a clock.

Apps are isolated, because each has a hub of its own. Who is connected and who is in a channel, positions and missed
messages come from the engine, which also connects the hubs of an app on several nodes; see `engine.contract`. The hub
writes to the subscribers of its node: `write` gets a frame as it goes on the wire and must neither block, raise, nor
call back. A frame is encoded once for all subscribers that wish the same. `close` ends a connection; it may call back.

Guarantees, in the order in which a client sees them:
- `welcome` is the first frame, and is sent once. Directs that were missed follow it at once.
- A request with a `requestId` gets exactly one `ack` or `error`. One without gets no `ack`, but errors. What the engine
  cannot do is answered with `backend_error`; `unsubscribe`, `ping` and `refresh` never are.
- `subscribe` is answered by the `ack` and the snapshot, then by the messages that were missed, and only then are the
  other peers told: a peer that hears of a newcomer may send to it at once. A direct that arrives while a subscribe is
  under way follows its snapshot. Subscribing again changes the options and sends the snapshot again.
- Requests of one connection for one channel are done one after another.
- Presence is per peer id. A peer without the `presence` right is visible to others, but sees no peers.
- A refresh changes the rights of a connection, and the metadata that others see from then on. Subscriptions that are no
  longer in scope end, each with an `error` that names the channel; a new `presence` right sends the snapshots.
- A connection that ends is removed from all channels. One that is lost without a goodbye keeps its places for
  `Limits.return_time`: its peer is still shown, and directs to it are kept.
- A connection that replaces others of its peer id keeps the peer's place in their channels: if it subscribes there too,
  other peers get neither `left` nor `joined`. Until then it gets nothing from the channel. A place that is not taken
  before `release`, that the connection gives up or loses the right to, or that remains when it ends, is given up with a
  `left`. Connections of the same peer id that are not replaced are unaffected.
- Missed messages come in order, each once, and before anything newer. What cannot be delivered is told by `lost`.
- The cost of a frame beyond its bytes is added to the `charges` of its subscriber (`server.charges`), which its bucket
  pays. The first subscription to a channel is free: a client that reconnects may restore all its subscriptions.
- After `fall_silent` no presence is sent: the server is stopping, and all peers will reconnect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from ...core.wire.frames import (
    Ack,
    ClientFrame,
    ErrorFrame,
    FrameError,
    Ping,
    Pong,
    Publish,
    Resume,
    Send,
    Subscribe,
    Unsubscribe,
)
from ...core.wire.patterns import is_pattern
from ...events import WsCloseCode
from .. import charges
from ..engine.contract import (
    Done,
    Engine,
    EngineError,
    EngineUnavailable,
    Entry,
    Envelope,
    Member,
    Position,
    Stored,
)
from ..limits import Limits
from ..plan import Meter
from ..rights import Grant
from ..routing import LIVE, Subscriber
from .checks import check_action, check_channel, check_room, check_wildcards, may_return
from .connections import Connections, seconds
from .identity import Identity, Later, OnChange, Recovery
from .memberships import Memberships
from .writer import HubWriter

MAX_IN_FLIGHT, REQUEST_COST = 4_194_304, 16_384
"""Maximum cost of the requests of one connection whose outcome is not there yet: their payloads, and so much for each.
An engine that answers at all has 256 requests done within milliseconds; a client that does not wait gets errors."""

_TYPES = {Publish: "publish", Send: "send", Ping: "ping", Subscribe: "subscribe", Unsubscribe: "unsubscribe"}
"""The types that frames are counted by."""


class Hub:
    """Routes the frames of one app, and is the `EngineListener` of its node for that app.

    `seal` turns an encoded frame into the argument of `write`; `meter` counts the use; `on_change` hears of the
    presence of this node's peers, in order, whoever may see it. `origin` is part of the names of connections, and has
    to be unique over all nodes and runs. `later` calls a function after some seconds.

    Attributes:
        outcomes: Number of handled frames by type (`other` if it has none) and error code, or `ok`.
        deliveries: Number of messages written to connections.
    """

    def __init__(
        self,
        engine: Engine,
        app: str,
        limits: Limits | None = None,
        seal: Callable[[bytes], bytes] = bytes,
        meter: Meter | None = None,
        on_change: OnChange | None = None,
        *,
        origin: str,
        later: Later,
    ) -> None:
        self._engine = engine
        self._app = app
        self._limits = limits if limits is not None else Limits()
        self._meter = meter if meter is not None else Meter()
        self._writer = HubWriter(seal)
        self._members = Memberships(app, engine, self._writer, on_change, later)
        self._connections = Connections(
            engine, app, self._limits, self._writer, self._members, self._meter, origin, later
        )
        self._channels, self._patterns = self._members.channels, self._members.patterns
        self._peers = self._connections.peers
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.deliveries = 0

    # --- connections

    def connect(
        self,
        identity: Identity,
        write: Callable[[bytes], None],
        now: float,
        replaced: Sequence[Subscriber] = (),
        *,
        close: Callable[[int, str], None] = lambda code, reason: None,
        recovery: Recovery | None = None,
    ) -> Subscriber:
        """Add a connection and send its welcome. `now` is unix seconds. One that is refused is closed.

        The connections that it replaces are removed, but their places are kept for it for a while.
        """
        return self._connections.add(identity, write, close, now, replaced, recovery)

    def disconnect(self, subscriber: Subscriber, *, expelled: bool = False) -> None:
        """Remove a connection, and send `left` to the peers in its channels. Idempotent.

        `expelled` if it has lost the right to be there: other peers need not wait for it to reconnect.
        """
        self._connections.end(subscriber, expelled=expelled)

    def lose(self, subscriber: Subscriber) -> None:
        """Remove a connection that ended without a goodbye. Its places are kept for a while. Idempotent."""
        self._connections.lose(subscriber)

    def release(self, subscriber: Subscriber) -> None:
        """Give up the places that are kept for a connection. Idempotent."""
        self._connections.release(subscriber)

    def fall_silent(self) -> None:
        """Stop sending presence. Places of connections that are lost from now on are left to the engine."""
        self._writer.is_silent = True

    def renew(self, subscriber: Subscriber, resume_token: str) -> None:
        """Send a connection its next resume token."""
        self._writer.reply(subscriber, Resume(resume_token))

    def refresh(self, subscriber: Subscriber, identity: Identity, request_id: str | None) -> None:
        """Replace the rights, the expiry and the metadata of a connection by those of a new token."""
        is_described = subscriber.describe(identity.peer_metadata)
        if request_id is not None:
            ack = self._writer.pack(Ack(request_id, seconds(identity.expires_at), identity.metadata))
            subscriber.charge(len(ack))
            subscriber.write(ack)
        self.regrant(subscriber, identity.grant, is_described=is_described)

    def regrant(self, subscriber: Subscriber, grant: Grant, *, is_described: bool = False) -> None:
        """Change the rights of a connection. Each subscription that is no longer in scope ends with an error.

        `is_described` if its metadata has changed as well.
        """
        gains_presence = grant.permits("presence") and not subscriber.grant.permits("presence")
        subscriber.grant = grant
        for name in sorted(subscriber.subscriptions):
            regrant = partial(self._regrant, subscriber, name, gains_presence, is_described)
            subscriber.turns.run(name, regrant)
        for name in sorted(subscriber.places):
            if not may_return(subscriber, name):
                self._members.vacate(subscriber, name)

    # --- frames

    def handle(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        """Handle a frame and answer it."""
        if subscriber.early is not None:
            self._wait(subscriber, frame)
        elif subscriber.turns.waiting and isinstance(frame, Subscribe | Unsubscribe | Publish):
            self._attempt_in_turn(subscriber, frame)
        else:
            self._attempt(subscriber, frame)

    def refuse(self, subscriber: Subscriber, fault: FrameError, frame_type: str = "other") -> None:
        """Answer a frame with an error."""
        self.outcomes[frame_type, fault.code] += 1
        self._writer.reply(subscriber, ErrorFrame(fault.code, fault.message, fault.request_id))

    def publish(self, channel: str, envelope: Envelope, done: Done[int]) -> None:
        """Send a message of a backend to all subscribers except the sender. Its outcome is their number."""
        self._engine.publish(self._app, channel, envelope, partial(self._count_all, channel, envelope.sender, done))

    def reconfigure(self, limits: Limits) -> None:
        """Replace the limits for frames and connections to come."""
        self._limits = self._connections.limits = limits

    @property
    def peer_count(self) -> int:
        """The number of peers that are connected to this node."""
        return len(self._peers)

    @property
    def channel_count(self) -> int:
        """The number of channels with peers of this node."""
        return len(self._channels)

    # --- what the engine tells (`EngineListener`)

    def message(self, app: str, channel: str, epoch: str, stored: Stored) -> None:
        """Write a message to the subscribers."""
        found = self._channels.get(channel)
        receivers = found.subscribers if found is not None else {}
        if self._patterns:
            receivers = self._patterns.receivers(channel, receivers)
        if not receivers:
            return
        sender, delivered = stored.envelope.sender, 0
        plain = self._writer.message(channel, stored, 0)
        frames = {0: plain}
        for subscriber, wishes in receivers.items():
            if subscriber.peer_id != sender:
                if wishes:
                    frame = frames.get(wishes)
                    if frame is None:
                        frame = frames[wishes] = self._writer.message(channel, stored, wishes)
                    subscriber.write(frame)
                else:
                    subscriber.write(plain)
                delivered += 1
        self.deliveries += delivered

    def messages_lost(self, app: str, channel: str, position: Position, count: int | None) -> None:
        """Report lost messages to the subscribers that know offsets."""
        self._members.report_lost(channel, position, count)

    def presence(self, app: str, channel: str, joined: tuple[Member, ...], left: tuple[Member, ...]) -> None:
        """Tell the subscribers who came and went."""
        self._members.presence(channel, joined, left)

    def direct(self, app: str, peer_id: str, epoch: str, stored: Stored) -> None:
        """Write a direct to the connections of a peer."""
        self._deliver(peer_id, epoch, stored)
        if self._connections.arriving:
            self._connections.hold_early(peer_id, epoch, stored)

    def directs_lost(self, app: str, peer_id: str, position: Position, count: int | None) -> None:
        """Report lost directs to the connections of a peer that know offsets."""
        for subscriber in self._peers.get(peer_id, ()):
            if subscriber.recovers:
                self._writer.lost(subscriber, None, position, count)

    def replaced(self, app: str, entry: Entry) -> None:
        """Close the connections that another one, at any node, has replaced."""
        self._connections.replace(entry)

    def kick(self, app: str, peer_id: str) -> None:
        """Close the connections of a peer, for its backend."""
        for subscriber in self._connections.of_peer(peer_id):
            self._connections.expel(subscriber, WsCloseCode.ADMIN_DISCONNECT, "disconnected by the backend")

    def revoke(self, app: str, key_id: str) -> None:
        """Close the connections of a key."""
        for subscriber in self._connections.of_key(key_id):
            self._connections.expel(subscriber, WsCloseCode.INVALID_TOKEN, "invalid credential")

    def health(self, is_up: bool) -> None:
        """End what could not be ended while the engine was down."""
        if is_up:
            self._members.retry()

    # --- requests

    def _wait(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        """Have a frame wait for the welcome."""
        assert subscriber.early is not None
        if len(subscriber.early) * REQUEST_COST >= MAX_IN_FLIGHT:
            return self.refuse(subscriber, _busy(frame), _TYPES[type(frame)])
        subscriber.early.append(lambda _: self.handle(subscriber, frame))
        return None

    def _attempt_in_turn(self, subscriber: Subscriber, frame: Subscribe | Unsubscribe | Publish) -> None:
        """Handle a frame after those before it for its channel. What waits counts like what is under way."""
        cost = REQUEST_COST + (memoryview(frame.data).nbytes if isinstance(frame, Publish) else 0)
        if subscriber.in_flight > MAX_IN_FLIGHT and not isinstance(frame, Unsubscribe):
            return self.refuse(subscriber, _busy(frame), _TYPES[type(frame)])
        subscriber.in_flight += cost

        def attempt() -> None:
            subscriber.in_flight -= cost
            self._attempt(subscriber, frame)

        subscriber.turns.run(frame.channel, attempt)
        return None

    def _attempt(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        try:
            self._dispatch(subscriber, frame)
        except FrameError as fault:
            self.refuse(subscriber, fault, _TYPES[type(frame)])

    def _dispatch(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        match frame:
            case Publish():
                self._publish(subscriber, frame)
            case Send():
                self._send(subscriber, frame)
            case Ping():
                self.outcomes["ping", "ok"] += 1
                self._writer.reply(subscriber, Pong(frame.request_id))
            case Subscribe():
                self._subscribe(subscriber, frame)
            case Unsubscribe():
                self._accept(subscriber, frame)
                self._members.unsubscribe(subscriber, frame.channel)

    def _publish(self, subscriber: Subscriber, frame: Publish) -> None:
        check_action(subscriber, "publish", frame.request_id)
        check_channel(frame.channel, subscriber.grant.reaches, frame.request_id)
        size = self._begin(subscriber, frame)
        # A copy: the payload is a part of a frame that may be much larger, and would be kept with it.
        envelope = Envelope(subscriber.peer_id, frame.data.copy(), subscriber.entry.metadata)
        done: Done[int] = partial(self._published, subscriber, frame, size)
        if self._patterns:
            subscriber.charge(charges.PER_PATTERN_COMPARED * self._patterns.comparisons(frame.channel))
            done = partial(self._count_all, frame.channel, subscriber.peer_id, done)
        self._engine.publish(self._app, frame.channel, envelope, done)

    def _count_all(self, channel: str, sender: str, done: Done[int], outcome: int | EngineError) -> None:
        """Add the receivers by pattern, which only their own node knows, to those in the channel."""
        if not isinstance(outcome, EngineError):
            found = self._channels.get(channel)
            exact = found.subscribers if found is not None else {}
            outcome += sum(one.peer_id != sender for one in self._patterns.receivers_beyond(channel, exact))
        done(outcome)

    def _published(self, subscriber: Subscriber, frame: Publish, size: int, outcome: int | EngineError) -> None:
        subscriber.in_flight -= size + REQUEST_COST
        if isinstance(outcome, EngineError):
            return self._fail(subscriber, frame)
        subscriber.charge(charges.fan_out(outcome, size))
        return self._accept(subscriber, frame)

    def _send(self, subscriber: Subscriber, frame: Send) -> None:
        check_action(subscriber, "send", frame.request_id)
        size = self._begin(subscriber, frame)
        envelope = Envelope(subscriber.peer_id, frame.data.copy(), subscriber.entry.metadata)
        self._engine.send(self._app, frame.to, envelope, partial(self._sent, subscriber, frame, envelope, size))

    def _sent(
        self, subscriber: Subscriber, frame: Send, envelope: Envelope, size: int, outcome: bool | EngineError
    ) -> None:
        subscriber.in_flight -= size + REQUEST_COST
        count = len(self._peers.get(frame.to, ()))
        if isinstance(outcome, EngineUnavailable) and count:
            self._deliver(frame.to, "", Stored(0, envelope))
        elif isinstance(outcome, EngineError):
            return self._fail(subscriber, frame)
        elif not outcome:
            fault = FrameError("peer_not_found", "the peer is not connected", frame.request_id)
            return self.refuse(subscriber, fault, "send")
        subscriber.charge(charges.fan_out(count, size))
        return self._accept(subscriber, frame)

    def _subscribe(self, subscriber: Subscriber, frame: Subscribe) -> None:
        if subscriber.state != LIVE:
            return  # it has ended while the frame waited for its turn
        check_action(subscriber, "subscribe", frame.request_id)
        pattern, grant = is_pattern(frame.channel), subscriber.grant
        if pattern:
            subscriber.charge(charges.PER_PATTERN_SUBSCRIPTION)
            check_wildcards(frame)
        check_channel(frame.channel, grant.covers if pattern else grant.reaches, frame.request_id)
        check_room(subscriber, frame, self._limits, self._patterns)
        self._members.subscribe(subscriber, frame, self._limits, partial(self._subscribed, subscriber, frame))

    def _subscribed(self, subscriber: Subscriber, frame: Subscribe, outcome: Position | EngineError | None) -> None:
        if isinstance(outcome, EngineError):
            self._fail(subscriber, frame)
        elif outcome is None or not frame.recover:
            self._accept(subscriber, frame)
        else:
            self.outcomes["subscribe", "ok"] += 1
            if frame.request_id is not None:
                self._writer.reply(subscriber, Ack(frame.request_id, None, None, *outcome))

    def _regrant(self, subscriber: Subscriber, name: str, gains_presence: bool, is_described: bool) -> None:
        """Apply the rights of a connection to one subscription, and have the engine know what its entry has become."""
        if name not in subscriber.subscriptions:
            return
        in_scope = subscriber.grant.covers if is_pattern(name) else subscriber.grant.reaches
        if not (subscriber.grant.permits("subscribe") and in_scope(name)):
            self._members.unsubscribe(subscriber, name)
            self.refuse(subscriber, FrameError("channel_not_authorized", f"no longer in scope: {name}"))
        elif (gains_presence or is_described) and not is_pattern(name):
            self._members.update(subscriber, name, shows_snapshot=gains_presence)

    def _begin(self, subscriber: Subscriber, frame: Publish | Send) -> int:
        """Count a request whose outcome is to come. Return the size of its payload."""
        if subscriber.in_flight > MAX_IN_FLIGHT:
            raise _busy(frame)
        if not self._meter.count_message():
            raise FrameError("over_message_quota", "the messages of this period are used up", frame.request_id)
        size = memoryview(frame.data).nbytes
        subscriber.in_flight += size + REQUEST_COST
        return size

    def _accept(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        self.outcomes[_TYPES[type(frame)], "ok"] += 1
        if frame.request_id is not None:
            self._writer.reply(subscriber, Ack(frame.request_id))

    def _fail(self, subscriber: Subscriber, frame: ClientFrame) -> None:
        fault = FrameError("backend_error", "the server cannot do this now", frame.request_id)
        self.refuse(subscriber, fault, _TYPES[type(frame)])

    def _deliver(self, peer_id: str, epoch: str, stored: Stored) -> None:
        """Write a direct to the connections of a peer, unless they came later. Without the engine its offset is 0."""
        plain = numbered = b""
        offset = stored.offset
        for target in self._peers.get(peer_id, ()):
            came_epoch, came_offset = target.came_at
            if offset <= came_offset and epoch == came_epoch:
                continue
            if target.recovers and offset > 0:
                frame = numbered = numbered or self._writer.direct(stored, True)
            else:
                frame = plain = plain or self._writer.direct(stored, False)
            if target.joins:
                self._writer.hold(target, frame)
            else:
                target.write(frame)
            self.deliveries += 1


def _busy(frame: ClientFrame) -> FrameError:
    return FrameError("backend_error", "too many requests at once", frame.request_id)
