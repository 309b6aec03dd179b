"""The calls of this end to one remote: encoding and sending requests, repeating them, and their outcomes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..core.rpc import caller as core
from ..core.rpc.messages import CANCEL, TIMEOUT, BadReply, Failure, Params, Success
from ..errors import MeteredRealtimeError
from .built_in import (
    RpcBusyError,
    RpcRecipientDisconnectedError,
    RpcRequestTooLargeError,
    RpcUnsupportedServerError,
)
from .channels import RpcChannels, RpcVia
from .codec import DEFAULT_FORMAT, Codec, RpcFormat
from .deadline_timer import DeadlineTimer
from .errors import RpcError, error_object
from .outcomes import NOT_CARRIED, Outcome
from .rpc_channel import OutboundMessage, RpcChannel

HELLO_TIMEOUT = 2.0
"""Seconds to wait for the hello of the remote. A native end sends it at once, a foreign one never."""


@dataclass(frozen=True, slots=True)
class CallItem:
    """A call, or a notification."""

    method: str
    params: Params
    is_notification: bool = False


@dataclass(frozen=True, slots=True)
class CallOptions:
    """How calls are made. `timeout` is in seconds."""

    timeout: float = core.DEFAULT_TIMEOUT
    format: RpcFormat = DEFAULT_FORMAT
    via: RpcVia = "auto"


@dataclass(slots=True)
class _OutgoingCall:
    """The encoded request of a call, and the future of its outcome."""

    id: int
    message: bytes
    outcome: asyncio.Future[Outcome]
    format: RpcFormat
    before: tuple[bytes, ...] = ()
    is_notification: bool = False
    is_posted: bool = False
    outbound: OutboundMessage | None = None
    """The message that carries this call alone, until it is sent. None in a batch."""


class Calls:
    """Makes calls to one remote. Carries out the decisions of `core.rpc.caller.Caller`."""

    def __init__(self, channels: RpcChannels) -> None:
        self.caller = core.Caller()
        self._channels = channels
        self._loop = asyncio.get_running_loop()
        self._timer = DeadlineTimer(self._expire)
        self._outgoing: dict[int, _OutgoingCall] = {}
        self._waits: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many calls are pending."""
        return len(self._outgoing)

    async def make(self, items: Sequence[CallItem], options: CallOptions, *, is_batch: bool = False) -> list[Outcome]:
        """Send calls and notifications together; return their outcomes, in order.

        The timeout covers everything together, including the opening of a channel. Cancelling cancels the remote
        handlers.

        Raises:
            RpcError: nothing was sent.
            TypeError, ValueError: the parameters cannot be encoded, or the timeout is out of range.
        """
        if not 0 < options.timeout <= core.MAX_TIMEOUT:
            raise ValueError(f"a timeout is above 0 and at most {core.MAX_TIMEOUT:g} s, not {options.timeout!r}")
        deadline = self._loop.time() + options.timeout
        channel = self._channels.find_open(options.format, options.via)
        if channel is None:
            channel = await self._channels.open(options.format, options.via, deadline)
        outcomes = await self._exchange(channel, items, options.timeout, deadline, is_batch)
        if options.via == "auto" and any(outcome is NOT_CARRIED for outcome in outcomes):
            channel = await self._channels.open(options.format, "p2p", deadline)
            outcomes = await self._exchange(channel, items, options.timeout, deadline, is_batch)
        return outcomes

    def receive_answer(self, answer: Success | Failure | BadReply, channel: RpcChannel) -> bool:
        """Settle the call that an answer belongs to. Return False if there is none."""
        effects = self.caller.answer_received(answer, channel.number)
        self._perform(effects)
        return bool(effects)

    def fail_calls(self, channel: RpcChannel, error: RpcError) -> bool:
        """Fail every call of a channel. Return False if there is none."""
        failure = error_object(error)
        calls = self.caller.calls_on(channel.number)
        self._perform([effect for call_id in calls for effect in self.caller.fail_call(call_id, failure)])
        return bool(calls)

    def channel_given_up(self, channel: RpcChannel) -> None:
        """Settle the calls of a channel that has ended without a successor."""
        self._perform(self.caller.channel_closed(channel.number))

    def channel_replaced(self, channel: RpcChannel) -> None:
        """Continue the calls of a channel on its successor: repeat once what has no answer."""
        may_deduplicate = channel.deduplicates or not channel.knows_remote
        self._perform(self.caller.channel_replaced(channel.number, deduplicates=may_deduplicate))

    def close(self) -> None:
        """Fail every call: the remote has left."""
        self._perform(self.caller.remote_left())
        self._timer.cancel()

    # --- sending

    async def _exchange(
        self, channel: RpcChannel, items: Sequence[CallItem], timeout: float, deadline: float, is_batch: bool
    ) -> list[Outcome]:
        """Send items on a channel and return their outcomes."""
        calls: list[_OutgoingCall] = []
        try:
            for item in items:
                calls.append(self._start(channel, item, timeout, deadline))
            channel.send_hello()
            as_one = is_batch and channel.codec.has_batches
            size = _size(calls, as_one)
            if size > channel.max_size:
                await self._wait_for_room(channel, size, deadline)
            if not channel.is_closed and not calls[0].outcome.done():  # they share a channel and a deadline
                self._send(channel, calls, as_one)
            self._timer.schedule(self.caller.next_deadline)
            return [await call.outcome for call in calls]
        finally:
            self._cancel_calls(calls)

    def _start(self, channel: RpcChannel, item: CallItem, timeout: float, deadline: float) -> _OutgoingCall:
        try:
            call_id = self.caller.start_call(deadline, wants_answer=not item.is_notification)
        except core.TooManyCallsError:
            raise RpcBusyError from None
        try:
            message, before = _encode(channel.codec, item, call_id, timeout)
        except BaseException:
            self.caller.cancel_call(call_id)
            raise
        outcome: asyncio.Future[Outcome] = self._loop.create_future()
        call = _OutgoingCall(call_id, message, outcome, channel.format, before, item.is_notification)
        self._outgoing[call_id] = call
        self.caller.request_queued(call_id, channel.number)
        return call

    async def _wait_for_room(self, channel: RpcChannel, size: int, deadline: float) -> None:
        """Return once the hello of the remote has announced that it accepts a message of that size, or it has left.

        Raises:
            RpcRequestTooLargeError: the remote does not accept it.
        """
        if channel.may_accept_chunks:
            timeout = min(HELLO_TIMEOUT, deadline - self._loop.time())
            await asyncio.wait([channel.hello_received], timeout=max(0.0, timeout))
        if size > channel.max_size and not channel.is_closed:
            raise RpcRequestTooLargeError

    def _send(self, channel: RpcChannel, calls: Sequence[_OutgoingCall], as_one: bool) -> None:
        if as_one:
            self._post(channel, channel.codec.join([call.message for call in calls]), calls)
            return
        for call in calls:
            self._post(channel, call.message, [call])

    def _post(self, channel: RpcChannel, message: bytes, calls: Sequence[_OutgoingCall]) -> None:
        for call in calls:
            self.caller.request_queued(call.id, channel.number)
            call.is_posted = True
        before = [frame for call in calls for frame in call.before]
        outbound = channel.send(message, lambda error: self._message_done(channel, calls, error), before=before)
        if len(calls) == 1 and not outbound.is_done:
            calls[0].outbound = outbound

    def _message_done(
        self, channel: RpcChannel, calls: Sequence[_OutgoingCall], error: MeteredRealtimeError | None
    ) -> None:
        """Handle a request having been sent, or having failed."""
        calls[0].outbound = None  # the message refers to its calls: this cycle would wait for the garbage collector
        if isinstance(error, RpcError):
            failure = NOT_CARRIED if isinstance(error, RpcUnsupportedServerError) else error_object(error)
            self._perform([effect for call in calls for effect in self.caller.fail_call(call.id, failure)])
        elif error is None:
            self._perform([effect for call in calls for effect in self.caller.request_sent(call.id)])
        elif not channel.is_closed:
            self._channels.channel_failed(channel)

    def _cancel_calls(self, calls: Sequence[_OutgoingCall]) -> None:
        """Cancel the calls that are not settled, and forget them all."""
        for call in calls:
            self._perform(self.caller.cancel_call(call.id))
            self._outgoing.pop(call.id, None)

    # --- decisions

    def _perform(self, effects: Iterable[core.Effect]) -> None:
        for effect in effects:
            match effect:
                case core.SettleCall(call_id, outcome):
                    self._settle(call_id, outcome)
                case core.CancelCall(call_id, number):
                    self._cancel_remotely(call_id, self._channels.get(number))
                case core.TransmitCalls(ids):
                    self._send_again(ids)

    def _expire(self) -> None:
        self._perform(self.caller.expire_calls(self._loop.time()))
        self._timer.schedule(self.caller.next_deadline)

    def _settle(self, call_id: int, outcome: Outcome) -> None:
        call = self._outgoing.pop(call_id, None)
        if call is not None and not call.outcome.done():
            call.outcome.set_result(outcome)

    def _cancel_remotely(self, call_id: int, channel: RpcChannel | None) -> None:
        """Withdraw a request that was not sent, or cancel its handler."""
        call = self._outgoing.get(call_id)
        if call is None or not call.is_posted or channel is None or channel.is_closed:
            return
        if (call.outbound is not None and channel.withdraw(call.outbound)) or call.is_notification:
            return
        params: Params = {"id": call_id} if channel.codec.has_names else [call_id]
        channel.send(channel.codec.encode_notification(CANCEL, params))

    def _send_again(self, ids: Sequence[int]) -> None:
        held: dict[RpcChannel, list[_OutgoingCall]] = {}
        for call_id in ids:
            call = self._outgoing.get(call_id)
            channel = None if call is None else self._channels.find_successor(call.format)
            if call is None or channel is None:
                self._fail(call_id, RpcRecipientDisconnectedError())
                continue
            channel.send_hello()
            if self._obstacle(call, channel) is None:
                self._post(channel, call.message, [call])
            else:
                self.caller.request_queued(call_id, channel.number)
                held.setdefault(channel, []).append(call)
        for channel, calls in held.items():
            self._waits.add(wait := asyncio.ensure_future(self._send_after_hello(channel, calls)))
            wait.add_done_callback(self._waits.discard)

    async def _send_after_hello(self, channel: RpcChannel, calls: Sequence[_OutgoingCall]) -> None:
        """Send requests that may have run already, or are large, once the hello of the remote allows it."""
        await asyncio.wait([channel.opening])
        if not channel.knows_remote:
            await asyncio.wait([channel.hello_received], timeout=HELLO_TIMEOUT)
        for call in calls:
            if channel.is_closed or call.id not in self._outgoing:
                continue  # it is settled by the end of the channel, or was settled before
            obstacle = self._obstacle(call, channel)
            if obstacle is None:
                self._post(channel, call.message, [call])
            else:
                self._fail(call.id, obstacle)

    def _obstacle(self, call: _OutgoingCall, channel: RpcChannel) -> RpcError | None:
        """Return why a request must not be sent on a channel again, as far as is known about the remote."""
        if self.caller.was_sent(call.id) and not channel.deduplicates:
            return RpcRecipientDisconnectedError()
        return RpcRequestTooLargeError() if len(call.message) > channel.max_size else None

    def _fail(self, call_id: int, error: RpcError) -> None:
        self._perform(self.caller.fail_call(call_id, error_object(error)))


def _size(calls: Sequence[_OutgoingCall], as_one: bool) -> int:
    """Return the size of the message that carries all calls, or of the largest of several, in bytes."""
    sizes = [len(call.message) for call in calls]
    return sum(sizes) + len(sizes) + 1 if as_one else max(sizes)


def _encode(codec: Codec, item: CallItem, call_id: int, timeout: float) -> tuple[bytes, tuple[bytes, ...]]:
    """Return the message of a call, and those that precede it."""
    if item.is_notification:
        return codec.encode_notification(item.method, item.params), ()
    message = codec.encode_request(call_id, item.method, item.params)
    return message, () if timeout == core.DEFAULT_TIMEOUT else (_timeout_message(codec, call_id, timeout),)


def _timeout_message(codec: Codec, call_id: int, timeout: float) -> bytes:
    ms = max(1, round(timeout * 1_000))
    params: Params = {"id": call_id, "ms": ms} if codec.has_names else [call_id, ms]
    return codec.encode_notification(TIMEOUT, params)
