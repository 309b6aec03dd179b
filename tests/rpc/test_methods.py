"""Registering methods, and binding the parameters of calls to their arguments."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pytest

from metered_realtime.core.rpc.messages import Params
from metered_realtime.rpc.built_in import RpcInvalidParamsError, RpcUnsupportedMethodError
from metered_realtime.rpc.methods import RpcInvocationData, RpcMethods


@dataclass
class Point:
    x: int
    y: int = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("secret words of the program")


def invocation() -> RpcInvocationData:
    return RpcInvocationData("1", "ann", "", 15.0)


def call(function: Any, params: Params) -> Any:
    methods = RpcMethods()
    methods.add("m", function)
    return methods.get("m").bind(params, invocation())()


def test_parameters_come_by_position_and_by_name() -> None:
    def subtract(minuend: int, subtrahend: int = 1) -> int:
        return minuend - subtrahend

    assert call(subtract, [42, 23]) == call(subtract, {"subtrahend": 23, "minuend": 42}) == 19
    assert call(subtract, [42]) == 41


@pytest.mark.parametrize("params", [None, [], {}, [1, 2, 3], {"a": 1}, ["1", 2], [1.5, 2], [None, 2], {"b": 1}])
def test_parameters_that_do_not_fit_are_invalid_params(params: Params) -> None:
    def add(a: int, b: int) -> int:
        raise AssertionError("it must not run")

    with pytest.raises(RpcInvalidParamsError) as caught:
        call(add, params)
    assert caught.value.code == -32602
    assert isinstance(caught.value.data, str)


def test_values_are_converted_to_the_annotations() -> None:
    def typed(point: Point, kind: Literal["a", "b"], *more: float, **names: list[int]) -> Any:
        return point, kind, more, names

    assert call(typed, [{"x": 1}, "a", 2]) == (Point(1), "a", (2.0,), {})
    assert call(typed, {"point": {"x": 1, "y": 2}, "kind": "b", "n": [3]}) == (Point(1, 2), "b", (), {"n": [3]})
    for params in ([{"x": "1"}, "a"], [{"x": 1}, "c"], [{"x": 1}, "a", "2"], {"point": {"x": 1}, "kind": "a", "n": 3}):
        with pytest.raises(RpcInvalidParamsError):
            call(typed, params)


def test_the_text_of_a_check_of_the_program_is_not_sent() -> None:
    def typed(point: Point) -> None: ...

    with pytest.raises(RpcInvalidParamsError) as caught:
        call(typed, [{"x": -1}])
    assert "secret" not in str(caught.value.data)


def test_a_type_error_of_the_function_is_its_own() -> None:
    def broken(a: Any) -> Any:
        return len(a)

    with pytest.raises(TypeError):
        call(broken, [1])


def test_parameters_without_annotations_are_not_checked() -> None:
    assert call(lambda a, b=2: (a, b), [[1]]) == ([1], 2)
    assert call(partial(max, 3), [5]) == 5
    assert call(math.hypot, [3, 4]) == 5.0


@pytest.mark.parametrize("params", [[1, 2], {"a": 1, "b": 2}])
def test_a_function_may_receive_the_context_of_the_call(params: Params) -> None:
    def told(a: int, who: RpcInvocationData, b: int) -> Any:
        return a, who.caller_identity, b

    assert call(told, params) == (1, "ann", 2)
    with pytest.raises(RpcInvalidParamsError):
        call(told, {"a": 1, "b": 2, "who": {}})


def test_methods_of_objects_can_be_offered() -> None:
    class Account:
        def balance(self, year: int) -> int:
            return year

    assert call(Account().balance, [5]) == 5


def test_text_handlers_take_one_text() -> None:
    methods = RpcMethods()
    methods.add_text("echo", lambda data: data)
    method = methods.get("echo")
    data = method.bind(["hello"], invocation())()
    assert data == RpcInvocationData(request_id="1", caller_identity="ann", payload="hello", response_timeout=15.0)
    assert method.bind({"payload": "x"}, invocation())().payload == "x"
    bad: list[Params] = [None, [], [1], ["a", "b"], {"payload": 1}, {"payload": "x", "more": 1}]
    for params in bad:
        with pytest.raises(RpcInvalidParamsError):
            method.bind(params, invocation())


def test_decorators_register_and_return_the_function() -> None:
    methods = RpcMethods()

    @methods.method
    def plain() -> int:
        return 1

    @methods.method("other.name")
    def named() -> int:
        return 2

    @methods.method(replace=True)
    def again() -> int:
        return 3

    assert (plain(), named(), again()) == (1, 2, 3)
    assert all(name in methods for name in ("plain", "other.name", "again"))


def test_a_name_is_taken_once_unless_replaced() -> None:
    methods = RpcMethods()
    methods.add("m", lambda: 1)
    for register in (methods.add, methods.add_text):
        with pytest.raises(ValueError, match="replace=True"):
            register("m", lambda *_: 2)
    methods.add("m", lambda: 3, replace=True)
    assert methods.get("m").bind(None, invocation())() == 3
    methods.remove("m")
    methods.remove("m")
    with pytest.raises(RpcUnsupportedMethodError):
        methods.get("m")


@pytest.mark.parametrize("name", ["", "$/cancelRequest", "rpc.discover", None, 5])
def test_names_of_the_protocol_are_not_for_programs(name: Any) -> None:
    with pytest.raises(ValueError, match="name"):
        RpcMethods().add(name, lambda: 1)


def test_annotations_that_no_received_value_can_match_are_refused() -> None:
    class Unknown:
        pass

    def closed(it: Any) -> None: ...

    closed.__annotations__ = {"it": Unknown}
    with pytest.raises(TypeError, match="Unknown"):
        RpcMethods().add("m", closed)
    with pytest.raises(TypeError, match="callable"):
        RpcMethods().add("m", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="callable"):
        RpcMethods().add_text("m", 5)  # type: ignore[arg-type]
    closed.__annotations__ = {"it": "NoSuchName"}
    with pytest.raises(TypeError, match="NoSuchName"):
        RpcMethods().add("m", closed)
