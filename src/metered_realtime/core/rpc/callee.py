"""The called end: which handlers run, which requests wait or are refused, and where each answer goes.

States of a request:

    input \\ state     QUEUED                  RUNNING                     ANSWERED
    a place is free   run -> RUNNING          -                           -
    answered          -                       answer -> ANSWERED          ignored
    deadline          refuse -> ANSWERED      stop, refuse -> ANSWERED    drop the kept answer
    cancelled         refuse -> ANSWERED      stop, refuse -> ANSWERED    ignored
    repeated          continues               continues                   send the same answer again
    channel lost      continue, or forget     continue, or stop, forget   keep, or forget

Invariants:
- At most `MAX_RUNNING` handlers run and `MAX_QUEUED` requests wait, over all channels, and requests without an answer
  hold at most `MAX_HELD_BYTES`. Any further request is refused at once.
- A request is answered exactly once on a channel, a notification never. A batch is answered whole, in its order.
- An instance is one run of a calling peer, which gives its id on each of its channels. Within one, an integer id names
  one request for ever: it runs once, and a repeated one gets the same answer. Callers without an instance id may reuse
  request ids.
- A handler keeps its place until it has ended, even if it was told to stop: handlers that ignore that cannot pile up.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto

from .caller import DEFAULT_TIMEOUT, MAX_TIMEOUT
from .messages import (
    CANCEL,
    HELLO,
    MAX_BATCH,
    TIMEOUT,
    BadRequest,
    Inbound,
    Notification,
    Request,
    RequestId,
    argument,
    is_request_id,
)

MAX_RUNNING = 64
"""Handlers that run at once for one remote. They share one thread; more of them would only all be slower."""

MAX_QUEUED = 256
"""Requests of one remote that wait for a handler to end. At 50 ms each the last one waits a fifth of a second."""

MAX_HELD_BYTES = 128 * 1024 * 1024
"""Memory of one remote's requests that run or wait: 16 of the largest. A single one is accepted whatever its size."""

MAX_INSTANCES = 4
"""Instances of one remote. It needs one for each format; the oldest one without a channel is dropped."""

MAX_REMEMBERED = 4_096
"""Request ids of an instance that are known to have run: many times what is pending when a connection is replaced."""

