"""Calls that the other end makes: which handlers run, which wait, which are refused, and which answer goes where.

States of a request:

    input \\ state     QUEUED                  RUNNING                     ANSWERED
    a place is free   run -> RUNNING          -                           -
    answered          -                       answer -> ANSWERED          ignored
    deadline          refuse -> ANSWERED      stop, refuse -> ANSWERED    let go of the answer
    cancelled         refuse -> ANSWERED      stop, refuse -> ANSWERED    ignored
    comes again       goes on                 goes on                     the same answer again
    channel lost         goes on, or forget      goes on, or stop, forget    kept, or forget

Invariants:
- At most `MAX_RUNNING` handlers run and `MAX_QUEUED` requests wait, over all channels, and those without
  an answer hold at most `MAX_HELD_BYTES`. One more is refused at once.
- A request is answered exactly once on a channel, a notification never. A batch is answered whole, in its order.
- An instance is one run of a calling peer, which gives its id on each of its channels. Within one, an integer id names
  one request for ever: it runs once, and when it comes again it gets the answer that it had. Callers without an
  instance id may use their ids again.
- A handler keeps its place until it has ended, also if it was told to stop: what ignores that cannot pile up.
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
"""Handlers at once for one remote. They share one thread; more would only all be slower."""

MAX_QUEUED = 256
"""Requests of one remote that wait for a handler to end. With 50 ms each the last one waits a fifth of a second."""

MAX_HELD_BYTES = 128 * 1024 * 1024
"""Of memory that requests of one remote take that run or wait, 16 of the largest. One is taken whatever its size."""

MAX_INSTANCES = 4
"""Instances of one remote. It needs one for each format; the oldest one without a channel goes."""

MAX_REMEMBERED = 4_096
"""Ids of an instance that are known to have run: many times what can be under way when a connection is replaced."""

MAX_KEPT = 1_024
MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Answers that are kept for the case that they were lost with a channel, until their deadline."""

MAX_ANNOUNCED = MAX_RUNNING + MAX_QUEUED
"""Timeouts that were announced for requests that have not come. A request comes right behind."""

FOREIGN_TIMEOUT = 60.0
"""Seconds for requests of a caller without an instance, which may not know how to announce how long it waits."""


class Refusal(Enum):
    """Why a request is answered without its handler."""

    BAD_REQUEST = auto()
    BUSY = auto()
    EXPIRED = auto()
    CANCELLED = auto()
    ANSWER_LOST = auto()


