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
from .rpc_channel import OutboundMessage, RpcChannel

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


class RpcChannelOwner(Protocol):
    """What is asked of the endpoint that has the channels."""

    def channel(self, number: int) -> RpcChannel | None: ...
    def channel_again(self, name: RpcFormat) -> RpcChannel | None: ...
    def channel_failed(self, channel: RpcChannel) -> None: ...
    def deadline_set(self) -> None: ...


@dataclass(slots=True)
class _OutgoingCall:
    """What goes out for an item, and what became of it."""

    call: int
    message: bytes
    outcome: asyncio.Future[Outcome]
    format: RpcFormat
    before: tuple[bytes, ...] = ()
    is_notification: bool = False
    is_posted: bool = False
    outbound: OutboundMessage | None = None
    """What carries it alone. None as long as nothing does, and in a batch."""


@dataclass(slots=True)
class Calls:
    """Carries out the decisions of `core.rpc.caller.Caller`."""

    owner: RpcChannelOwner
    caller: core.Caller = field(default_factory=core.Caller)
    _entries: dict[int, _OutgoingCall] = field(default_factory=dict)
    _waits: set[asyncio.Task[None]] = field(default_factory=set)

    async def make(
        self, channel: RpcChannel, items: Sequence[CallItem], *, timeout: float, deadline: float, is_batch: bool
    ) -> list[Outcome]:
        """Send items and return what became of them, in order. Cancelling tells the other end.

        Raises:
            RpcBusyError, RpcRequestTooLargeError: nothing was sent.
            TypeError, ValueError: parameters that the format cannot carry.
        """
        entries: list[_OutgoingCall] = []
        try:
            for item in items:
                entries.append(self._enter(channel, item, timeout, deadline))
                self.caller.queued(entries[-1].call, channel.number)
            channel.greet()
            as_one = is_batch and channel.codec.has_batches
            size = _size(entries, as_one)
            if size > channel.max_size:
                await self._await_room(channel, size, deadline)
            if not channel.is_closed and not entries[0].outcome.done():  # they share a channel, and a deadline
                self._send(channel, entries, as_one)
            self.owner.deadline_set()
            return [await entry.outcome for entry in entries]
        finally:
            self._forget(entries)

    def answered(self, answer: Success | Failure | BadReply, channel: RpcChannel) -> bool:
        """Take an answer. False if nobody waits for it."""
        effects = self.caller.answered(answer, channel.number)
        self.perform(effects)
        return bool(effects)

    def fail_all(self, channel: RpcChannel, error: RpcError) -> bool:
        """Fail every call of a channel. False if there is none."""
        told = error_object(error)
        effects = [effect for call in self.caller.of(channel.number) for effect in self.caller.fail(call, told)]
        self.perform(effects)
        return bool(effects)

    def perform(self, effects: Iterable[core.Effect]) -> None:
        """Carry out decisions."""
        for effect in effects:
            match effect:
                case core.SettleCall(call, outcome):
                    self._settle(call, outcome)
                case core.CancelCall(call, number):
                    self._cancel(call, self.owner.channel(number))
                case core.TransmitCalls(ids):
                    self._send_again(ids)

    # --- inside

    def _enter(self, channel: RpcChannel, item: CallItem, timeout: float, deadline: float) -> _OutgoingCall:
        try:
            call = self.caller.start(deadline, wants_answer=not item.is_notification)
        except core.TooManyCallsError:
            raise RpcBusyError from None
        try:
            message, before = _encode(channel.codec, item, call, timeout)
        except BaseException:
            self.caller.cancel(call)
            raise
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = self._entries[call] = _OutgoingCall(
            call, message, outcome, channel.format, before, item.is_notification
        )
        return entry

    async def _await_room(self, channel: RpcChannel, size: int, deadline: float) -> None:
        """Return once the other end has said that it takes pieces, which something so large goes in, or is gone.

        Raises:
            RpcRequestTooLargeError: it does not, or not one of that size.
        """
        if channel.may_take_pieces:
            patience = min(GREETING_PATIENCE, deadline - asyncio.get_running_loop().time())
            await asyncio.wait([channel.greeted], timeout=max(0.0, patience))
        if size > channel.max_size and not channel.is_closed:
            raise RpcRequestTooLargeError

    def _send(self, channel: RpcChannel, entries: Sequence[_OutgoingCall], as_one: bool) -> None:
        if as_one:
            self._post(channel, channel.codec.join([entry.message for entry in entries]), entries)
            return
        for entry in entries:
            self._post(channel, entry.message, [entry])

    def _post(self, channel: RpcChannel, message: bytes, entries: Sequence[_OutgoingCall]) -> None:
        for entry in entries:
            self.caller.queued(entry.call, channel.number)
            entry.is_posted = True
        before = [frame for entry in entries for frame in entry.before]
        outbound = channel.post(message, lambda error: self._gone(channel, entries, error), before=before)
        if len(entries) == 1 and not outbound.is_done:
            entries[0].outbound = outbound

    def _gone(self, channel: RpcChannel, entries: Sequence[_OutgoingCall], error: MeteredRealtimeError | None) -> None:
        """Note that a message went out, or that it did not."""
        entries[0].outbound = None  # it knows its entries: together they would be garbage that only a collection finds
        if isinstance(error, RpcError):
            told = NOT_CARRIED if isinstance(error, RpcUnsupportedServerError) else error_object(error)
            self.perform([effect for entry in entries for effect in self.caller.fail(entry.call, told)])
        elif error is None:
            self.perform([effect for entry in entries for effect in self.caller.sent(entry.call)])
        elif not channel.is_closed:
            self.owner.channel_failed(channel)

    def _settle(self, call: int, outcome: Outcome) -> None:
        entry = self._entries.pop(call, None)
        if entry is not None and not entry.outcome.done():
            entry.outcome.set_result(outcome)

    def _cancel(self, call: int, channel: RpcChannel | None) -> None:
        """Take a request back, or tell the other end that nobody waits for it."""
        entry = self._entries.get(call)
        if entry is None or not entry.is_posted or channel is None or channel.is_closed:
            return
        if (entry.outbound is not None and channel.drop(entry.outbound)) or entry.is_notification:
            return
        params: Params = {"id": call} if channel.codec.has_names else [call]
        channel.post(channel.codec.encode_notification(CANCEL, params))

    def _send_again(self, ids: Sequence[int]) -> None:
        held: dict[RpcChannel, list[_OutgoingCall]] = {}
        for call in ids:
            entry = self._entries.get(call)
            channel = None if entry is None else self.owner.channel_again(entry.format)
            if entry is None or channel is None:
                self.perform(self.caller.fail(call, error_object(RpcRecipientDisconnectedError())))
                continue
            channel.greet()
            if self._obstacle(entry, channel) is None:
                self._post(channel, entry.message, [entry])
            else:
                self.caller.queued(call, channel.number)
                held.setdefault(channel, []).append(entry)
        for channel, entries in held.items():
            self._waits.add(wait := asyncio.ensure_future(self._send_when_met(channel, entries)))
            wait.add_done_callback(self._waits.discard)

    async def _send_when_met(self, channel: RpcChannel, entries: Sequence[_OutgoingCall]) -> None:
        """Send requests that may have run, or are large, once the other end says that it would know, or takes those."""
        await asyncio.wait([channel.opening])
        if not channel.has_met:
            await asyncio.wait([channel.greeted], timeout=GREETING_PATIENCE)
        for entry in entries:
            if channel.is_closed or entry.call not in self._entries:
                continue  # the end of the channel, or of the call, settles it
            obstacle = self._obstacle(entry, channel)
            if obstacle is None:
                self._post(channel, entry.message, [entry])
            else:
                self.perform(self.caller.fail(entry.call, error_object(obstacle)))

    def _obstacle(self, entry: _OutgoingCall, channel: RpcChannel) -> RpcError | None:
        """Return why a request must not go out on a channel again, as far as is known about the other end."""
        if self.caller.was_sent(entry.call) and not channel.remembers:
            return RpcRecipientDisconnectedError()
        return RpcRequestTooLargeError() if len(entry.message) > channel.max_size else None

    def _forget(self, entries: Sequence[_OutgoingCall]) -> None:
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


def _size(entries: Sequence[_OutgoingCall], as_one: bool) -> int:
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
