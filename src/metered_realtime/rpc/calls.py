"""The calls that this end makes to one remote: encoded, sent, sent again, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..core.rpc import caller as core
from ..core.rpc.messages import CANCEL, TIMEOUT, BadReply, ErrorObject, Failure, Params, Success
from ..errors import MeteredRealtimeError
from .built_in import (
    RpcBusyError,
    RpcInvalidReplyError,
    RpcRecipientDisconnectedError,
    RpcRequestTooLargeError,
    RpcResponseTimeoutError,
    RpcSendError,
    RpcUnsupportedServerError,
    RpcUnsupportedVersionError,
)
from .codec import Codec, RpcFormat
from .errors import ErrorRegistry, RpcError, error_object
from .rpc_channel import Lane, Parcel

GREETING_PATIENCE = 2.0
"""Seconds for the other end to say what it can. It does so at once, or never."""

Outcome = Success | ErrorObject | BadReply | core.Loss | None
"""What became of a call; None for a notification that went out."""

NOT_CARRIED = error_object(RpcUnsupportedServerError())
"""What became of a call that the server refused to carry: this very object, as a remote's error may look the same."""

_LOSSES: dict[core.Loss, type[RpcError]] = {
    core.Loss.EXPIRED: RpcResponseTimeoutError,
    core.Loss.UNSENT: RpcSendError,
    core.Loss.LOST: RpcRecipientDisconnectedError,
}


@dataclass(frozen=True, slots=True)
class CallItem:
    """A call, or a notification."""

    method: str
    params: Params
    is_notification: bool = False


class LaneOwner(Protocol):
    """What is asked of the endpoint that has the lanes."""

    def lane(self, number: int) -> Lane | None: ...
    def lane_again(self, name: RpcFormat) -> Lane | None: ...
    def lane_failed(self, lane: Lane) -> None: ...
    def deadline_set(self) -> None: ...


@dataclass(slots=True)
class _Entry:
    """What goes out for an item, and what became of it."""

    call: int
    message: bytes
    outcome: asyncio.Future[Outcome]
    format: RpcFormat
    before: tuple[bytes, ...] = ()
    is_notification: bool = False
    is_posted: bool = False
    parcel: Parcel | None = None
    """What carries it alone. None as long as nothing does, and in a batch."""


