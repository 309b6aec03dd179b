"""Runs the methods that others call, and makes an answer of whatever they return or raise."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

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
"""Bytes of UTF-8 of an error's message and data that handlers of text send, as LiveKit's do."""

MAX_DEBUG_CHARACTERS = 8_192
"""Of a traceback, with `debug`."""

_REFUSALS: dict[Refusal, type[RpcError]] = {
    Refusal.BUSY: RpcBusyError,
    Refusal.EXPIRED: RpcResponseTimeoutError,
    Refusal.CANCELLED: RpcCancelledError,
    Refusal.ANSWER_LOST: RpcRecipientDisconnectedError,
}

_STANDARD_TEXTS = {-32700: "Parse error", -32600: "Invalid Request", -32602: "Invalid params"}

Report = Callable[[int, bytes], None]


class Handlers:
    """The handlers that run for one remote. `report` takes each answer, `release` each place that is free again."""

    def __init__(self, methods: RpcMethods, caller: str, logger: Logger, report: Report, *, debug: bool) -> None:
        self._methods = methods
        self._caller = caller
        self._logger = logger
        self._report = report
        self._debug = debug
        self._tasks: dict[int, asyncio.Task[None]] = {}

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        """Those that run."""
        return list(self._tasks.values())

    def start(self, run: Run, codec: Codec, max_size: int, release: Callable[[int], None]) -> None:
        """Run a method. One that awaits nothing is done when this returns."""
        work = _Work(self, run, codec, max_size)
        result = work.begin()
        if result is None:
            release(run.ticket)
            return
        task = self._tasks[run.ticket] = asyncio.ensure_future(work.finish(result))

        def done(task: asyncio.Task[None]) -> None:
            del self._tasks[run.ticket]
            if inspect.iscoroutine(result):
                result.close()  # of a task that was cancelled before it began
            release(run.ticket)

        task.add_done_callback(done)

    def stop(self, ticket: int) -> None:
        """Cancel a handler."""
        task = self._tasks.get(ticket)
        if task is not None:
            task.cancel()

    def refuse(self, refuse: Refuse, codec: Codec) -> None:
        """Answer a request that has no handler, or whose handler is stopped."""
        if refuse.reason is Refusal.BAD_REQUEST:
            error = ErrorObject(refuse.code, _STANDARD_TEXTS[refuse.code])
        else:
            error = error_object(_REFUSALS[refuse.reason]())
        self._report(refuse.ticket, codec.encode_error(refuse.id, error))

    # --- for the work

    def _invocation(self, run: Run) -> RpcInvocationData:
        request_id = str(run.item.id) if isinstance(run.item, Request) else ""
        return RpcInvocationData(request_id, self._caller, "", run.timeout)

    def _error_of(self, error: BaseException, method: str) -> RpcError:
        if isinstance(error, RpcError):
            return error
        if isinstance(error, asyncio.CancelledError):
            return RpcCancelledError()
        log_exception(self._logger, "rpc handler failed", error, {"method": method})
        if not self._debug:
            return RpcApplicationError()
        trace = "".join(traceback.format_exception(error))[-MAX_DEBUG_CHARACTERS:]
        return RpcApplicationError(f"{type(error).__name__}: {error}", trace)


class _Work:
    """One call of a method."""

    def __init__(self, handlers: Handlers, run: Run, codec: Codec, max_size: int) -> None:
        self._handlers = handlers
        self._run = run
        self._codec = codec
        self._max_size = max_size
        self._is_text = False

    def begin(self) -> Awaitable[Any] | None:
        """Call the function. Return what has to be awaited, or None if the answer has been reported."""
        try:
            method = self._handlers._methods.get(self._run.item.method)
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
        """Await the handler and report its answer."""
        try:
            self._succeed(await result)
        except (Exception, asyncio.CancelledError) as error:  # nobody awaits this task: the answer tells
            self._fail(error)

    def _call(self, method: RpcMethod) -> Any:
        return method.bind(self._run.item.params, self._handlers._invocation(self._run))()

    def _succeed(self, result: Any) -> None:
        item = self._run.item
        if isinstance(item, Notification):
            return
        try:
            if self._is_text and not isinstance(result, str):
                raise TypeError(f"a handler of text returns str, not {type(result).__name__}")
            answer = self._codec.encode_result(item.id, result)
        except (TypeError, ValueError, RecursionError) as error:
            self._fail(error)
            return
        if len(answer) > self._max_size:
            self._fail(RpcResponseTooLargeError())
            return
        self._handlers._report(self._run.ticket, answer)

    def _fail(self, error: BaseException) -> None:
        found = self._handlers._error_of(error, self._run.item.method)
        if isinstance(self._run.item, Request):
            self._handlers._report(self._run.ticket, self._encode(self._run.item, found))

    def _encode(self, item: Request, error: RpcError) -> bytes:
        told = error_object(error)
        if self._is_text:
            told = ErrorObject(told.code, cut(told.message, MAX_MESSAGE_BYTES), _cut_data(told.data))
        try:
            answer = self._codec.encode_error(item.id, told)
        except (TypeError, ValueError, RecursionError) as reason:
            log_exception(self._handlers._logger, "rpc error sent without its data", reason)
            answer = b""
        if answer and len(answer) <= self._max_size:
            return answer
        message = cut(told.message, MAX_MESSAGE_BYTES)  # what it cannot say in full, it says in short
        return self._codec.encode_error(item.id, ErrorObject(_wire_int(told.code), message))


def cut(text: str, size: int) -> str:
    """Return the beginning of a text that has at most so many bytes of UTF-8, without half a character."""
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore")


def _cut_data(data: Any) -> Any:
    return cut(data, MAX_DATA_BYTES) if isinstance(data, str) else data


def _wire_int(code: int) -> int:
    return code if abs(code) < 2**63 else RpcApplicationError().wire_code
