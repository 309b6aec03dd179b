"""The client of one remote: `call`, `notify`, `proxy`, `batch`, and `perform` for text."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from ..core.rpc.caller import DEFAULT_TIMEOUT
from ..core.rpc.messages import MAX_BATCH, Params
from .built_in import RpcUnexpectedReplyError
from .calls import CallItem, CallOptions
from .channels import RpcVia
from .codec import RpcFormat, codec_of
from .endpoint import RpcEndpoint, RpcStats
from .errors import ErrorRegistry, RpcError, registry_of, replace_texts
from .handlers import MAX_DATA_BYTES, MAX_MESSAGE_BYTES, cut
from .outcomes import Outcome, result_of


class RpcClient:
    """Calls the methods of one remote. `using` returns a client with other settings for the same remote."""

    def __init__(self, endpoint: RpcEndpoint) -> None:
        self._endpoint = endpoint
        self._errors: ErrorRegistry = endpoint.errors
        self._options = CallOptions()

    def using(
        self,
        *,
        timeout: float | None = None,
        errors: ErrorRegistry | type[RpcError] | None = None,
        format: RpcFormat | None = None,
        via: RpcVia | None = None,
    ) -> RpcClient:
        """Return a client for the same remote with other settings. None leaves a setting as it is.

        `timeout` is in seconds, 15 by default. `errors` is the registry in which error codes are looked up first, or a
        base class of errors that has one. `format` is `jsonrpc-2.0`, the default, or `msgpack-rpc`. `via` is `p2p`,
        `server`, or `auto`, the default: directly, or through the server if that is impossible.

        Raises:
            ValueError: `format` or `via` is none of these.
        """
        if via not in (None, "auto", "p2p", "server"):
            raise ValueError(f"via must be 'auto', 'p2p' or 'server', not {via!r}")
        other = RpcClient(self._endpoint)
        other._errors = self._errors if errors is None else registry_of(errors)
        options = self._options
        other._options = CallOptions(
            timeout=options.timeout if timeout is None else timeout,
            format=options.format if format is None else format,
            via=options.via if via is None else via,
        )
        codec_of(other._options.format)
        return other

    async def call(self, method: str, /, *args: Any, **names: Any) -> Any:
        """Call a method with parameters by position or by name, and return its result.

        Cancelling the call cancels the handler at the remote.

        Raises:
            RpcError: the error that the handler raised, or the reason why there is no result.
            TypeError: parameters both by position and by name, or of a type that the format cannot carry.
            ValueError: a reserved method name, a timeout out of range, or parameters that the format cannot carry.
        """
        (outcome,) = await self._make([_item(method, args, names)])
        return result_of(outcome, self._errors)

    async def notify(self, method: str, /, *args: Any, **names: Any) -> None:
        """Send a notification, a call without an answer; return when it was sent.

        Raises like `call`, without the errors of the handler.
        """
        (outcome,) = await self._make([replace(_item(method, args, names), is_notification=True)])
        result_of(outcome, self._errors)

    async def perform(self, method: str, payload: str, response_timeout: float = DEFAULT_TIMEOUT) -> str:
        """Call a text handler with a text and return the text that it answers with.

        `response_timeout` is in seconds. Errors are cut to 256 bytes of message and 15,360 bytes of data.

        Raises:
            RpcError: the error that the handler raised, or the reason why there is no result.
            TypeError: the payload is not text.
        """
        if not isinstance(payload, str):
            raise TypeError(f"payload must be str, not {type(payload).__name__}")
        try:
            result = await self.using(timeout=response_timeout).call(method, payload)
        except RpcError as error:
            _cut_texts(error)
            raise
        if not isinstance(result, str):
            raise RpcUnexpectedReplyError
        return result

    def stats(self) -> RpcStats:
        """Return statistics of the calls with this remote, in both directions. Synchronous and cheap."""
        return self._endpoint.stats()

    @property
    def proxy(self) -> RpcProxy:
        """Methods as attributes: `await client.proxy.sum(1, 2)`."""
        return RpcProxy(self.call)

    def batch(self) -> RpcBatch:
        """Return a batch: `async with client.batch() as batch: total = batch.call("sum", 1, 2)`."""
        return RpcBatch(self)

    async def _make(self, items: list[CallItem], *, is_batch: bool = False) -> list[Outcome]:
        return await self._endpoint.calls.make(items, self._options, is_batch=is_batch)


class RpcProxy:
    """Calls methods as attributes."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **names: Any) -> Any:
            return self._call(method, *args, **names)

        return call


@dataclass(eq=False)
class BatchCall:
    """A call of a batch. Await it after the batch for its result, or for the error of its handler."""

    _errors: ErrorRegistry
    _outcome: list[Outcome] = field(default_factory=list)

    def result(self) -> Any:
        """Return the result, or raise the error.

        Raises:
            RpcError: the error that the handler raised, or the reason why there is no result.
            RuntimeError: the batch was not sent, or was not answered.
        """
        if not self._outcome:
            raise RuntimeError("the batch was not answered: its calls have results after the `async with` block")
        return result_of(self._outcome[0], self._errors)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        return self.result()


class RpcBatch:
    """A batch of calls, sent together when its `async with` block ends. If the block raises, nothing is sent.

    In JSON-RPC the batch is one message. In formats without batches the calls are sent one after the other.
    """

    def __init__(self, client: RpcClient) -> None:
        self._client = client
        self._items: list[CallItem] = []
        self._calls: list[BatchCall] = []
        self._is_sent = False

    @property
    def proxy(self) -> RpcProxy:
        """Methods as attributes: `batch.proxy.sum(1, 2)`."""
        return RpcProxy(self.call)

    def call(self, method: str, /, *args: Any, **names: Any) -> BatchCall:
        """Add a call to the batch.

        Raises:
            TypeError: parameters both by position and by name.
            ValueError: the batch is full or was sent, or the method name is reserved.
        """
        self._add(_item(method, args, names))
        self._calls.append(BatchCall(self._client._errors))
        return self._calls[-1]

    def notify(self, method: str, /, *args: Any, **names: Any) -> None:
        """Add a notification, a call without an answer, to the batch. Raises like `call`."""
        self._add(replace(_item(method, args, names), is_notification=True))

    def results(self) -> list[Any]:
        """Return the results of all calls in order, or raise the first error."""
        return [call.result() for call in self._calls]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_sent = True
        if kind is not None or not self._items:
            return
        outcomes = await self._client._make(self._items, is_batch=True)
        answers = [it for item, it in zip(self._items, outcomes, strict=True) if not item.is_notification]
        for call, outcome in zip(self._calls, answers, strict=True):
            call._outcome.append(outcome)

    def _add(self, item: CallItem) -> None:
        if self._is_sent or len(self._items) >= MAX_BATCH:
            raise ValueError("the batch was sent" if self._is_sent else f"a batch has at most {MAX_BATCH} items")
        self._items.append(item)


def _item(method: str, args: tuple[Any, ...], names: dict[str, Any]) -> CallItem:
    if not isinstance(method, str) or method.startswith("$/"):
        raise ValueError(f"method name must be a str that does not start with '$/', not {method!r}")
    if args and names:
        raise TypeError("parameters are passed by position or by name, not both")
    params: Params = list(args) if args else names or None
    return CallItem(method, params)


def _cut_texts(error: RpcError) -> None:
    data = cut(error.data, MAX_DATA_BYTES) if isinstance(error.data, str) else error.data
    replace_texts(error, cut(error.message, MAX_MESSAGE_BYTES), data)
