"""RPC errors and their registries: reserved codes, duplicates, inheritance, custom constructors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from metered_realtime import MeteredRealtimeError
from metered_realtime.core.rpc.messages import ErrorObject
from metered_realtime.rpc import built_in
from metered_realtime.rpc.errors import (
    ErrorRegistry,
    RpcError,
    built_in_errors,
    default_errors,
    error_object,
    is_reserved_code,
    registry_of,
)

LIVEKIT = {
    "APPLICATION_ERROR": (1500, "Application error in method handler"),
    "CONNECTION_TIMEOUT": (1501, "Connection timeout"),
    "RESPONSE_TIMEOUT": (1502, "Response timeout"),
    "RECIPIENT_DISCONNECTED": (1503, "Recipient disconnected"),
    "RESPONSE_PAYLOAD_TOO_LARGE": (1504, "Response payload too large"),
    "SEND_FAILED": (1505, "Failed to send"),
    "UNSUPPORTED_METHOD": (1400, "Method not supported at destination"),
    "RECIPIENT_NOT_FOUND": (1401, "Recipient not found"),
    "REQUEST_PAYLOAD_TOO_LARGE": (1402, "Request payload too large"),
    "UNSUPPORTED_SERVER": (1403, "RPC not supported by server"),
    "UNSUPPORTED_VERSION": (1404, "Unsupported RPC version"),
}


class Lost(RpcError, code=2_000, message="Lost"):
    """An error that the whole program knows."""


def test_the_codes_and_messages_are_livekits() -> None:
    found = {code.name: (code.value, RpcError.ErrorMessage[code]) for code in RpcError.ErrorCode}
    assert found == LIVEKIT


@pytest.mark.parametrize("name", LIVEKIT)
def test_every_built_in_code_has_a_class_with_its_message(name: str) -> None:
    code, message = LIVEKIT[name]
    error_class = built_in_errors.lookup(code)
    assert error_class is not None
    error = error_class()  # type: ignore[call-arg]
    assert (error.code, error.message, error.data, str(error)) == (code, message, None, message)


@pytest.mark.parametrize(
    ("code", "message", "error_class"),
    [
        (-32700, "Parse error", built_in.RpcParseError),
        (-32600, "Invalid Request", built_in.RpcInvalidRequestError),
        (-32601, "Method not supported at destination", built_in.RpcUnsupportedMethodError),
        (-32602, "Invalid params", built_in.RpcInvalidParamsError),
        (-32603, "Internal error", built_in.RpcInternalError),
        (-32000, "Application error in method handler", built_in.RpcApplicationError),
    ],
)
def test_the_standard_codes_have_their_classes(code: int, message: str, error_class: type[RpcError]) -> None:
    error = default_errors.decode(ErrorObject(code, "as it came"))
    assert type(error) is error_class
    assert (error.wire_code, error.message) == (code, "as it came")
    assert error_object(error_class()) == ErrorObject(code, message)  # type: ignore[call-arg]


def test_code_is_the_canonical_number_and_wire_code_what_stood_on_the_wire() -> None:
    for wire, canonical in ((-32601, 1400), (-32000, 1500), (1400, 1400), (-32602, -32602), (5, 5)):
        error = default_errors.decode(ErrorObject(wire, ""))
        assert (error.code, error.wire_code) == (canonical, wire)
    assert built_in.RpcUnsupportedMethodError().wire_code == -32601
    assert RpcError(1500, "mine").wire_code == -32000


def test_errors_of_an_implementation_are_server_errors_with_everything_untouched() -> None:
    error = default_errors.decode(ErrorObject(-32_050, "their own", {"x": 1}))
    assert type(error) is built_in.RpcServerError
    assert (error.code, error.message, error.data) == (-32_050, "their own", {"x": 1})


@pytest.mark.parametrize("code", [0, 1, -1, 999, 2_001, -32_100, -31_999, 10**18])
def test_an_unknown_code_is_a_plain_error_with_everything_untouched(code: int) -> None:
    error = default_errors.decode(ErrorObject(code, "m", [1]))
    assert type(error) is RpcError
    assert (error.code, error.wire_code, error.message, error.data) == (code, code, "m", [1])


def test_the_base_classes_distinguish_the_causes() -> None:
    bad_requests = {built_in.RpcParseError, built_in.RpcInvalidRequestError}
    bad_requests |= {built_in.RpcUnsupportedMethodError, built_in.RpcInvalidParamsError}
    bad_replies = {built_in.RpcInvalidReplyError, built_in.RpcUnknownIdError, built_in.RpcUnexpectedReplyError}
    assert bad_requests == set(built_in.RpcBadRequestError.__subclasses__())
    assert bad_replies == set(built_in.RpcBadReplyError.__subclasses__())
    assert issubclass(built_in.RpcInternalError, built_in.RpcServerError)
    assert issubclass(RpcError, MeteredRealtimeError)


def test_a_typed_error_is_raised_in_every_way_and_arrives_as_itself() -> None:
    for error in (Lost(), Lost("Lost"), Lost(message="Lost"), Lost(2_000, "Lost"), Lost(code=2_000, message="Lost")):
        assert (error.code, error.message, error.data) == (2_000, "Lost", None)
    assert Lost("where?", {"at": 1}).data == Lost(data={"at": 1}).data == {"at": 1}
    decoded = default_errors.decode(ErrorObject(2_000, "other words", {"at": 1}))
    assert type(decoded) is Lost
    assert (decoded.message, decoded.data) == ("other words", {"at": 1})


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((7,), {}), (("m",), {}), ((), {"message": "m"}), (("7", "m"), {}), ((True, "m"), {})],
)
def test_a_plain_error_needs_code_and_message(args: Any, kwargs: Any) -> None:
    with pytest.raises(TypeError):
        RpcError(*args, **kwargs)


def test_a_typed_error_has_no_other_code() -> None:
    with pytest.raises(TypeError, match="2000"):
        Lost(7, "x")


@pytest.mark.parametrize("code", [1_001, 1_500, 1_999, -32_768, -32_603, -32_000])
def test_reserved_codes_are_refused_when_the_class_is_made(code: int) -> None:
    assert is_reserved_code(code)
    with pytest.raises(ValueError, match="reserved"):
        type("Mine", (RpcError,), {}, code=code)
    with pytest.raises(ValueError, match="reserved"):
        type("Mine", (RpcError,), {}, code=code, registry=ErrorRegistry())


@pytest.mark.parametrize("code", [1_000, 2_000, -32_769, -31_999])
def test_codes_beside_the_reserved_ones_are_free(code: int) -> None:
    assert not is_reserved_code(code)
    assert type("Mine", (RpcError,), {}, code=code, registry=ErrorRegistry())


@pytest.mark.parametrize("code", ["1", 1.0, True, [1]])
def test_a_code_is_an_integer(code: Any) -> None:
    with pytest.raises(TypeError):
        type("Mine", (RpcError,), {}, code=code, registry=ErrorRegistry())


def test_one_code_twice_in_one_registry_is_refused_when_the_class_is_made() -> None:
    registry = ErrorRegistry()
    type("First", (RpcError,), {}, code=1, registry=registry)
    with pytest.raises(ValueError, match="First"):
        type("Second", (RpcError,), {}, code=1, registry=registry)
    with pytest.raises(ValueError, match="Lost"):
        type("Second", (RpcError,), {}, code=2_000)


def test_two_services_may_use_one_code_for_two_errors() -> None:
    class ErrorV1(RpcError, registry=ErrorRegistry()):
        pass

    class PermissionDenied(ErrorV1, code=1, message="permission denied"):
        pass

    class ErrorV2(RpcError, registry=ErrorRegistry()):
        pass

    class ResourceNotFound(ErrorV2, code=1, message="resource not found"):
        pass

    wire = ErrorObject(1, "")
    assert type(registry_of(ErrorV1).decode(wire)) is PermissionDenied
    assert type(registry_of(ErrorV2).decode(wire)) is ResourceNotFound
    assert type(default_errors.decode(wire)) is RpcError
    assert registry_of(None) is registry_of(RpcError) is default_errors


def test_a_code_is_looked_up_in_the_child_then_its_parents_then_the_default_then_the_built_in_errors() -> None:
    parent = ErrorRegistry()
    child = ErrorRegistry(parent=parent)
    theirs = type("Theirs", (RpcError,), {}, code=1, registry=parent)
    mine = type("Mine", (RpcError,), {}, code=1, registry=child)
    both = type("Both", (RpcError,), {}, code=2, registry=parent)
    assert [child.lookup(1), child.lookup(2), child.lookup(2_000)] == [mine, both, Lost]
    assert [parent.lookup(1), parent.lookup(2), default_errors.lookup(2)] == [theirs, both, None]
    assert child.lookup(-32_603) is built_in.RpcInternalError
    assert child.lookup(3) is None


def test_a_subclass_without_a_code_of_its_own_arrives_as_its_parent() -> None:
    class LostAtSea(Lost):
        pass

    assert LostAtSea().code == 2_000
    assert type(default_errors.decode(error_object(LostAtSea()))) is Lost


def test_a_subclass_with_a_code_of_its_own_arrives_as_itself_and_is_caught_as_its_parent() -> None:
    registry = ErrorRegistry()

    class LostForever(Lost, code=2_001, message="Lost for ever", registry=registry):
        pass

    decoded = registry.decode(error_object(LostForever()))
    assert isinstance(decoded, Lost)
    assert type(decoded) is LostForever
    assert decoded.message == "Lost for ever"


def test_a_subclass_of_a_built_in_error_belongs_to_the_program() -> None:
    class Unready(built_in.RpcServerError, code=2_002, message="Not ready"):
        pass

    assert default_errors.lookup(2_002) is Unready
    assert 2_002 not in built_in_errors._classes


def test_decoding_never_calls_a_constructor() -> None:
    registry = ErrorRegistry()

    class Picky(RpcError, code=1, message="picky", registry=registry):
        def __init__(self, account: int, *, missing: int) -> None:
            super().__init__(data={"account": account, "missing": missing})
            self.account = account

    sent = error_object(Picky(7, missing=3))
    decoded = registry.decode(sent)
    assert type(decoded) is Picky
    assert (decoded.message, decoded.data) == ("picky", {"account": 7, "missing": 3})


def test_a_class_that_fails_to_read_its_data_becomes_a_plain_error(caplog: pytest.LogCaptureFixture) -> None:
    registry = ErrorRegistry()

    class Reading(RpcError, code=1, registry=registry):
        account: int

        @classmethod
        def from_wire(cls, code: int, message: str, data: Any) -> Reading:
            error = super().from_wire(code, message, data)
            error.account = data["account"]
            return error

    read = registry.decode(ErrorObject(1, "m", {"account": 7}))
    assert isinstance(read, Reading)
    assert read.account == 7
    plain = registry.decode(ErrorObject(1, "m", "nonsense"))
    assert type(plain) is RpcError
    assert (plain.code, plain.message, plain.data) == (1, "m", "nonsense")
    assert ", in from_wire" in caplog.text


@pytest.mark.parametrize("error", [Lost("m", [1]), RpcError(7, "m", [1]), built_in.RpcBusyError()])
def test_errors_can_be_pickled_and_copied(error: RpcError) -> None:
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert (again.code, again.message, again.data) == (error.code, error.message, error.data)


def test_a_registry_refuses_a_class_without_a_code() -> None:
    with pytest.raises(ValueError, match="no code"):
        ErrorRegistry().add(built_in.RpcServerError)