@dataclass(frozen=True, slots=True)
class Run:
    """Run the handler, report `answered` unless it is a notification, and `ended` when its place is free.

    Its instance has no channel at the moment if `channel` is None.
    """

    ticket: int
    format: str
    channel: int | None
    item: Request | Notification
    timeout: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Cancel the handler: nobody waits for it any more."""

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
    """Send answers on a channel: one, or those of a batch. `ticket` is set for one that is sent for the first time."""

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
    """Requests without an answer by id, and ticket: one without a name may use an id again."""
    has_served: bool = False


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
        """The channel on which it came last, or another one of its instance."""
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
        """How many requests and notifications wait for one to end."""
        return len(self._queue)

    @property
    def next_deadline(self) -> float | None:
        """When `expire` wants to be called."""
        return self._deadlines[0][0] if self._deadlines else None

    # --- channels and instances

    def opened(self, channel: int, format: str) -> None:
        """Note a new channel, of a caller that has not said who it is."""
        self._channels[channel] = _CallerInstance(format, channels={channel: None})

    def identified(self, channel: int, instance_id: str) -> list[Effect]:
        """Note that a channel belongs to an instance, maybe one that had another channel before.

        Ignored if requests came on it already: they had no instance.
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

    def lost(self, channel: int) -> list[Effect]:
        """Handle the end of a channel. Without an instance its requests have nowhere to go: their handlers stop."""
        instance = self._channels.pop(channel, None)
        if instance is None:
            return []
        instance.channels.pop(channel, None)
        return [] if instance.id is not None else self._abandon(instance)

    def end(self) -> list[Effect]:
        """Note that the caller is gone: every handler stops, nothing is kept."""
        effects: list[Effect] = [Stop(ticket) for ticket in self._running if ticket in self._live]
        for table in (self._channels, self._instances, self._live, self._queue, self._deadlines, self._kept):
            table.clear()
        self._kept_bytes = self._held_bytes = 0
        return effects

    # --- what the caller sends

    def receive(self, channel: int, inbound: Inbound, now: float, size: int = 0) -> list[Effect]:
        """Take the requests and notifications of one message that takes `size` bytes of memory.

        Answers in it are not for this end.
        """
        instance = self._channels[channel]
        size //= len(inbound.items)
        if inbound.is_batch and len(inbound.items) > MAX_BATCH:
            inbound = Inbound((BadRequest(None, -32600),))
        batch = _Batch(channel) if inbound.is_batch else None
        effects: list[Effect] = []
        for item in inbound.items:
            match item:
                case Request() | BadRequest():
                    effects += self._receive_request(instance, channel, item, batch, now, size)
                case Notification(method) if method in (CANCEL, TIMEOUT, HELLO):
                    effects += self._receive_control(instance, item)
                case Notification():
                    effects += self._admit(self._enter(instance, channel, item, None, now, size))
        return effects

    def _receive_request(
        self,
        instance: _CallerInstance,
        channel: int,
        item: Request | BadRequest,
        batch: _Batch | None,
        now: float,
        size: int,
    ) -> list[Effect]:
        instance.has_served = True
        if isinstance(item, Request) and instance.id is not None and isinstance(item.id, int):
            known = instance.by_id.get(item.id)
            if known is not None:
                return self._repeat(known, channel, now)
        served = self._enter(instance, channel, item, batch, now, size)
        if isinstance(item, BadRequest):
            return [self._refuse(served, Refusal.BAD_REQUEST, item.code)]
        return self._admit(served)

    def _receive_control(self, instance: _CallerInstance, item: Notification) -> list[Effect]:
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
        instance.announced[request_id] = min(ms, MAX_TIMEOUT * 1_000) / 1_000  # integers may be beyond every float
        if len(instance.announced) > MAX_ANNOUNCED:
            del instance.announced[next(iter(instance.announced))]

    def _enter(
        self,
        instance: _CallerInstance,
        channel: int,
        item: Request | Notification | BadRequest,
        batch: _Batch | None,
        now: float,
        size: int = 0,
    ) -> _Served:
        usual = FOREIGN_TIMEOUT if instance.id is None else DEFAULT_TIMEOUT
        request_id = None if isinstance(item, Notification) else item.id
        timeout = usual if request_id is None else instance.announced.pop(request_id, usual)
        self._last_ticket += 1
        served = _Served(self._last_ticket, item, instance, channel, timeout, now + timeout, size, batch)
        self._live[served.ticket] = served
        instance.live.setdefault(request_id, {})[served.ticket] = served
        self._held_bytes += size
        if batch is not None:
            batch.answers[served.ticket] = None
        return served

    def _admit(self, served: _Served) -> list[Effect]:
        if not self._has_room(served):
            if served.wants_answer:
                return [self._refuse(served, Refusal.BUSY)]
            self._take(served.ticket)
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

    def _take(self, ticket: int) -> _Served | None:
        """Return a request that has no answer yet, and hold it no more."""
        served = self._live.pop(ticket, None)
        if served is not None:
            self._held_bytes -= served.size
            same = served.instance.live[served.id]
            del same[ticket]
            if not same:
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
            effects.append(
                Run(served.ticket, served.instance.format, served.current_channel, served.item, served.timeout)
            )
        return effects

    # --- what becomes of it

    def answered(self, ticket: int, answer: bytes) -> list[Effect]:
        """Take the answer of a request, encoded. Ignored if it has one already."""
        served = self._take(ticket)
        if served is None or not served.wants_answer:
            return []
        served.state = _RequestState.ANSWERED
        if isinstance(served.item, Request):
            served.item = Request(served.item.id, served.item.method)  # what it asked for may be large
        self._keep(served, answer)
        if served.batch is None:
            return self._send(served, answer)
        served.batch.answers[ticket] = answer
        return self._send_batch(served) if served.batch.is_complete else []

    def ended(self, ticket: int) -> list[Effect]:
        """Note that a handler has ended and its place is free."""
        self._running.discard(ticket)
        self._take(ticket)
        return self._start_next()

    def expire(self, now: float) -> list[Effect]:
        """Answer the requests whose time is over, and let go of answers that nobody waits for any more."""
        effects: list[Effect] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            served = heapq.heappop(self._deadlines)[2]
            if served.ticket in self._live:
                effects += self._dismiss(served, Refusal.EXPIRED)
            else:
                self._let_go(served)
        return effects

    def _dismiss(self, served: _Served, reason: Refusal) -> list[Effect]:
        """Answer a request in the place of its handler, which stops or never starts."""
        effects: list[Effect] = []
        if served.state is _RequestState.RUNNING:
            effects.append(Stop(served.ticket))
        elif served in self._queue:
            self._queue.remove(served)
        if served.wants_answer:
            effects.append(self._refuse(served, reason))
        elif served.state is _RequestState.QUEUED:
            self._take(served.ticket)
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

    # --- requests that come again

    def _repeat(self, served: _Served, channel: int, now: float) -> list[Effect]:
        self.repeated_requests += 1
        served.channel = channel
        if served.batch is not None:  # from now on it is answered alone
            served.batch.answers.pop(served.ticket, None)
            served.batch = None
        if served.state is not _RequestState.ANSWERED:
            return []
        if served.answer is not None:
            return [Answer(channel, (served.answer,))]
        assert isinstance(served.item, Request)
        again = self._enter(served.instance, channel, served.item, None, now)
        return [self._refuse(again, Refusal.ANSWER_LOST)]

    def _remember(self, instance: _CallerInstance, request_id: int, served: _Served) -> None:
        instance.by_id[request_id] = served
        if len(instance.by_id) > MAX_REMEMBERED:
            oldest = next(iter(instance.by_id))
            forgotten = instance.by_id.pop(oldest)
            if forgotten.state is _RequestState.ANSWERED:
                self._let_go(forgotten)
            else:
                instance.by_id[oldest] = forgotten  # it is live, and there are few of those

    def _keep(self, served: _Served, answer: bytes) -> None:
        """Keep an answer for as long as its caller may ask for it again."""
        if not isinstance(served.id, int) or served.instance.by_id.get(served.id) is not served:
            return
        served.answer = answer
        self._kept.append(served)
        self._kept_bytes += len(answer)
        while len(self._kept) > MAX_KEPT or self._kept_bytes > MAX_KEPT_BYTES:
            self._let_go(self._kept.popleft())

    def _let_go(self, served: _Served) -> None:
        if served.answer is not None:
            self._kept_bytes -= len(served.answer)
            served.answer = None

    # --- instances that go

    def _make_room(self) -> list[Effect]:
        if len(self._instances) < MAX_INSTANCES:
            return []
        idle = next((key for key, instance in self._instances.items() if not instance.channels), None)
        oldest = idle if idle is not None else next(iter(self._instances))
        return self._abandon(self._instances.pop(oldest))

    def _abandon(self, instance: _CallerInstance) -> list[Effect]:
        """Forget what an instance asked for."""
        effects: list[Effect] = []
        for served in [it for it in self._live.values() if it.instance is instance]:
            if served.state is _RequestState.RUNNING:
                effects.append(Stop(served.ticket))
            elif served in self._queue:
                self._queue.remove(served)
            self._take(served.ticket)
        for served in instance.by_id.values():
            self._let_go(served)
        return effects
