"""Runs the handlers of methods, and encodes what they return or raise."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.rpc.callee import Refusal, Refuse, Run
from ..core.rpc.messages import ErrorObject, Notification, Request
from ..log import Logger, log_exception
from .built_in import (
    RpcApplicationError,
    RpcBusyError,
    RpcCancelledError,
    RpcRecipientDisconnectedError,
    RpcResponseTimeoutError,
    RpcResponseTooLargeError,
)
from .codec import Codec
from .errors import RpcError, error_object
from .methods import RpcInvocationData, RpcMethod, RpcMethods

MAX_MESSAGE_BYTES = 256
MAX_DATA_BYTES = 15_360
"""UTF-8 bytes of the message and the data of an error that a text handler sends, as in LiveKit."""

MAX_DEBUG_CHARACTERS = 8_192
"""Characters of a traceback that is sent with `debug`."""

_REFUSALS: dict[Refusal, type[RpcError]] = {
    Refusal.BUSY: RpcBusyError,
    Refusal.EXPIRED: RpcResponseTimeoutError,
    Refusal.CANCELLED: RpcCancelledError,
    Refusal.ANSWER_LOST: RpcRecipientDisconnectedError,
}

_STANDARD_TEXTS = {-32700: "Parse error", -32600: "Invalid Request", -32602: "Invalid params"}


class HandlersObserver(Protocol):
    """Observes the handlers of one remote."""

    def handler_answered(self, ticket: int, answer: bytes) -> None:
        """Handle the encoded answer of a request, which may be a refusal."""

    def handler_ended(self, ticket: int) -> None:
        """Handle the end of a handler."""


@dataclass(frozen=True, slots=True)
class _HandlerContext:
    """What the handlers for one remote have in common."""

    methods: RpcMethods
    identity: str
    debug: bool
    logger: Logger
    observer: HandlersObserver


class Handlers:
    """Runs handlers for one remote. `identity` is the id of the remote, which handlers are given."""

    def __init__(self, methods: RpcMethods, identity: str, logger: Logger, observer: HandlersObserver) -> None:
        self._context = _HandlerContext(methods, identity, methods.debug, logger, observer)
        self._observer = observer
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """The tasks of the handlers that run."""
        return list(self._tasks.values())

    def start(self, run: Run, codec: Codec, max_size: int) -> None:
        """Run a handler; its answer has at most `max_size` bytes. One that awaits nothing has ended on return."""
        invocation = _Invocation(self._context, run, codec, max_size)
        result = invocation.begin()
        if result is None:
            self._observer.handler_ended(run.ticket)
            return
        task = self._tasks[run.ticket] = asyncio.ensure_future(invocation.finish(result))

        def done(task: asyncio.Task[None]) -> None:
            del self._tasks[run.ticket]
            if inspect.iscoroutine(result):
                result.close()  # its task may have been cancelled before it began
            self._observer.handler_ended(run.ticket)

        task.add_done_callback(done)

    def stop(self, ticket: int) -> None:
        """Cancel a handler."""
        task = self._tasks.get(ticket)
        if task is not None:
            task.cancel()

    def refuse(self, refuse: Refuse, codec: Codec) -> None:
        """Answer a request in place of its handler."""
        if refuse.reason is Refusal.BAD_REQUEST:
            error = ErrorObject(refuse.code, _STANDARD_TEXTS[refuse.code])
        else:
            error = error_object(_REFUSALS[refuse.reason]())
        self._observer.handler_answered(refuse.ticket, codec.encode_error(refuse.id, error))


class _Invocation:
    """One call of a handler."""

    def __init__(self, context: _HandlerContext, run: Run, codec: Codec, max_size: int) -> None:
        self._context = context
        self._run = run
        self._codec = codec
        self._max_size = max_size
        self._is_text = False

    def begin(self) -> Awaitable[Any] | None:
        """Call the handler. Return what to await, or None if the answer has been reported."""
        try:
            method = self._context.methods.get(self._run.item.method)
            self._is_text = method.is_text
            result = self._call(method)
        except (Exception, asyncio.CancelledError) as error:
            self._fail(error)
            return None
        if inspect.isawaitable(result):
            return result
        self._succeed(result)
        return None

    async def finish(self, result: Awaitable[Any]) -> None:
        """Await the handler and report its answer. Never raises: no task awaits this."""
        try:
            self._succeed(await result)
        except (Exception, asyncio.CancelledError) as error:
            self._fail(error)

    def _call(self, method: RpcMethod) -> Any:
        item = self._run.item
        request_id = str(item.id) if isinstance(item, Request) else ""
        return method.bind(item.params, RpcInvocationData(request_id, self._context.identity, "", self._run.timeout))()

    def _succeed(self, result: Any) -> None:
        item = self._run.item
        if isinstance(item, Notification):
            return
        try:
            if self._is_text and not isinstance(result, str):
                raise TypeError(f"text handler must return str, not {type(result).__name__}")
            answer = self._codec.encode_result(item.id, result)
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(error)
            return
        if len(answer) > self._max_size:
            self._fail(RpcResponseTooLargeError())
            return
        self._report(answer)

    def _fail(self, error: BaseException) -> None:
        rpc_error = self._to_rpc_error(error)
        if isinstance(self._run.item, Request):
            self._report(self._encode(self._run.item, rpc_error))

    def _to_rpc_error(self, error: BaseException) -> RpcError:
        if isinstance(error, RpcError):
            return error
        if isinstance(error, asyncio.CancelledError):
            return RpcCancelledError()
        log_exception(self._context.logger, "rpc handler failed", error, {"method": self._run.item.method})
        if not self._context.debug:
            return RpcApplicationError()
        trace = "".join(traceback.format_exception(error))[-MAX_DEBUG_CHARACTERS:]
        return RpcApplicationError(f"{type(error).__name__}: {error}", trace)

    def _report(self, answer: bytes) -> None:
        self._context.observer.handler_answered(self._run.ticket, answer)

    def _encode(self, item: Request, error: RpcError) -> bytes:
        wire_error = error_object(error)
        if self._is_text:
            message = cut(wire_error.message, MAX_MESSAGE_BYTES)
            wire_error = ErrorObject(wire_error.code, message, _cut_data(wire_error.data))
        try:
            answer = self._codec.encode_error(item.id, wire_error)
        except (TypeError, ValueError, RecursionError) as reason:
            log_exception(self._context.logger, "rpc error sent without its data", reason)
            answer = b""
        if answer and len(answer) <= self._max_size:
            return answer
        message = cut(wire_error.message, MAX_MESSAGE_BYTES)  # a short error in place of one that cannot be sent
        return self._codec.encode_error(item.id, ErrorObject(_wire_int(wire_error.code), message))


def cut(text: str, size: int) -> str:
    """Return the beginning of a text that has at most `size` bytes of UTF-8, cut between two characters."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


def _cut_data(data: Any) -> Any:
    return cut(data, MAX_DATA_BYTES) if isinstance(data, str) else data


def _wire_int(code: int) -> int:
    return code if abs(code) < 2**63 else RpcApplicationError().wire_code
