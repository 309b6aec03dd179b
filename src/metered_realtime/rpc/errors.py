"""The base of RPC errors, which arrive as the classes they were raised as, and the registries of their classes."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Any, ClassVar, Self, overload

from ..core.rpc.messages import ErrorObject
from ..errors import MeteredRealtimeError
from ..log import NoopLogger, log_exception

_RESERVED = (range(1_001, 2_000), range(-32_768, -31_999))
"""Codes of built-in errors: those that LiveKit uses, and those that JSON-RPC 2.0 reserves."""


class _ErrorCode(IntEnum):
    APPLICATION_ERROR = 1500
    CONNECTION_TIMEOUT = 1501
    RESPONSE_TIMEOUT = 1502
    RECIPIENT_DISCONNECTED = 1503
    RESPONSE_PAYLOAD_TOO_LARGE = 1504
    SEND_FAILED = 1505

    UNSUPPORTED_METHOD = 1400
    RECIPIENT_NOT_FOUND = 1401
    REQUEST_PAYLOAD_TOO_LARGE = 1402
    UNSUPPORTED_SERVER = 1403
    UNSUPPORTED_VERSION = 1404


class RpcError(MeteredRealtimeError):
    """An error of a call between peers. When a handler raises it, the call raises it too.

    `RpcError(code, message, data)` is an error with any code. A subclass declares its code once, as in
    `class InsufficientFunds(RpcError, code=1000, message="Insufficient funds")`. It is raised as `InsufficientFunds()`,
    optionally with another message and with data, and arrives as `InsufficientFunds`. `registry` is where the class and
    its subclasses are registered, by default the one of the whole program. `data` is any value that the format carries.

    `wire_code` is the code on the wire, `code` the canonical one: a JSON-RPC -32601 has the code 1400.

    Raises:
        ValueError: when a class is defined, its code is reserved, or taken in its registry.
        TypeError: the code is not an integer, or the arguments fit neither form.
    """

    ErrorCode = _ErrorCode
    ErrorMessage: ClassVar[Mapping[_ErrorCode, str]] = MappingProxyType(
        {
            _ErrorCode.APPLICATION_ERROR: "Application error in method handler",
            _ErrorCode.CONNECTION_TIMEOUT: "Connection timeout",
            _ErrorCode.RESPONSE_TIMEOUT: "Response timeout",
            _ErrorCode.RECIPIENT_DISCONNECTED: "Recipient disconnected",
            _ErrorCode.RESPONSE_PAYLOAD_TOO_LARGE: "Response payload too large",
            _ErrorCode.SEND_FAILED: "Failed to send",
            _ErrorCode.UNSUPPORTED_METHOD: "Method not supported at destination",
            _ErrorCode.RECIPIENT_NOT_FOUND: "Recipient not found",
            _ErrorCode.REQUEST_PAYLOAD_TOO_LARGE: "Request payload too large",
            _ErrorCode.UNSUPPORTED_SERVER: "RPC not supported by server",
            _ErrorCode.UNSUPPORTED_VERSION: "Unsupported RPC version",
        }
    )

    _class_code: ClassVar[int | None] = None
    _class_message: ClassVar[str] = ""
    _registry: ClassVar[ErrorRegistry]

    def __init_subclass__(
        cls,
        *,
        code: int | None = None,
        message: str | None = None,
        registry: ErrorRegistry | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        if registry is not None and registry is not built_in_errors:  # a subclass of a built-in error is not built in
            cls._registry = registry
        if message is not None:
            cls._class_message = message
        if code is not None:
            cls._class_code = _checked_code(code)
            (registry or cls._registry).add(cls)

    @overload
    def __init__(self, code: int, message: str, data: Any = None) -> None: ...
    @overload
    def __init__(self, message: str | None = None, data: Any = None) -> None: ...
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own = self._class_code
        message: str | None
        if own is None or "code" in kwargs or (args and isinstance(args[0], int)):
            code, message, data = _with_code(*args, **kwargs)
            if own is not None and code != own:
                raise TypeError(f"{type(self).__name__} has the code {own}, not {code}")
        else:
            code = own
            message, data = _without_code(*args, **kwargs)
        self._fill(code, self._class_message if message is None else message, data, None)

    def _fill(self, code: int, message: str, data: Any, wire_code: int | None) -> None:
        self.args = (message,)
        self._code = code
        self._message = message
        self._data = data
        self._wire_code = wire_code

    @property
    def code(self) -> int:
        """The canonical code. 1001 to 1999 and -32768 to -32000 are reserved for built-in errors."""
        return self._code

    @property
    def message(self) -> str:
        """The error in words, for people."""
        return self._message

    @property
    def data(self) -> Any:
        """Further data of the error; None if there is none."""
        return self._data

    @property
    def wire_code(self) -> int:
        """The code on the wire: as received, or as it is sent."""
        return _WIRE_CODES.get(self._code, self._code) if self._wire_code is None else self._wire_code

    @classmethod
    def from_wire(cls, code: int, message: str, data: Any) -> Self:
        """Create a received error without calling the constructor, whose arguments a subclass may have changed.

        Override this to set further attributes from `data`. If it raises, the call raises a plain `RpcError` instead.
        """
        error = cls.__new__(cls)
        error._fill(code, message, data, None)
        return error

    def __str__(self) -> str:
        return self._message

    def __repr__(self) -> str:
        return f"{type(self).__name__}(code={self._code}, message={self._message!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._code, self._message, self._data, self._wire_code)


class ErrorRegistry:
    """The error classes of one service, by code. Codes that it lacks are looked up in `parent`.

    A registry without a parent falls back to `default_errors`, and every registry to the built-in errors. Two services
    that use one code for two errors need a registry each: pass it to the base class of the errors of a service, and to
    the client that calls it.
    """

    def __init__(self, parent: ErrorRegistry | None = None) -> None:
        self._parent = parent
        self._classes: dict[int, type[RpcError]] = {}
        self._ranges: list[tuple[range, type[RpcError]]] = []

    def add(self, error_class: type[RpcError]) -> None:
        """Register a class under its code. Defining a class with a `code` does that already.

        Raises:
            ValueError: the class has no code, or one that is reserved or taken.
        """
        code = error_class._class_code
        if code is None:
            raise ValueError(f"{error_class.__name__} has no code")
        if self is not built_in_errors and is_reserved_code(code):
            raise ValueError(f"code {code} is reserved for built-in errors")
        taken = self._classes.setdefault(code, error_class)
        if taken is not error_class:
            raise ValueError(f"code {code} is taken by {taken.__name__}")

    def cover(self, codes: range, error_class: type[RpcError]) -> None:
        """Register a class for all codes of a range that have none of their own."""
        self._ranges.append((codes, error_class))

    def lookup(self, code: int) -> type[RpcError] | None:
        """Return the class of a code, of this registry, its parents or the built-in errors; None if there is none."""
        found = self._own(code)
        if found is not None or self is built_in_errors:
            return found
        if self._parent is not None:
            return self._parent.lookup(code)
        return (built_in_errors if self is default_errors else default_errors).lookup(code)

    def decode(self, error: ErrorObject) -> RpcError:
        """Convert a received error to an exception of the class of its code, or else to a plain `RpcError`."""
        code = _CANONICAL_CODES.get(error.code, error.code)
        error_class = self.lookup(code) or RpcError
        try:
            decoded = error_class.from_wire(code, error.message, error.data)
        except Exception as mistake:  # from_wire may be overridden, and reads data of the remote
            log_exception(NoopLogger(), "from_wire of an RPC error failed", mistake, {"code": code}, level="warning")
            decoded = RpcError.from_wire(code, error.message, error.data)
        decoded._wire_code = error.code
        return decoded

    def _own(self, code: int) -> type[RpcError] | None:
        if code in self._classes:
            return self._classes[code]
        return next((error_class for codes, error_class in self._ranges if code in codes), None)


_WIRE_CODES = {1400: -32601, 1500: -32000}
"""Codes of built-in errors for which JSON-RPC 2.0 has another number."""

_CANONICAL_CODES = {wire: code for code, wire in _WIRE_CODES.items()}

built_in_errors = ErrorRegistry()
default_errors = ErrorRegistry()
RpcError._registry = default_errors


def registry_of(errors: ErrorRegistry | type[RpcError] | None) -> ErrorRegistry:
    """Return a registry itself, that of a base class of errors, or the default one for None."""
    if errors is None:
        return default_errors
    return errors if isinstance(errors, ErrorRegistry) else errors._registry


def error_object(error: RpcError) -> ErrorObject:
    """Return an error as it is sent."""
    return ErrorObject(error.wire_code, error.message, error.data)


def replace_texts(error: RpcError, message: str, data: Any) -> None:
    """Replace the message and data of a received error; its codes stay."""
    error._fill(error.code, message, data, error._wire_code)


def is_reserved_code(code: int) -> bool:
    """Return whether a code is reserved for built-in errors."""
    return any(code in codes for codes in _RESERVED)


def _checked_code(code: object) -> int:
    if isinstance(code, bool) or not isinstance(code, int):
        raise TypeError(f"error code must be an integer, not {code!r}")
    return int(code)


def _with_code(code: object, message: object, data: Any = None) -> tuple[int, str, Any]:
    return _checked_code(code), str(message), data


def _without_code(message: str | None = None, data: Any = None) -> tuple[str | None, Any]:
    return message, data


def _restore(cls: type[RpcError], code: int, message: str, data: Any, wire_code: int | None) -> RpcError:
    error = cls.__new__(cls)
    error._fill(code, message, data, wire_code)
    return error
