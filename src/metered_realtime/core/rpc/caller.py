"""Calls that this end makes: ids, deadlines, answers, and what becomes of them when the connection goes.

States of a call, and what each input does in them:

    input \\ state     QUEUED                 SENT                               gone
    sent              -> SENT, a             -                                  ignored
                      notification: settle
    answer            settle                 settle                             dropped, counted
    deadline          settle EXPIRED         settle EXPIRED, cancel there       -
    cancel            forget                 forget, cancel there               ignored
    closed            settle UNSENT          settle LOST                        -
    replaced          send on the new one    send again if the other end may    -
                                             remember ids, and only once;
                                             else settle LOST
    end               settle LOST            settle LOST                        -

Invariants:
- Every call that was started is settled exactly once, unless its caller cancels it: nothing hangs, nothing leaks.
- Ids rise and are never used twice. The other end may therefore tell a request that comes again from a new one.
- An answer settles the call of its id and no other. One that belongs to nobody changes nothing.
- Nothing is sent more than twice.
- A notification is a call that is settled when it has been sent: it has a deadline and waits for connections like one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import islice

from .messages import BadReply, ErrorObject, Failure, Success

MAX_PENDING = 16_384
"""Calls that may wait for an answer at once. The other end takes 320 of them; more are a program that runs away."""

DEFAULT_TIMEOUT = 15.0
"""Seconds. A call with another timeout tells the other end."""

MAX_TIMEOUT = 86_400.0
"""Seconds. A call that takes longer than a day is none."""

MAX_SENDS = 2
"""How often a request goes out: once, and once more when its connection was replaced."""


_OF_READABLE = (-32601, -32602)
"""Errors, of the method or its parameters, of a request that could be read, id and all. Without an id they answer a
notification, which some implementations do."""


class Loss(Enum):
    """Why a call has no answer."""

    EXPIRED = auto()
    UNSENT = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class SettleCall:
    """Tell the program what became of a call; None: a notification was sent."""

    id: int
    outcome: Success | ErrorObject | BadReply | Loss | None


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Tell the other end, on the channel that carried the request, that nobody waits for it any more."""

    id: int
    channel: int


@dataclass(frozen=True, slots=True)
class TransmitCalls:
    """Send the requests of these calls again, in this order, before any new one."""

    ids: tuple[int, ...]


Effect = SettleCall | CancelCall | TransmitCalls


class TooManyCallsError(Exception):
    """So many calls wait that one more is refused."""


@dataclass(slots=True)
class _Call:
    id: int
    deadline: float
    wants_answer: bool = True
    channel: int | None = None
    sends: int = 0
    sent: bool = False