@dataclass(slots=True)
class Calls:
    """Carries out the decisions of `core.rpc.caller.Caller`."""

    owner: LaneOwner
    caller: core.Caller = field(default_factory=core.Caller)
    _entries: dict[int, _Entry] = field(default_factory=dict)
    _waits: set[asyncio.Task[None]] = field(default_factory=set)

    async def make(
        self, lane: Lane, items: Sequence[CallItem], *, timeout: float, deadline: float, is_batch: bool
    ) -> list[Outcome]:
        """Send items and return what became of them, in order. Cancelling tells the other end.

        Raises:
            RpcBusyError, RpcRequestTooLargeError: nothing was sent.
            TypeError, ValueError: parameters that the format cannot carry.
        """
        entries: list[_Entry] = []
        try:
            for item in items:
                entries.append(self._enter(lane, item, timeout, deadline))
                self.caller.queued(entries[-1].call, lane.number)
            lane.greet()
            as_one = is_batch and lane.codec.has_batches
            size = _size(entries, as_one)
            if size > lane.max_size:
                await self._await_room(lane, size, deadline)
            if not lane.is_closed and not entries[0].outcome.done():  # they share a lane, and a deadline
                self._send(lane, entries, as_one)
            self.owner.deadline_set()
            return [await entry.outcome for entry in entries]
        finally:
            self._forget(entries)

    def answered(self, answer: Success | Failure | BadReply, lane: Lane) -> bool:
        """Take an answer. False if nobody waits for it."""
        effects = self.caller.answered(answer, lane.number)
        self.perform(effects)
        return bool(effects)

    def fail_all(self, lane: Lane, error: RpcError) -> bool:
        """Fail every call of a lane. False if there is none."""
        told = error_object(error)
        effects = [effect for call in self.caller.of(lane.number) for effect in self.caller.fail(call, told)]
        self.perform(effects)
        return bool(effects)

    def perform(self, effects: Iterable[core.Effect]) -> None:
        """Carry out decisions."""
        for effect in effects:
            match effect:
                case core.Settle(call, outcome):
                    self._settle(call, outcome)
                case core.Cancel(call, link):
                    self._cancel(call, self.owner.lane(link))
                case core.Transmit(ids):
                    self._send_again(ids)

    # --- inside

    def _enter(self, lane: Lane, item: CallItem, timeout: float, deadline: float) -> _Entry:
        try:
            call = self.caller.start(deadline, wants_answer=not item.is_notification)
        except core.TooManyCallsError:
            raise RpcBusyError from None
        try:
            message, before = _encode(lane.codec, item, call, timeout)
        except BaseException:
            self.caller.cancel(call)
            raise
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = self._entries[call] = _Entry(call, message, outcome, lane.format, before, item.is_notification)
        return entry

    async def _await_room(self, lane: Lane, size: int, deadline: float) -> None:
        """Return once the other end has said that it takes pieces, which something so large goes in, or is gone.

        Raises:
            RpcRequestTooLargeError: it does not, or not one of that size.
        """
        if lane.may_take_pieces:
            patience = min(GREETING_PATIENCE, deadline - asyncio.get_running_loop().time())
            await asyncio.wait([lane.greeted], timeout=max(0.0, patience))
        if size > lane.max_size and not lane.is_closed:
            raise RpcRequestTooLargeError

    def _send(self, lane: Lane, entries: Sequence[_Entry], as_one: bool) -> None:
        if as_one:
            self._post(lane, lane.codec.join([entry.message for entry in entries]), entries)
            return
        for entry in entries:
            self._post(lane, entry.message, [entry])

    def _post(self, lane: Lane, message: bytes, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            self.caller.queued(entry.call, lane.number)
            entry.is_posted = True
        before = [frame for entry in entries for frame in entry.before]
        parcel = lane.post(message, lambda error: self._gone(lane, entries, error), before=before)
        if len(entries) == 1 and not parcel.is_done:
            entries[0].parcel = parcel

    def _gone(self, lane: Lane, entries: Sequence[_Entry], error: MeteredRealtimeError | None) -> None:
        """Note that a message went out, or that it did not."""
        entries[0].parcel = None  # it knows its entries: together they would be garbage that only a collection finds
        if isinstance(error, RpcError):
            told = NOT_CARRIED if isinstance(error, RpcUnsupportedServerError) else error_object(error)
            self.perform([effect for entry in entries for effect in self.caller.fail(entry.call, told)])
        elif error is None:
            self.perform([effect for entry in entries for effect in self.caller.sent(entry.call)])
        elif not lane.is_closed:
            self.owner.lane_failed(lane)

    def _settle(self, call: int, outcome: Outcome) -> None:
        entry = self._entries.pop(call, None)
        if entry is not None and not entry.outcome.done():
            entry.outcome.set_result(outcome)

    def _cancel(self, call: int, lane: Lane | None) -> None:
        """Take a request back, or tell the other end that nobody waits for it."""
        entry = self._entries.get(call)
        if entry is None or not entry.is_posted or lane is None or lane.is_closed:
            return
        if (entry.parcel is not None and lane.drop(entry.parcel)) or entry.is_notification:
            return
        params: Params = {"id": call} if lane.codec.has_names else [call]
        lane.post(lane.codec.encode_notification(CANCEL, params))

    def _send_again(self, ids: Sequence[int]) -> None:
        held: dict[Lane, list[_Entry]] = {}
        for call in ids:
            entry = self._entries.get(call)
            lane = None if entry is None else self.owner.lane_again(entry.format)
            if entry is None or lane is None:
                self.perform(self.caller.fail(call, error_object(RpcRecipientDisconnectedError())))
                continue
            lane.greet()
            if self._obstacle(entry, lane) is None:
                self._post(lane, entry.message, [entry])
            else:
                self.caller.queued(call, lane.number)
                held.setdefault(lane, []).append(entry)
        for lane, entries in held.items():
            self._waits.add(wait := asyncio.ensure_future(self._send_when_met(lane, entries)))
            wait.add_done_callback(self._waits.discard)

    async def _send_when_met(self, lane: Lane, entries: Sequence[_Entry]) -> None:
        """Send requests that may have run, or are large, once the other end says that it would know, or takes those."""
        await asyncio.wait([lane.opening])
        if not lane.has_met:
            await asyncio.wait([lane.greeted], timeout=GREETING_PATIENCE)
        for entry in entries:
            if lane.is_closed or entry.call not in self._entries:
                continue  # the end of the lane, or of the call, settles it
            obstacle = self._obstacle(entry, lane)
            if obstacle is None:
                self._post(lane, entry.message, [entry])
            else:
                self.perform(self.caller.fail(entry.call, error_object(obstacle)))

    def _obstacle(self, entry: _Entry, lane: Lane) -> RpcError | None:
        """Return why a request must not go out on a lane again, as far as is known about the other end."""
        if self.caller.was_sent(entry.call) and not lane.remembers:
            return RpcRecipientDisconnectedError()
        return RpcRequestTooLargeError() if len(entry.message) > lane.max_size else None

    def _forget(self, entries: Sequence[_Entry]) -> None:
        for entry in entries:
            self.perform(self.caller.cancel(entry.call))
            self._entries.pop(entry.call, None)


def result_of(outcome: Outcome, errors: ErrorRegistry) -> Any:
    """Return the result of a call.

    Raises:
        RpcError: there is none, and this is why.
    """
    match outcome:
        case None:
            return None
        case Success():
            return outcome.result
        case ErrorObject():
            raise errors.decode(outcome)
        case BadReply(is_other_version=True):
            raise RpcUnsupportedVersionError
        case BadReply():
            raise RpcInvalidReplyError(data=outcome.reason)
        case core.Loss():
            raise _LOSSES[outcome]


def _size(entries: Sequence[_Entry], as_one: bool) -> int:
    """Return the bytes of the message that takes them all, or of the largest one."""
    sizes = [len(entry.message) for entry in entries]
    return sum(sizes) + len(sizes) + 1 if as_one else max(sizes)


def _encode(codec: Codec, item: CallItem, call: int, timeout: float) -> tuple[bytes, tuple[bytes, ...]]:
    """Return what goes out for an item, and what goes before it."""
    if item.is_notification:
        return codec.encode_notification(item.method, item.params), ()
    message = codec.encode_request(call, item.method, item.params)
    return message, () if timeout == core.DEFAULT_TIMEOUT else (_timeout_frame(codec, call, timeout),)


def _timeout_frame(codec: Codec, call: int, timeout: float) -> bytes:
    ms = max(1, round(timeout * 1_000))
    params: Params = {"id": call, "ms": ms} if codec.has_names else [call, ms]
    return codec.encode_notification(TIMEOUT, params)
