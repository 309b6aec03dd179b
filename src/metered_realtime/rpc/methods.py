"""The methods that a program offers, and the conversion of parameters to arguments of their functions."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, overload

import msgspec

from ..core.rpc.messages import MAX_METHOD_LENGTH, Params, is_reserved
from .built_in import RpcInvalidParamsError, RpcUnsupportedMethodError
from .errors import ErrorRegistry, RpcError, registry_of

F = TypeVar("F", bound=Callable[..., Any])

MAX_DETAIL = 256
"""Characters of the reason why parameters are invalid. It may contain names that the caller made up."""


@dataclass
class RpcInvocationData:
    """The context of a call, as passed to its handler.

    `request_id` is the same at both ends. `caller_identity` is the peer id of the caller. `payload` is the text of a
    call to a text handler. `response_timeout` is how long the caller waits, in seconds.
    """

    request_id: str
    caller_identity: str
    payload: str
    response_timeout: float


@dataclass(frozen=True, slots=True)
class RpcMethod:
    """A registered function and its parameters. A text handler (`is_text`) takes one payload and returns text.

    `signature` has all parameters, `asked` those that callers pass, without the `RpcInvocationData`; both are None if
    the signature is unknown. If callers pass all parameters and may do so by position, `plain` has them, and `least` is
    how many have no default: binding such parameters only takes counting them.
    """

    function: Callable[..., Any]
    signature: inspect.Signature | None = None
    asked: inspect.Signature | None = None
    is_text: bool = False
    plain: tuple[inspect.Parameter, ...] | None = None
    least: int = 0

    def bind(self, params: Params, invocation: RpcInvocationData) -> Callable[[], Any]:
        """Return the function with its arguments bound.

        Raises:
            RpcInvalidParamsError: the parameters do not match; `data` is the reason.
        """
        if self.is_text:
            invocation.payload = _payload(params)
            return partial(self.function, invocation)
        if self.plain is not None and isinstance(params, list) and self.least <= len(params) <= len(self.plain):
            return partial(self.function, *map(_convert, self.plain, params))
        args, names = (params, {}) if isinstance(params, list) else ([], params or {})
        if self.signature is None or self.asked is None:
            return partial(self.function, *args, **names)
        try:
            given = self.asked.bind(*args, **names).arguments
        except TypeError as error:  # of binding, not of the function: it contains only parameter names
            raise RpcInvalidParamsError(data=str(error)[:MAX_DETAIL]) from None
        bound = _complete(self.signature, given, invocation)
        return partial(self.function, *bound.args, **bound.kwargs)


class RpcMethods:
    """The methods of a program, by name, and the settings of its calls.

    With `debug` the text and traceback of an exception in a handler are sent to the caller; without, nothing of them
    leaves the process. `errors` is the registry in which the error codes of answers are looked up first, or a base
    class of errors that has one: calls raise its classes. Changes of both apply to remotes that join later.
    """

    def __init__(self, *, debug: bool = False, errors: ErrorRegistry | type[RpcError] | None = None) -> None:
        self.debug = debug
        self.errors = registry_of(errors)
        self._methods: dict[str, RpcMethod] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._methods

    def add(self, name: str, function: Callable[..., Any], *, replace: bool = False) -> None:
        """Offer a function, plain or async, under a name. Callers pass parameters by position or by name.

        Values are checked against the annotations of the parameters and converted to them: objects become dataclasses,
        TypedDicts and the like. A parameter annotated `RpcInvocationData` receives the context of the call; callers do
        not pass it.

        Raises:
            ValueError: the name is taken and `replace` is False, or it is empty, reserved or too long.
            TypeError: not a function, or an annotation that no received value can match.
        """
        signature = _signature(function)
        plain = _plain(signature)
        least = sum(it.default is inspect.Parameter.empty for it in plain or ())
        self._enter(name, RpcMethod(function, signature, _asked(signature), plain=plain, least=least), replace)

    @overload
    def method(self, name: F, /) -> F: ...
    @overload
    def method(self, name: str | None = None, /, *, replace: bool = False) -> Callable[[F], F]: ...
    def method(self, name: F | str | None = None, /, *, replace: bool = False) -> F | Callable[[F], F]:
        """Offer the decorated function under its own name, or under `name`. See `add`."""
        if name is not None and not isinstance(name, str):
            self.add(name.__name__, name)
            return name

        def register(function: F) -> F:
            self.add(name or function.__name__, function, replace=replace)
            return function

        return register

    def add_text(self, name: str, handler: Callable[[RpcInvocationData], Any], *, replace: bool = False) -> None:
        """Offer a text handler, plain or async: it takes an `RpcInvocationData` and returns text. Raises like `add`."""
        if not callable(handler):
            raise TypeError(f"handler must be callable, not {handler!r}")
        self._enter(name, RpcMethod(handler, is_text=True), replace)

    def remove(self, name: str) -> None:
        """Stop offering a method. Calls that run continue. Unknown names are ignored."""
        self._methods.pop(name, None)

    def get(self, name: str) -> RpcMethod:
        """Return a method.

        Raises:
            RpcUnsupportedMethodError: the method is not offered.
        """
        method = self._methods.get(name)
        if method is None:
            raise RpcUnsupportedMethodError
        return method

    def _enter(self, name: str, method: RpcMethod, replace: bool) -> None:
        if not isinstance(name, str) or not name or is_reserved(name):
            raise ValueError(f"method name must be a str that does not start with '$/' or 'rpc.', not {name!r}")
        if len(name) > MAX_METHOD_LENGTH:
            raise ValueError(f"method name must have at most {MAX_METHOD_LENGTH} characters, not {len(name)}")
        if name in self._methods and not replace:
            raise ValueError(f"method {name!r} is registered already: give replace=True to replace it")
        self._methods[name] = method


def _payload(params: Params) -> str:
    match params:
        case [str(payload)]:
            return payload
        case {"payload": str(payload), **rest} if not rest:
            return payload
    raise RpcInvalidParamsError(data="this method takes one text")


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    if not callable(function):
        raise TypeError(f"method must be callable, not {function!r}")
    try:
        signature = inspect.signature(function, eval_str=True)
    except NameError as error:
        raise TypeError(f"an annotation of {function!r} cannot be resolved: {error}") from None
    except ValueError:  # some built-in functions have no signature
        return None
    for parameter in signature.parameters.values():
        if _is_unfit(parameter.annotation):
            raise TypeError(f"no received value can match annotation {parameter.annotation!r} of {parameter.name!r}")
    return signature


def _asked(signature: inspect.Signature | None) -> inspect.Signature | None:
    if signature is None:
        return None
    parameters = [it for it in signature.parameters.values() if it.annotation is not RpcInvocationData]
    return signature.replace(parameters=parameters)


def _plain(signature: inspect.Signature | None) -> tuple[inspect.Parameter, ...] | None:
    if signature is None:
        return None
    parameters = tuple(signature.parameters.values())
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    is_plain = all(it.kind in by_position and it.annotation is not RpcInvocationData for it in parameters)
    return parameters if is_plain else None


def _is_unfit(annotation: Any) -> bool:
    if annotation in (inspect.Parameter.empty, Any, object, RpcInvocationData):
        return False
    try:
        return isinstance(msgspec.inspect.type_info(annotation), msgspec.inspect.CustomType)
    except TypeError:
        return True


def _complete(
    signature: inspect.Signature, given: dict[str, Any], invocation: RpcInvocationData
) -> inspect.BoundArguments:
    arguments = OrderedDict[str, Any]()
    for name, parameter in signature.parameters.items():
        if parameter.annotation is RpcInvocationData:
            arguments[name] = invocation
        elif name in given:
            arguments[name] = _convert(parameter, given[name])
    return inspect.BoundArguments(signature, arguments)


def _convert(parameter: inspect.Parameter, value: Any) -> Any:
    kind, annotation = parameter.kind, parameter.annotation
    if annotation in (inspect.Parameter.empty, Any, object):
        return value
    try:
        if kind is inspect.Parameter.VAR_POSITIONAL:
            return tuple(msgspec.convert(item, annotation) for item in value)
        if kind is inspect.Parameter.VAR_KEYWORD:
            return {name: msgspec.convert(item, annotation) for name, item in value.items()}
        return msgspec.convert(value, annotation)
    except (ValueError, RecursionError) as error:
        # With a cause it is the text of a check of the program, which must not leave the process.
        detail = "does not fit" if error.__cause__ is not None else str(error)
        raise RpcInvalidParamsError(data=f"{parameter.name}: {detail}"[:MAX_DETAIL]) from None
