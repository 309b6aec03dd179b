"""The requests of a client and their outcomes, and the subscriptions that are restored after a reconnect.

The session knows whether there is a connection and calls the method that fits. Every request is settled exactly once,
unless its caller abandons it.
"""

from __future__ import annotations

import math

from msgspec import Raw

from ...errors import (
    AckTimeoutError,
    DisconnectedError,
    PayloadTooLargeError,
    ServerRequestError,
    SignallingError,
)
from ...events import MessagesLost, Resubscribed, ServerError, SubscriptionLost
from ..wire import frames
from ..wire.patterns import is_pattern
from .effects import Effects, Emit, Log, Settle, Transmit
from .positions import Positions, ReadPosition
from .requests import Pending, Purpose, RequestBook
from .subscriptions import PASSING_CODES, Replays, Subscriptions


class Exchange:
    """The requests and subscriptions of one client, over all its connections."""

    def __init__(self, positions: Positions, *, ack_timeout: float, replay_delay: float, queue_limit: int) -> None:
        self._positions = positions
        self._book = RequestBook(ack_timeout, queue_limit)
        self._subscriptions = Subscriptions()
        self._replays = Replays(replay_delay)
        self.max_message_size = frames.MAX_MESSAGE_SIZE

    def __len__(self) -> int:
        """Number of requests that wait for an answer or for the connection."""
        return len(self._book)

    @property
    def channels(self) -> tuple[str, ...]:
        """The remembered channels, oldest first."""
        return self._subscriptions.channels

    @property
    def can_queue(self) -> bool:
        """Whether one more request may wait for the connection."""
        return self._book.can_queue

    @property
    def next_deadline(self) -> float:
        """When the next request times out or the next replay is due. Infinity if neither is pending."""
        deadlines = self._book.next_deadline, self._replays.next_deadline
        return min((it for it in deadlines if it is not None), default=math.inf)

    # --- requests of the program

    def check_room(self) -> None:
        """Raise SignallingError if too many requests wait already."""
        if self._book.is_full:
            raise SignallingError("too many requests wait for an answer: nothing was sent")

    def check_size(self, payload: Raw) -> None:
        """Raise PayloadTooLargeError if the payload exceeds what the server takes."""
        size = len(memoryview(payload))
        if size > self.max_message_size:
            raise PayloadTooLargeError(size, self.max_message_size)

    def subscribe(self, channel: str, include_sender_metadata: bool, now: float) -> tuple[str, Effects]:
        """Write a subscribe that the program requested. A replay is cancelled when it succeeds."""
        request_id = self._book.next_id()
        return request_id, [self._write_subscribe(channel, include_sender_metadata, request_id, now, "call")]

    def unsubscribe(self, channel: str, now: float) -> tuple[str, Effects]:
        """Write an unsubscribe."""
        request_id = self._book.next_id()
        self._book.enter(request_id, now)
        return request_id, [Transmit(frames.encode(frames.Unsubscribe(channel, request_id)))]

    def publish(self, channel: str, payload: Raw, now: float, *, queue: bool) -> tuple[str, Effects]:
        """Write or queue a publication."""
        request_id = self._book.next_id()
        frame = frames.Publish(channel, payload, request_id)
        return request_id, self._write(frame, request_id, payload, now, queue)

    def send(self, to_peer_id: str, payload: Raw, now: float, *, queue: bool) -> tuple[str, Effects]:
        """Write or queue a direct message."""
        request_id = self._book.next_id()
        frame = frames.Send(to_peer_id, payload, request_id)
        return request_id, self._write(frame, request_id, payload, now, queue)

    def abandon(self, request_id: str) -> None:
        """Drop the caller of a request. A refusal that arrives later becomes a `ServerError` event."""
        self._book.abandon(request_id)

    def forget(self, channel: str) -> None:
        """Stop restoring the subscription to this channel after a reconnect."""
        self._subscriptions.forget(channel)
        self._positions.forget(channel)
        self._replays.cancel(channel)

    # --- refreshes, which the session decides on

    def refresh(self, token: str, now: float) -> tuple[str, Effects] | None:
        """Write a refresh. None if the token is too large for a frame."""
        request_id = self._book.next_id()
        encoded = frames.encode(frames.Refresh(token, request_id))
        if len(encoded) > self.max_message_size:
            return None
        self._book.enter(request_id, now, "refresh")
        return request_id, [Transmit(encoded)]

    def take_request(self, request_id: str | None) -> bool:
        """Remove an answered request. Return False if it is unknown."""
        return self._book.answer(request_id) is not None

    # --- answers of the server

    def acknowledge(self, frame: frames.Ack) -> Effects:
        """Settle the request that an ack answers."""
        pending = self._book.answer(frame.request_id)
        if pending is None:
            return []
        self._keep(pending)
        settled: Effects = [Settle(pending.request_id)] if pending.purpose == "call" else []
        channel = pending.channel
        if channel is None or self._subscriptions.wanted(channel) is None:
            return settled
        position = read_position(frame)
        if self._positions.acknowledged(channel, position, was_asked=pending.is_resumed):
            settled.append(Emit(MessagesLost(channel, None)))
        self._replays.cancel(channel)
        if pending.purpose == "replay":
            settled.insert(0, Emit(Resubscribed(channel)))
        return settled

    def lost(self, frame: frames.LostFrame) -> Effects:
        """Report messages that the server cannot deliver. Those of channels that were left are of no interest."""
        if frame.channel is not None and self._subscriptions.wanted(frame.channel) is None:
            return []
        is_told = self._positions.lost(frame.channel, ReadPosition(frame.epoch, frame.offset), frame.count)
        return [Emit(MessagesLost(frame.channel, frame.count))] if is_told else []

    def refuse(self, frame: frames.ErrorFrame, now: float, chance: float) -> Effects:
        """Settle the request that an error answers. An error for no known request becomes an event."""
        pending = self._book.answer(frame.request_id)
        if pending is None:
            return [Emit(ServerError(frame.code, frame.message, frame.request_id))]
        error = ServerRequestError(frame.code, frame.message, frame.request_id)
        if pending.purpose == "replay" and pending.channel is not None:
            self._keep(pending)  # the program still wants the channel
            if frame.code in PASSING_CODES:
                return self._postpone_replay(pending.channel, error, now, chance)
            return self._fail_replay(pending.channel, error, now)
        if pending.channel is not None:
            self._subscriptions.refuse(pending.channel, pending.request_id)
        if pending.purpose == "call":
            return [Settle(pending.request_id, error)]
        return [Emit(ServerError(frame.code, frame.message, frame.request_id))]

    # --- time

    def late(self, now: float) -> list[tuple[Pending, AckTimeoutError]]:
        """Remove the requests that timed out, and return each with its error."""
        return [(it, AckTimeoutError(it.request_id, self._book.timeout)) for it in self._book.expire(now)]

    def expire(self, pending: Pending, error: AckTimeoutError, now: float) -> Effects:
        """Fail a request that timed out."""
        self._keep(pending)
        if pending.purpose == "replay" and pending.channel is not None:
            return self._fail_replay(pending.channel, error, now)
        return [Settle(pending.request_id, error)] if pending.purpose == "call" else []

    def replay_due(self, now: float) -> Effects:
        """Retry the replays that are due."""
        return self._replay(self._replays.take_due(now), now)

    # --- connecting and disconnecting

    def replay_all(self, now: float) -> Effects:
        """Subscribe again to every remembered channel."""
        return self._replay(self.channels, now)

    def flush(self, now: float) -> Effects:
        """Write the queued requests."""
        effects: Effects = []
        for request_id, queued in self._book.drain_queue().items():
            if queued.payload_size > self.max_message_size:
                effects.append(Settle(request_id, PayloadTooLargeError(queued.payload_size, self.max_message_size)))
                continue
            self._book.enter(request_id, now, size=queued.payload_size)
            effects.append(Transmit(queued.frame))
        return effects

    def lose_connection(self) -> None:
        """Drop the replays of a connection that has ended."""
        self._replays.clear()
        self._positions.connection_lost()

    def settle_written(self, text: str, *, too_big: bool = False) -> Effects:
        """Fail the requests that were written and not answered. The server may have processed them.

        If the server closed for a frame that is `too_big`, the request with the largest payload is failed for its size:
        repeated, it would end the next connection as well, since the server accepts less than its welcome says.
        """
        drained = self._book.drain()
        largest = max((it.size for it in drained), default=0) if too_big else 0
        effects: Effects = []
        for pending in drained:
            self._keep(pending)
            if pending.purpose == "call":
                is_it = 0 < pending.size == largest
                error = PayloadTooLargeError(largest, largest - 1) if is_it else DisconnectedError(text)
                effects.append(Settle(pending.request_id, error))
        return effects

    def settle_queued(self, text: str) -> Effects:
        """Fail the requests that wait for the connection."""
        return [Settle(request_id, DisconnectedError(text)) for request_id in self._book.drain_queue()]

    def forget_all(self) -> None:
        """Forget every channel, and how far it was read."""
        self._subscriptions.clear()
        self._positions.clear()

    # --- internals

    def _write(self, frame: frames.ClientFrame, request_id: str, payload: Raw, now: float, queue: bool) -> Effects:
        encoded, size = frames.encode(frame), len(memoryview(payload))
        if queue:
            self._book.queue(request_id, encoded, size)
            return []
        self._book.enter(request_id, now, size=size)
        return [Transmit(encoded)]

    def _write_subscribe(self, channel: str, include: bool, request_id: str, now: float, purpose: Purpose) -> Transmit:
        self._subscriptions.ask(channel, include, request_id)
        since = self._positions.since(channel)
        self._book.enter(request_id, now, purpose, channel, is_resumed=since is not None)
        epoch, offset = since if since is not None else (None, None)
        frame = frames.Subscribe(channel, include, request_id, not is_pattern(channel), epoch, offset)
        return Transmit(frames.encode(frame))

    def _replay(self, channels: list[str] | tuple[str, ...], now: float) -> Effects:
        effects: Effects = []
        for channel in channels:
            include = self._subscriptions.wanted(channel)
            if include is not None:
                effects.append(self._write_subscribe(channel, include, self._book.next_id(), now, "replay"))
        return effects

    def _postpone_replay(self, channel: str, error: Exception, now: float, chance: float) -> Effects:
        if self._subscriptions.wanted(channel) is None:
            return []  # unsubscribed meanwhile
        self._replays.postpone(channel, now, chance)
        return [Log("debug", "subscription not restored yet", {"channel": channel, "error": str(error)})]

    def _fail_replay(self, channel: str, error: Exception, now: float) -> Effects:
        if self._subscriptions.wanted(channel) is None:
            return []  # unsubscribed meanwhile
        if self._replays.fail(channel, now):
            return [Log("debug", "replay of a subscription failed, it will be tried again", {"channel": channel})]
        return [
            Log("warning", "subscription lost", {"channel": channel, "error": str(error)}),
            Emit(SubscriptionLost(channel, error)),
        ]

    def _keep(self, pending: Pending) -> None:
        """Remember a subscription that was acknowledged, or that may have reached the server."""
        if pending.channel is not None:
            self._subscriptions.keep(pending.channel, pending.request_id)


def read_position(frame: frames.Welcome | frames.Ack) -> ReadPosition | None:
    """Return the position that a frame names. None from servers that keep no messages."""
    if frame.epoch is None or frame.offset is None:
        return None
    return ReadPosition(frame.epoch, frame.offset)