@dataclass(slots=True)
class Caller:
    """The calls of one end to another, over all their channels. The shell numbers the channels."""

    dropped_answers: int = 0
    _calls: dict[int, _Call] = field(default_factory=dict)
    _deadlines: list[tuple[float, int]] = field(default_factory=list)
    _last_id: int = 0

    def __len__(self) -> int:
        """How many calls wait for an answer."""
        return len(self._calls)

    @property
    def next_deadline(self) -> float | None:
        """When `expire` wants to be called."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def start(self, deadline: float, *, wants_answer: bool = True) -> int:
        """Enter a call, or a notification, and return its id.

        Raises:
            TooManyCallsError: `MAX_PENDING` wait already.
        """
        if len(self._calls) >= MAX_PENDING:
            raise TooManyCallsError
        self._last_id += 1
        self._calls[self._last_id] = _Call(self._last_id, deadline, wants_answer)
        heapq.heappush(self._deadlines, (deadline, self._last_id))
        if len(self._deadlines) > 2 * len(self._calls) + 64:  # answered ones with late deadlines would pile up
            self._deadlines = [(call.deadline, call.id) for call in self._calls.values()]
            heapq.heapify(self._deadlines)
        return self._last_id

    def queued(self, call_id: int, channel: int) -> None:
        """Note that the request waits to be sent on a channel."""
        call = self._calls.get(call_id)
        if call is not None:
            call.channel, call.sent = channel, False

    def sent(self, call_id: int) -> list[Effect]:
        """Note that the request was handed over whole. A notification is settled by that."""
        call = self._calls.get(call_id)
        if call is None or call.sent:
            return []
        call.sent = True
        call.sends += 1
        if call.wants_answer:
            return []
        del self._calls[call_id]
        return [SettleCall(call_id, None)]

    def answered(self, answer: Success | Failure | BadReply, channel: int) -> list[Effect]:
        """Take an answer. One without an id settles a call only if it can be meant for no other."""
        call_id = self._meant(answer, channel) if answer.id is None else answer.id
        call = self._calls.get(call_id) if isinstance(call_id, int) else None
        if call is None or not call.wants_answer:
            self.dropped_answers += 1
            return []
        call_id = call.id
        del self._calls[call_id]
        return [SettleCall(call_id, answer.error if isinstance(answer, Failure) else answer)]

    def fail(self, call_id: int, error: ErrorObject) -> list[Effect]:
        """SettleCall a call with an error of this end."""
        return [] if self._calls.pop(call_id, None) is None else [SettleCall(call_id, error)]

    def cancel(self, call_id: int) -> list[Effect]:
        """Forget a call that nobody waits for any more."""
        call = self._calls.pop(call_id, None)
        return [] if call is None or call.channel is None else [CancelCall(call_id, call.channel)]

    def expire(self, now: float) -> list[Effect]:
        """SettleCall the calls whose time is over."""
        effects: list[Effect] = []
        while (deadline := self.next_deadline) is not None and deadline <= now:
            call_id = heapq.heappop(self._deadlines)[1]
            effects += self.cancel(call_id)
            effects.append(SettleCall(call_id, Loss.EXPIRED))
        return effects

    def closed(self, channel: int) -> list[Effect]:
        """SettleCall the calls of a channel that ended by itself: nothing of it will come back."""
        return self._lose(self._of(channel))

    def replaced(self, channel: int, *, remembers: bool) -> list[Effect]:
        """Bring the calls of a channel that is replaced by another one to the new one.

        `remembers` tells whether the other end knows a request that it has seen by its id, and runs it once. If that
        is not known yet, say so, and hold those that `was_sent` tells of until it is.
        """
        again: list[_Call] = []
        lost: list[_Call] = []
        for call in self._of(channel):
            may_go = not call.sends or (remembers and (not call.sent or call.sends < MAX_SENDS))
            (again if may_go else lost).append(call)
        effects: list[Effect] = self._lose(lost)
        return [*effects, TransmitCalls(tuple(call.id for call in again))] if again else effects

    def end(self) -> list[Effect]:
        """SettleCall everything: the other end is gone."""
        effects: list[Effect] = [SettleCall(call_id, Loss.LOST) for call_id in self._calls]
        self._calls.clear()
        return effects

    def was_sent(self, call_id: int) -> bool:
        """Tell whether the other end may have seen the request, on this channel or another."""
        call = self._calls.get(call_id)
        return call is not None and call.sends > 0

    def of(self, channel: int) -> list[int]:
        """Return the calls of a channel, oldest first."""
        return [call.id for call in self._of(channel)]

    def _of(self, channel: int) -> list[_Call]:
        return [call for call in self._calls.values() if call.channel == channel]

    def _lose(self, calls: Iterable[_Call]) -> list[Effect]:
        effects: list[Effect] = []
        for call in list(calls):
            del self._calls[call.id]
            effects.append(SettleCall(call.id, Loss.LOST if call.sends else Loss.UNSENT))
        return effects

    def _meant(self, answer: Success | Failure | BadReply, channel: int) -> int | None:
        """Return the only call that an answer without an id can be for."""
        if isinstance(answer, Failure) and answer.error.code in _OF_READABLE:
            return None
        sent = (call.id for call in self._calls.values() if call.channel == channel and call.sent)
        first, *others = (*islice(sent, 2), None)  # a remote may send many of these while many calls wait
        return None if any(others) else first
