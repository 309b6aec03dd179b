"""What a client asks of its server, and what becomes of it: requests, answers, and subscriptions that come back.

Whether there is a connection is the session's to know: it calls what fits. Every request that is entered here is
settled exactly once, unless its caller abandons it.
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
from ...events import Resubscribed, ServerError, SubscriptionLost
from ..wire import frames
from .effects import Effects, Emit, Log, Settle, Transmit
from .requests import Pending, Purpose, RequestBook
from .subscriptions import Replays, Subscriptions


class Exchange:
    """The requests and subscriptions of one client, over all its connections."""

    def __init__(self, *, ack_timeout: float, replay_delay: float, queue_limit: int) -> None:
        self._book = RequestBook(ack_timeout, queue_limit)
        self._subscriptions = Subscriptions()
        self._replays = Replays(replay_delay)
        self.max_message_size = frames.MAX_MESSAGE_SIZE

    def __len__(self) -> int:
        """How many requests wait for an answer or for the connection."""
        return len(self._book)

    @property
    def channels(self) -> tuple[str, ...]:
        """The remembered channels, oldest first."""
        return self._subscriptions.channels

    @property
    def can_queue(self) -> bool:
        """Tell whether one more request may wait for the connection."""
        return self._book.can_queue

    @property
    def next_deadline(self) -> float:
        """When a request has waited too long, or a replay is due. Infinity: not at all."""
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
        """Write a subscribe for the program."""
        self._replays.cancel(channel)
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
        """Note that the caller of a request is gone. A refusal that still comes is a `ServerError` event."""
        self._book.abandon(request_id)

    def forget(self, channel: str) -> None:
        """Subscribe to this channel no more after a reconnect."""
        self._subscriptions.forget(channel)
        self._replays.cancel(channel)

    # --- refreshes, which the session decides about

    def refresh(self, token: str, now: float) -> tuple[str, Effects] | None:
        """Write a refresh. None if the token is too large for a frame."""
        request_id = self._book.next_id()
        encoded = frames.encode(frames.Refresh(token, request_id))
        if len(encoded) > self.max_message_size:
            return None
        self._book.enter(request_id, now, "refresh")
        return request_id, [Transmit(encoded)]

    def take(self, request_id: str | None) -> bool:
        """Take out a request that was answered. False if it is unknown."""
        return self._book.answer(request_id) is not None

    # --- what the server answers

    def acknowledge(self, request_id: str) -> Effects:
        """Note an ack."""
        pending = self._book.answer(request_id)
        if pending is None:
            return []
        self._keep(pending)
        if pending.purpose == "replay" and pending.channel is not None:
            self._replays.cancel(pending.channel)
            wanted = self._subscriptions.wanted(pending.channel) is not None
            return [Emit(Resubscribed(pending.channel))] if wanted else []
        return [Settle(pending.request_id)] if pending.purpose == "call" else []

    def refuse(self, frame: frames.ErrorFrame, now: float) -> Effects:
        """Note an error. One that belongs to no request is an event."""
        pending = self._book.answer(frame.request_id)
        if pending is None:
            return [Emit(ServerError(frame.code, frame.message, frame.request_id))]
        error = ServerRequestError(frame.code, frame.message, frame.request_id)
        if pending.purpose == "replay" and pending.channel is not None:
            self._keep(pending)  # the program wants the channel, whatever the server says today
            return self._fail_replay(pending.channel, error, now)
        if pending.channel is not None:
            self._subscriptions.refuse(pending.channel, pending.request_id)
        if pending.purpose == "call":
            return [Settle(pending.request_id, error)]
        return [Emit(ServerError(frame.code, frame.message, frame.request_id))]

    # --- time

    def late(self, now: float) -> list[tuple[Pending, AckTimeoutError]]:
        """Take out the requests that waited too long, each with the error that says so."""
        return [(it, AckTimeoutError(it.request_id, self._book.timeout)) for it in self._book.expire(now)]

    def expire(self, pending: Pending, error: AckTimeoutError, now: float) -> Effects:
        """Give a late request up."""
        self._keep(pending)
        if pending.purpose == "replay" and pending.channel is not None:
            return self._fail_replay(pending.channel, error, now)
        return [Settle(pending.request_id, error)] if pending.purpose == "call" else []

    def replay_due(self, now: float) -> Effects:
        """Try again what could not be replayed."""
        return self._replay(self._replays.take_due(now), now)

    # --- connections that come and go

    def replay_all(self, now: float) -> Effects:
        """Subscribe to every remembered channel again."""
        return self._replay(self.channels, now)

    def flush(self, now: float) -> Effects:
        """Write what was queued."""
        effects: Effects = []
        for request_id, queued in self._book.drain_queue().items():
            if queued.payload_size > self.max_message_size:
                effects.append(Settle(request_id, PayloadTooLargeError(queued.payload_size, self.max_message_size)))
                continue
            self._book.enter(request_id, now, size=queued.payload_size)
            effects.append(Transmit(queued.frame))
        return effects

    def lose_connection(self) -> None:
        """Replay nothing more on a connection that is over."""
        self._replays.clear()

    def settle_written(self, text: str, *, too_big: bool = False) -> Effects:
        """Fail what was written and not answered. Nobody knows whether the server processed it.

        If a frame was `too_big` for the server, it was that of the largest payload, which would end the next connection
        as well: the server takes less than it says.
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
        """Fail what still waits for the connection."""
        return [Settle(request_id, DisconnectedError(text)) for request_id in self._book.drain_queue()]

    def forget_all(self) -> None:
        """Forget every channel."""
        self._subscriptions.clear()

    # --- inside

    def _write(self, frame: frames.ClientFrame, request_id: str, payload: Raw, now: float, queue: bool) -> Effects:
        encoded, size = frames.encode(frame), len(memoryview(payload))
        if queue:
            self._book.queue(request_id, encoded, size)
            return []
        self._book.enter(request_id, now, size=size)
        return [Transmit(encoded)]

    def _write_subscribe(self, channel: str, include: bool, request_id: str, now: float, purpose: Purpose) -> Transmit:
        self._subscriptions.ask(channel, include, request_id)
        self._book.enter(request_id, now, purpose, channel)
        return Transmit(frames.encode(frames.Subscribe(channel, include, request_id)))

    def _replay(self, channels: list[str] | tuple[str, ...], now: float) -> Effects:
        effects: Effects = []
        for channel in channels:
            include = self._subscriptions.wanted(channel)
            if include is not None:
                effects.append(self._write_subscribe(channel, include, self._book.next_id(), now, "replay"))
        return effects

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
        """Remember a subscription that was acknowledged, or that the server may have heard of."""
        if pending.channel is not None:
            self._subscriptions.keep(pending.channel, pending.request_id)
