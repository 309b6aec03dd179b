"""The calling end: ids, deadlines, answers, and what becomes of calls when their channel or connection ends.

States of a call, and what each input does in them:

    input \\ state     QUEUED                 SENT                               gone
    sent              -> SENT, a             -                                  ignored
                      notification: settle
    answer            settle                 settle                             dropped, counted
    deadline          settle EXPIRED         settle EXPIRED, cancel remotely    -
    cancel            forget                 forget, cancel remotely            ignored
    channel closed    settle UNSENT          settle LOST                        -
    channel replaced  send on the new one    send again if the remote may       -
                                             deduplicate, and only once;
                                             else settle LOST
    remote left       settle LOST            settle LOST                        -

Invariants:
- Every call that was started is settled exactly once, unless it is cancelled: nothing hangs, nothing leaks.
- Ids rise and are never reused, so the remote can tell a repeated request from a new one.
- An answer settles the call with its id and no other. One without a call changes nothing.
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
"""Calls that may wait for an answer at once. A remote accepts 320 of them; more are a sign of a runaway program."""

DEFAULT_TIMEOUT = 15.0
"""Call timeout, in seconds. The remote is told about any other."""

MAX_TIMEOUT = 86_400.0
"""Maximum call timeout, in seconds (one day)."""

MAX_SENDS = 2
"""How often a request is sent: once, and once more after its connection was replaced."""

_METHOD_ERRORS = (-32601, -32602)
"""Codes that blame the method or its parameters, so the id of the request was readable. Such an error without an id
answers a notification, as some implementations do."""


class Loss(Enum):
    """Why a call has no answer."""

    EXPIRED = auto()
    UNSENT = auto()
    LOST = auto()


@dataclass(frozen=True, slots=True)
class SettleCall:
    """Hand the outcome of a call to the program. None: a notification was sent."""

    id: int
    outcome: Success | ErrorObject | BadReply | Loss | None


@dataclass(frozen=True, slots=True)
class CancelCall:
    """Cancel a call at the remote, on the channel that carried the request."""

    id: int
    channel: int


@dataclass(frozen=True, slots=True)
class TransmitCalls:
    """Send the requests of these calls again, in this order, before any new one."""

    ids: tuple[int, ...]


Effect = SettleCall | CancelCall | TransmitCalls


class TooManyCallsError(Exception):
    """`MAX_PENDING` calls wait already."""


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
        """Return how many calls are pending."""
        return len(self._calls)

    @property
    def next_deadline(self) -> float | None:
        """When `expire_calls` is due next; None if nothing is pending."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def start_call(self, deadline: float, *, wants_answer: bool = True) -> int:
        """Start a call, or a notification, and return its id.

        Raises:
            TooManyCallsError: `MAX_PENDING` calls wait already.
        """
        if len(self._calls) >= MAX_PENDING:
            raise TooManyCallsError
        self._last_id += 1
        self._calls[self._last_id] = _Call(self._last_id, deadline, wants_answer)
        heapq.heappush(self._deadlines, (deadline, self._last_id))
        if len(self._deadlines) > 2 * len(self._calls) + 64:  # answered calls with late deadlines would pile up
            self._deadlines = [(call.deadline, call.id) for call in self._calls.values()]
            heapq.heapify(self._deadlines)
        return self._last_id

    def request_queued(self, call_id: int, channel: int) -> None:
        """Assign a request to the channel that it waits to be sent on."""
        call = self._calls.get(call_id)
        if call is not None:
            call.channel, call.sent = channel, False

    def request_sent(self, call_id: int) -> list[Effect]:
        """Handle a request having been sent whole. That settles a notification."""
        call = self._calls.get(call_id)
        if call is None or call.sent:
            return []
        call.sent = True
        call.sends += 1
        if call.wants_answer:
            return []
        del self._calls[call_id]
        return [SettleCall(call_id, None)]

    def answer_received(self, answer: Success | Failure | BadReply, channel: int) -> list[Effect]:
        """Settle the call that an answer belongs to. Without an id it must be the only call that it can belong to."""
        call_id = self._only_candidate(answer, channel) if answer.id is None else answer.id
        call = self._calls.get(call_id) if isinstance(call_id, int) else None
        if call is None or not call.wants_answer:
            self.dropped_answers += 1
            return []
        call_id = call.id
        del self._calls[call_id]
        return [SettleCall(call_id, answer.error if isinstance(answer, Failure) else answer)]

    def fail_call(self, call_id: int, error: ErrorObject) -> list[Effect]:
        """Settle a call with an error of this end."""
        return [] if self._calls.pop(call_id, None) is None else [SettleCall(call_id, error)]

    def cancel_call(self, call_id: int) -> list[Effect]:
        """Forget a call whose caller has stopped waiting."""
        call = self._calls.pop(call_id, None)
        return [] if call is None or call.channel is None else [CancelCall(call_id, call.channel)]

    def expire_calls(self, now: float) -> list[Effect]:
        """Settle the calls whose deadline has passed, and cancel them at the remote."""
        effects: list[Effect] = []
        while (deadline := self.next_deadline) is not None and deadline <= now:
            call_id = heapq.heappop(self._deadlines)[1]
            effects += self.cancel_call(call_id)
            effects.append(SettleCall(call_id, Loss.EXPIRED))
        return effects

    def channel_closed(self, channel: int) -> list[Effect]:
        """Settle the calls of a channel that ended without a successor."""
        return self._lose(self._on_channel(channel))

    def channel_replaced(self, channel: int, *, deduplicates: bool) -> list[Effect]:
        """Move the calls of a channel to its successor.

        `deduplicates` is whether the remote runs a request once, even if it arrives again. While that is unknown, pass
        True, and hold the calls for which `was_sent` returns True until it is known.
        """
        again: list[_Call] = []
        lost: list[_Call] = []
        for call in self._on_channel(channel):
            may_go = not call.sends or (deduplicates and (not call.sent or call.sends < MAX_SENDS))
            (again if may_go else lost).append(call)
        effects: list[Effect] = self._lose(lost)
        return [*effects, TransmitCalls(tuple(call.id for call in again))] if again else effects

    def remote_left(self) -> list[Effect]:
        """Settle every call: the remote has left."""
        effects: list[Effect] = [SettleCall(call_id, Loss.LOST) for call_id in self._calls]
        self._calls.clear()
        return effects

    def was_sent(self, call_id: int) -> bool:
        """Return whether the remote may have received the request, on this channel or another."""
        call = self._calls.get(call_id)
        return call is not None and call.sends > 0

    def calls_on(self, channel: int) -> list[int]:
        """Return the ids of the calls of a channel, oldest first."""
        return [call.id for call in self._on_channel(channel)]

    def _on_channel(self, channel: int) -> list[_Call]:
        return [call for call in self._calls.values() if call.channel == channel]

    def _lose(self, calls: Iterable[_Call]) -> list[Effect]:
        effects: list[Effect] = []
        for call in list(calls):
            del self._calls[call.id]
            effects.append(SettleCall(call.id, Loss.LOST if call.sends else Loss.UNSENT))
        return effects

    def _only_candidate(self, answer: Success | Failure | BadReply, channel: int) -> int | None:
        """Return the only call that an answer without an id can belong to, or None."""
        if isinstance(answer, Failure) and answer.error.code in _METHOD_ERRORS:
            return None
        sent = (call.id for call in self._calls.values() if call.channel == channel and call.sent)
        first, *others = (*islice(sent, 2), None)  # a remote may send many of these while many calls wait
        return None if any(others) else first