MAX_KEPT = 1_024
MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Answers that are kept until their deadline, in case they were lost with their channel."""

MAX_ANNOUNCED = MAX_RUNNING + MAX_QUEUED
"""Timeouts that were announced for requests that have not arrived. The request is the next message."""

FOREIGN_TIMEOUT = 60.0
"""Timeout of requests from callers without an instance id, in seconds: they may not know how to announce one."""


class Refusal(Enum):
    """Why a request is answered without its handler."""

    BAD_REQUEST = auto()
    BUSY = auto()
    EXPIRED = auto()
    CANCELLED = auto()
    ANSWER_LOST = auto()


@dataclass(frozen=True, slots=True)
class Run:
    """Run the handler. Report `answered`, unless it is a notification, and `handler_ended`.

    `channel` is None if the instance has no channel at the moment.
    """

    ticket: int
    format: str
    channel: int | None
    item: Request | Notification
    timeout: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel the handler: its caller has stopped waiting."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """Report `answered` with this error. `code` is set for `BAD_REQUEST`."""

    ticket: int
    format: str
    id: RequestId | None
    reason: Refusal
    code: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """Send answers on a channel: a single one, or those of a batch. `ticket` is set when one is sent the first time."""

    channel: int
    answers: tuple[bytes, ...]
    ticket: int | None = None
    is_batch: bool = False


Effect = Run | Stop | Refuse | Answer


class _RequestState(Enum):
    QUEUED = auto()
    RUNNING = auto()
    ANSWERED = auto()


@dataclass(slots=True)
class _Batch:
    channel: int
    answers: dict[int, bytes | None] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return None not in self.answers.values()

    def parts(self) -> tuple[bytes, ...]:
        return tuple(part for part in self.answers.values() if part is not None)


@dataclass(slots=True)
class _CallerInstance:
    format: str
    id: str | None = None
    channels: dict[int, None] = field(default_factory=dict)
    by_id: dict[int, _Served] = field(default_factory=dict)
    announced: dict[RequestId, float] = field(default_factory=dict)
    live: dict[RequestId | None, dict[int, _Served]] = field(default_factory=dict)
    """Requests without an answer by id, then by ticket: a caller without an instance id may reuse request ids."""
    has_served: bool = False


@dataclass(slots=True)
class _Arrival:
    """What the items of one message have in common. `size` is the memory of one item, in bytes."""

    instance: _CallerInstance
    channel: int
    now: float
    size: int = 0
    batch: _Batch | None = None


@dataclass(slots=True, eq=False)
class _Served:
    ticket: int
    item: Request | Notification | BadRequest
    instance: _CallerInstance
    channel: int
    timeout: float
    deadline: float
    size: int = 0
    batch: _Batch | None = None
    state: _RequestState = _RequestState.QUEUED
    answer: bytes | None = None

    @property
    def id(self) -> RequestId | None:
        return None if isinstance(self.item, Notification) else self.item.id

    @property
    def wants_answer(self) -> bool:
        return not isinstance(self.item, Notification)

    @property
    def current_channel(self) -> int | None:
        """The channel on which it arrived last, or else another one of its instance."""
        channels = self.instance.channels
        return self.channel if self.channel in channels else next(iter(channels), None)


class Callee:
    """The requests of one remote, over all its channels. The shell numbers the channels."""

    def __init__(self) -> None:
        self.dropped_notifications = 0
        self.repeated_requests = 0
        self._last_ticket = 0
        self._channels: dict[int, _CallerInstance] = {}
        self._instances: dict[tuple[str, str], _CallerInstance] = {}
        self._live: dict[int, _Served] = {}  # queued, running, or refused and not answered yet
        self._held_bytes = 0
        self._running: set[int] = set()
        self._queue: deque[_Served] = deque()
        self._deadlines: list[tuple[float, int, _Served]] = []
        self._kept: deque[_Served] = deque()
        self._kept_bytes = 0

    @property
    def running(self) -> int:
        """How many handlers run."""
        return len(self._running)

    @property
    def queued(self) -> int:
        """How many requests and notifications wait for a handler to end."""
        return len(self._queue)

    @property
    def next_deadline(self) -> float | None:
        """When `expire_requests` is due next; None if there is nothing to expire."""
        return self._deadlines[0][0] if self._deadlines else None

    # --- channels and instances

    def channel_opened(self, channel: int, format: str) -> None:
        """Handle a new channel, whose caller has not given its instance id yet."""
        self._channels[channel] = _CallerInstance(format, channels={channel: None})

    def caller_identified(self, channel: int, instance_id: str) -> list[Effect]:
        """Add a channel to an instance, which may have had another channel before.

        Ignored if requests arrived on the channel already: they belong to no instance.
        """
        anonymous = self._channels[channel]
        if anonymous.id is not None or anonymous.has_served:
            return []
        key = anonymous.format, instance_id
        effects = self._make_room() if key not in self._instances else []
        instance = self._instances.setdefault(key, _CallerInstance(anonymous.format, instance_id))
        instance.channels[channel] = None
        self._channels[channel] = instance
        return effects

    def channel_lost(self, channel: int) -> list[Effect]:
        """Handle the end of a channel. Requests without an instance cannot be answered now: their handlers stop."""
        instance = self._channels.pop(channel, None)
        if instance is None:
            return []
        instance.channels.pop(channel, None)
        return [] if instance.id is not None else self._abandon(instance)

    def remote_left(self) -> list[Effect]:
        """Stop every handler and keep nothing: the remote has left."""
        effects: list[Effect] = [Stop(ticket) for ticket in self._running if ticket in self._live]
        for table in (self._channels, self._instances, self._live, self._queue, self._deadlines, self._kept):
            table.clear()
        self._kept_bytes = self._held_bytes = 0
        return effects

    # --- requests that arrive

    def receive_message(self, channel: int, inbound: Inbound, now: float, size: int = 0) -> list[Effect]:
        """Handle the requests and notifications of one message, which takes `size` bytes of memory.

        Answers are skipped, since they belong to `Caller`, and so is the hello, which belongs to the channel.
        """
        arrival = _Arrival(self._channels[channel], channel, now, size // len(inbound.items))
        if inbound.is_batch and len(inbound.items) > MAX_BATCH:
            inbound = Inbound((BadRequest(None, -32600),))
        if inbound.is_batch:
            arrival.batch = _Batch(channel)
        effects: list[Effect] = []
        for item in inbound.items:
            match item:
                case Request() | BadRequest():
                    effects += self._receive_request(item, arrival)
                case Notification(method) if method in (CANCEL, TIMEOUT):
                    effects += self._receive_control(item, arrival.instance)
                case Notification(method) if method != HELLO:
                    effects += self._admit(self._enter(item, arrival))
        return effects

    def _receive_request(self, item: Request | BadRequest, arrival: _Arrival) -> list[Effect]:
        instance = arrival.instance
        instance.has_served = True
        if isinstance(item, Request) and instance.id is not None and isinstance(item.id, int):
            known = instance.by_id.get(item.id)
            if known is not None:
                return self._repeat(known, arrival)
        served = self._enter(item, arrival)
        if isinstance(item, BadRequest):
            return [self._refuse(served, Refusal.BAD_REQUEST, item.code)]
        return self._admit(served)

    def _receive_control(self, item: Notification, instance: _CallerInstance) -> list[Effect]:
        request_id = argument(item.params, 0, "id")
        if not is_request_id(request_id):
            return []
        if item.method == TIMEOUT:
            self._announce(instance, request_id, argument(item.params, 1, "ms"))
            return []
        cancelled = tuple(instance.live.get(request_id, {}).values())
        return [effect for served in cancelled for effect in self._dismiss(served, Refusal.CANCELLED)]

    def _announce(self, instance: _CallerInstance, request_id: RequestId, ms: object) -> None:
        if isinstance(ms, bool) or not isinstance(ms, int | float) or not ms > 0:
            return
        instance.announced[request_id] = min(ms, MAX_TIMEOUT * 1_000) / 1_000  # an integer may exceed every float
        if len(instance.announced) > MAX_ANNOUNCED:
            del instance.announced[next(iter(instance.announced))]

    def _enter(self, item: Request | Notification | BadRequest, arrival: _Arrival) -> _Served:
        instance, batch = arrival.instance, None if isinstance(item, Notification) else arrival.batch
        default = FOREIGN_TIMEOUT if instance.id is None else DEFAULT_TIMEOUT
        request_id = None if isinstance(item, Notification) else item.id
        timeout = default if request_id is None else instance.announced.pop(request_id, default)
        self._last_ticket += 1
        ticket, deadline = self._last_ticket, arrival.now + timeout
        served = _Served(ticket, item, instance, arrival.channel, timeout, deadline, arrival.size, batch)
        self._live[ticket] = served
        instance.live.setdefault(request_id, {})[ticket] = served
        self._held_bytes += arrival.size
        if batch is not None:
            batch.answers[ticket] = None
        return served

    def _admit(self, served: _Served) -> list[Effect]:
        if not self._has_room(served):
            if served.wants_answer:
                return [self._refuse(served, Refusal.BUSY)]
            self._release(served.ticket)
            self.dropped_notifications += 1
            return []
        if served.instance.id is not None and isinstance(served.id, int):
            self._remember(served.instance, served.id, served)
        self._await_deadline(served)
        self._queue.append(served)
        return self._start_next()

    def _has_room(self, served: _Served) -> bool:
        has_place = len(self._running) < MAX_RUNNING or len(self._queue) < MAX_QUEUED
        return has_place and (self._held_bytes <= MAX_HELD_BYTES or self._held_bytes == served.size)

    def _release(self, ticket: int) -> _Served | None:
        """Remove and return a request that has no answer yet."""
        served = self._live.pop(ticket, None)
        if served is not None:
            self._held_bytes -= served.size
            same_id = served.instance.live[served.id]
            del same_id[ticket]
            if not same_id:
                del served.instance.live[served.id]
        return served

    def _await_deadline(self, served: _Served) -> None:
        heapq.heappush(self._deadlines, (served.deadline, served.ticket, served))
        if len(self._deadlines) > 2 * (len(self._live) + len(self._kept)) + 64:  # answered long before their deadline
            self._deadlines = [it for it in self._deadlines if it[1] in self._live or it[2].answer is not None]
            heapq.heapify(self._deadlines)

    def _start_next(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._queue and len(self._running) < MAX_RUNNING:
            served = self._queue.popleft()
            served.state = _RequestState.RUNNING
            self._running.add(served.ticket)
            assert not isinstance(served.item, BadRequest)
            format, channel = served.instance.format, served.current_channel
            effects.append(Run(served.ticket, format, channel, served.item, served.timeout))
        return effects

    # --- answers and deadlines

    def answered(self, ticket: int, answer: bytes) -> list[Effect]:
        """Send the encoded answer of a request. Ignored if it has an answer already."""
        served = self._release(ticket)
        if served is None or not served.wants_answer:
            return []
        served.state = _RequestState.ANSWERED
        if isinstance(served.item, Request):
            served.item = Request(served.item.id, served.item.method)  # its parameters may be large
        self._keep(served, answer)
        if served.batch is None:
            return self._send(served, answer)
        served.batch.answers[ticket] = answer
        return self._send_batch(served) if served.batch.is_complete else []

    def handler_ended(self, ticket: int) -> list[Effect]:
        """Free the place of a handler, and start the next one."""
        self._running.discard(ticket)
        self._release(ticket)
        return self._start_next()

    def expire_requests(self, now: float) -> list[Effect]:
        """Refuse the requests whose deadline has passed, and drop kept answers that have no caller any more."""
        effects: list[Effect] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            served = heapq.heappop(self._deadlines)[2]
            if served.ticket in self._live:
                effects += self._dismiss(served, Refusal.EXPIRED)
            else:
                self._drop_answer(served)
        return effects

    def _dismiss(self, served: _Served, reason: Refusal) -> list[Effect]:
        """Answer a request in place of its handler, which stops or never starts."""
        effects: list[Effect] = []
        if served.state is _RequestState.RUNNING:
            effects.append(Stop(served.ticket))
        elif served in self._queue:
            self._queue.remove(served)
        if served.wants_answer:
            effects.append(self._refuse(served, reason))
        elif served.state is _RequestState.QUEUED:
            self._release(served.ticket)
        return effects

    def _refuse(self, served: _Served, reason: Refusal, code: int = 0) -> Refuse:
        return Refuse(served.ticket, served.instance.format, served.id, reason, code)

    def _send(self, served: _Served, answer: bytes) -> list[Effect]:
        channel = served.current_channel
        return [] if channel is None else [Answer(channel, (answer,), served.ticket)]

    def _send_batch(self, served: _Served) -> list[Effect]:
        batch = served.batch
        assert batch is not None
        if batch.channel in served.instance.channels:
            return [Answer(batch.channel, batch.parts(), is_batch=True)]
        return [effect for part in batch.parts() for effect in self._send(served, part)]

    # --- repeated requests

    def _repeat(self, served: _Served, arrival: _Arrival) -> list[Effect]:
        self.repeated_requests += 1
        served.channel = arrival.channel
        if served.batch is not None:  # from now on it is answered alone
            served.batch.answers.pop(served.ticket, None)
            served.batch = None
        if served.state is not _RequestState.ANSWERED:
            return []
        if served.answer is not None:
            return [Answer(arrival.channel, (served.answer,))]
        assert isinstance(served.item, Request)
        again = self._enter(served.item, _Arrival(served.instance, arrival.channel, arrival.now))
        return [self._refuse(again, Refusal.ANSWER_LOST)]

    def _remember(self, instance: _CallerInstance, request_id: int, served: _Served) -> None:
        instance.by_id[request_id] = served
        if len(instance.by_id) > MAX_REMEMBERED:
            oldest = next(iter(instance.by_id))
            forgotten = instance.by_id.pop(oldest)
            if forgotten.state is _RequestState.ANSWERED:
                self._drop_answer(forgotten)
            else:
                instance.by_id[oldest] = forgotten  # it is live, and there are few of those

    def _keep(self, served: _Served, answer: bytes) -> None:
        """Keep an answer for as long as its caller may repeat the request."""
        if not isinstance(served.id, int) or served.instance.by_id.get(served.id) is not served:
            return
        served.answer = answer
        self._kept.append(served)
        self._kept_bytes += len(answer)
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            self._drop_answer(self._kept.popleft())

    def _drop_answer(self, served: _Served) -> None:
        if served.answer is not None:
            self._kept_bytes -= len(served.answer)
            served.answer = None

    # --- instances that end

    def _make_room(self) -> list[Effect]:
        if len(self._instances) < MAX_INSTANCES:
            return []
        idle = next((key for key, instance in self._instances.items() if not instance.channels), None)
        oldest = idle if idle is not None else next(iter(self._instances))
        return self._abandon(self._instances.pop(oldest))

    def _abandon(self, instance: _CallerInstance) -> list[Effect]:
        """Stop and forget the requests of an instance."""
        effects: list[Effect] = []
        for served in [it for it in self._live.values() if it.instance is instance]:
            if served.state is _RequestState.RUNNING:
                effects.append(Stop(served.ticket))
            elif served in self._queue:
                self._queue.remove(served)
            self._release(served.ticket)
        for served in instance.by_id.values():
            self._drop_answer(served)
        return effects
