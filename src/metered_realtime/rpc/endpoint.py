"""Calls with one remote, in both directions, over whatever channels there are to it.

`Calls` makes them, `Serving` answers them, `RpcChannels` has the channels. The owner tells when the connection below
was replaced, and when the remote is gone.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..core.rpc.caller import DEFAULT_TIMEOUT, MAX_TIMEOUT
from ..core.rpc.chunks import ChunkError
from ..core.rpc.messages import HELLO, BadReply, BadRequest, Failure, Inbound, Notification, Request, Success
from ..log import Logger, NoopLogger
from .built_in import RpcUnknownIdError, RpcUnsupportedVersionError
from .calls import NOT_CARRIED, CallItem, Calls, Outcome
from .channels import OpenTransport, RpcChannels, RpcVia
from .codec import DEFAULT_FORMAT, RpcFormat, RpcPath, codec_of
from .errors import ErrorRegistry, default_errors
from .footprint import footprint
from .methods import RpcMethods
from .rpc_channel import RpcChannel
from .serving import Serving
from .transports import RpcTransport

CLOSE_TIMEOUT = 1.0
"""Seconds that cancelled handlers may take to clean up."""

_UNREADABLE = (BadRequest(None, -32700),)


@dataclass(frozen=True, slots=True)
class RpcStats:
    """Stats of the calls with one remote: what is under way now, and counters since it came.

    `pending` are calls of this end; `running` and `queued` those of the other one.
    """

    pending: int
    running: int
    queued: int
    channels: int
    dropped_answers: int
    dropped_notifications: int
    repeated_requests: int
    malformed: int


class RpcEndpoint:
    """This end of the calls with one remote.

    `open_transport` opens a channel for a format; it returns while the channel is opening, and raises `RpcError` if
    there cannot be one of that kind, ImportError if what it takes is not installed. `is_connected` tells whether the
    connection below the channels is up: calls on a channel that ends while it is not wait for it to come back.
    `identity` is the remote's id; `debug` sends the text of handlers' exceptions to callers.
    """

    def __init__(
        self,
        open_transport: OpenTransport,
        *,
        identity: str,
        methods: RpcMethods,
        errors: ErrorRegistry = default_errors,
        is_connected: Callable[[], bool] = lambda: True,
        logger: Logger | None = None,
        debug: bool = False,
    ) -> None:
        self.identity = identity
        self.errors = errors
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._loop = asyncio.get_running_loop()
        self._channels = RpcChannels(
            self, open_transport, instance_id=uuid.uuid4().hex, is_connected=is_connected, logger=self._logger
        )
        self._calls = Calls(self)
        self._serving = Serving(methods, identity, self._channels.get, self._logger, debug=debug)
        self._callee = self._serving.callee
        self._malformed = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- for its owner

    def serve(
        self, transport: RpcTransport, name: RpcFormat = DEFAULT_FORMAT, path: RpcPath = "p2p"
    ) -> RpcChannel | None:
        """Serve a channel that the remote opened. None, and it is closed, if there are too many."""
        return self._channels.serve(transport, name, path)

    def transport_replaced(self) -> None:
        """Go on over a new connection: the direct channels are gone, and what has no answer is sent again, once."""
        for channel in self._channels.connection_replaced():
            may_remember = channel.remembers or not channel.has_met
            self._calls.perform(self._calls.caller.replaced(channel.number, remembers=may_remember))

    def transport_failed(self) -> None:
        """Give up: the connection below the direct channels will not be replaced. Later calls may open another one."""
        self._channels.connection_failed()

    def close(self) -> None:
        """End it: the remote is gone. Handlers are cancelled.

        Idempotent. Calls that wait fail with `RpcRecipientDisconnectedError`, later ones with
        `RpcRecipientNotFoundError`.
        """
        if self._channels.is_closed:
            return
        self._calls.perform(self._calls.caller.end())
        self._serving.perform(self._callee.end())
        self._channels.close()
        if self._timer is not None:
            self._timer.cancel()

    async def wait_closed(self) -> None:
        """Close, and return when the handlers have ended or have had their time. May be awaited in a handler."""
        self.close()
        tasks = [task for task in self._serving.handlers.tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)

    def stats(self) -> RpcStats:
        """Return the stats now."""
        return RpcStats(
            pending=len(self._calls.caller),
            running=self._callee.running,
            queued=self._callee.queued,
            channels=len(self._channels),
            dropped_answers=self._calls.caller.dropped_answers,
            dropped_notifications=self._callee.dropped_notifications,
            repeated_requests=self._callee.repeated_requests,
            malformed=self._malformed,
        )

    async def call_all(
        self,
        items: Sequence[CallItem],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        format: RpcFormat = DEFAULT_FORMAT,
        via: RpcVia = "auto",
        is_batch: bool = False,
    ) -> list[Outcome]:
        """Send calls and notifications together. Return what became of them, in order, for `result_of`.

        `timeout` is in seconds, for everything together. Cancelling cancels the remote handlers too.

        Raises:
            RpcError: nothing was sent, and this is why.
            TypeError, ValueError: parameters that cannot be encoded, or a timeout out of range.
        """
        if not 0 < timeout <= MAX_TIMEOUT:
            raise ValueError(f"a timeout is above 0 and at most {MAX_TIMEOUT:g} s, not {timeout!r}")
        deadline = self._loop.time() + timeout
        channel = self._channels.ready(format, via) or await self._channels.open(format, via, deadline)
        outcomes = await self._calls.make(channel, items, timeout=timeout, deadline=deadline, is_batch=is_batch)
        if via == "auto" and any(outcome is NOT_CARRIED for outcome in outcomes):  # then only a direct channel will do
            channel = await self._channels.open(format, "p2p", deadline)
            outcomes = await self._calls.make(channel, items, timeout=timeout, deadline=deadline, is_batch=is_batch)
        return outcomes

    # --- for Calls

    def channel(self, number: int) -> RpcChannel | None:
        """Return a channel by its number."""
        return self._channels.get(number)

    def channel_again(self, name: RpcFormat) -> RpcChannel | None:
        """Return the channel on which calls go on after their connection was replaced."""
        return self._channels.again(name)

    def channel_failed(self, channel: RpcChannel) -> None:
        """Note that a channel cannot send any more."""
        self._channels.failed(channel)

    def deadline_set(self) -> None:
        """Note that there may be an earlier deadline than before."""
        due, other = self._calls.caller.next_deadline, self._callee.next_deadline
        if due is None or (other is not None and other < due):
            due = other
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._calls.perform(self._calls.caller.expire(now))
        self._serving.perform(self._callee.expire(now))
        self.deadline_set()

    # --- for RpcChannels

    def channel_opened(self, channel: RpcChannel) -> None:
        """Note a new channel."""
        self._callee.opened(channel.number, channel.format)

    def channel_closed(self, channel: RpcChannel) -> None:
        """Note that a channel has ended. Its calls wait for what becomes of its connection."""
        self._serving.perform(self._callee.lost(channel.number))

    def channel_given_up(self, channel: RpcChannel) -> None:
        """Note that a channel has ended by itself, or with its connection for good."""
        self._calls.perform(self._calls.caller.closed(channel.number))

    def received(self, channel: RpcChannel, message: str | bytes) -> None:
        """Take a message, or a piece of one."""
        if channel.is_closed:
            return
        whole = self._whole(channel, message)
        if whole is None:
            return
        inbound = channel.codec.decode(whole)
        if inbound.fault is not None:
            self._warn("rpc message refused", self._malformed + 1, error=inbound.fault)
        if self._is_other_format(channel, message, inbound):
            return
        for item in inbound.items:
            self._receive_item(channel, item)
        held = footprint(len(whole), (it.params for it in inbound.items if isinstance(it, Request | Notification)))
        self._serving.perform(self._callee.receive(channel.number, inbound, self._loop.time(), held))
        self.deadline_set()
        if channel.is_flooded:
            self._logger.warning("rpc channel closed: its answers are not read", {"peer": self.identity})
            self._channels.failed(channel)

    def _whole(self, channel: RpcChannel, message: str | bytes) -> str | bytes | None:
        try:
            return channel.whole(message)
        except ChunkError as error:
            self._malformed += 1
            self._warn("rpc message dropped", self._malformed, error=str(error))
            return None

    def _warn(self, what: str, count: int, **context: str) -> None:
        """Log what a remote does wrong: each time that it has done so twice as often, for it decides how often."""
        if count & (count - 1) == 0:
            self._logger.warning(what, {"peer": self.identity, "count": count, **context})

    def _is_other_format(self, channel: RpcChannel, message: str | bytes, inbound: Inbound) -> bool:
        """Tell whether the other end answers in another format, and so does not speak this one."""
        if inbound.items != _UNREADABLE or not _answers_otherwise(message, channel.format):
            return False
        self._malformed += 1
        channel.is_refused = self._channels.is_own(channel)
        return self._calls.fail_all(channel, RpcUnsupportedVersionError()) or channel.is_refused

    def _receive_item(self, channel: RpcChannel, item: object) -> None:
        match item:
            case Success() | Failure() | BadReply():
                if not self._calls.answered(item, channel):
                    dropped = self._calls.caller.dropped_answers
                    self._warn("rpc answer dropped", dropped, error=RpcUnknownIdError.__name__)
            case Notification(method) if method == HELLO:
                instance_id = channel.meet(item)
                if instance_id is not None:
                    self._serving.perform(self._callee.identified(channel.number, instance_id))
            case BadRequest():
                self._malformed += 1


def _answers_otherwise(message: str | bytes, name: RpcFormat) -> bool:
    """Tell whether a message that is unreadable in a format is an answer in the other, or text in a binary one."""
    if isinstance(message, str):
        return not codec_of(name).is_text
    (answer, *_) = codec_of("msgpack-rpc").decode(message).items
    return codec_of(name).is_text and isinstance(answer, Success | Failure | BadReply)
