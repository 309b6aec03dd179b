"""Handlers, once, streams, and the end of them."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import metered_realtime as api
from metered_realtime.emitter import AsyncEventEmitter
from metered_realtime.events import DCMessage, DCOpen, Event, Message
from metered_realtime.log import NoopLogger, StdlibLogger
from tests.support.patience import takes_less_than


@dataclass(frozen=True, slots=True)
class Ping(Event):
    n: int = 0


@dataclass(frozen=True, slots=True)
class Pong(Event):
    n: int = 0


@dataclass(frozen=True, slots=True)
class LoudPing(Ping):
    pass


@dataclass(frozen=True, slots=True)
class TextSent(DCMessage):
    """An event with a base class that a listener may name."""

    data: str | bytes = ""


class ListLogger:
    def __init__(self) -> None:
        self.errors: list[tuple[str, dict[str, Any] | None]] = []

    def debug(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def info(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def warning(self, msg: str, ctx: dict[str, Any] | None = None) -> None: ...
    def error(self, msg: str, ctx: dict[str, Any] | None = None) -> None:
        self.errors.append((msg, ctx))


class Door(AsyncEventEmitter):
    """The smallest thing that closes."""

    async def close(self) -> None:
        self._enter_close()
        await asyncio.shield(asyncio.ensure_future(self._shut_down_emitter(0.5, 0.1)))


# --- handlers


def test_handlers_run_in_the_order_of_their_registration() -> None:
    emitter, seen = AsyncEventEmitter(), list[str]()
    emitter.on(Ping, lambda _: seen.append("first"))
    emitter.on(Event, lambda _: seen.append("base"))
    emitter.on(Ping, lambda _: seen.append("second"))
    emitter.emit(Ping())
    assert seen == ["first", "base", "second"]


def test_on_is_a_decorator_too_and_returns_the_handler() -> None:
    emitter, seen = AsyncEventEmitter(), list[int]()

    @emitter.on(Ping)
    def note(ping: Ping) -> None:
        seen.append(ping.n)

    @emitter.once(Ping)
    def note_once(ping: Ping) -> None:
        seen.append(-ping.n)

    assert emitter.on(Pong, note) is note
    emitter.emit(Ping(1))
    emitter.emit(Ping(2))
    assert seen == [1, -1, 2]
    note_once(Ping(3))
    assert seen[-1] == -3


def test_a_base_class_receives_the_events_of_its_subclasses_and_no_others() -> None:
    emitter, seen = AsyncEventEmitter(), list[Event]()
    emitter.on(Ping, seen.append)
    for event in (Ping(1), LoudPing(2), Pong(3)):
        emitter.emit(event)
    assert seen == [Ping(1), LoudPing(2)]


def test_the_same_handler_may_be_registered_twice_and_is_removed_one_by_one() -> None:
    emitter, seen = AsyncEventEmitter(), list[Event]()
    emitter.on(Ping, seen.append)
    emitter.on(Ping, seen.append)
    emitter.emit(Ping())
    assert len(seen) == 2
    emitter.off(Ping, seen.append)
    emitter.emit(Ping())
    assert len(seen) == 3
    emitter.off(Ping, seen.append)
    emitter.off(Ping, seen.append)
    emitter.emit(Ping())
    assert len(seen) == 3


def test_off_with_the_original_function_cancels_once() -> None:
    emitter, seen = AsyncEventEmitter(), list[Event]()
    emitter.once(Ping, seen.append)
    assert emitter.listener_count(Ping) == 1
    emitter.off(Ping, seen.append)
    assert emitter.listener_count(Ping) == 0
    emitter.emit(Ping())
    assert seen == []


def test_once_is_removed_before_it_runs() -> None:
    emitter, seen = AsyncEventEmitter(), list[int]()

    def emit_again(ping: Ping) -> None:
        seen.append(ping.n)
        emitter.emit(Ping(ping.n + 1))

    emitter.once(Ping, emit_again)
    emitter.emit(Ping(1))
    assert seen == [1]


def test_handlers_may_come_and_go_while_an_event_is_told() -> None:
    emitter, seen = AsyncEventEmitter(), list[str]()

    def leave(_: Ping) -> None:
        emitter.off(Ping, leave)
        emitter.on(Ping, lambda _: seen.append("new"))

    emitter.on(Ping, leave)
    emitter.on(Ping, lambda _: seen.append("old"))
    emitter.emit(Ping())
    assert seen == ["old"]
    emitter.emit(Ping())
    assert seen == ["old", "old", "new"]


def test_a_handler_that_raises_is_logged_and_harms_nobody_else() -> None:
    logger, seen = ListLogger(), list[Event]()
    emitter = AsyncEventEmitter(logger)

    @emitter.on(Ping)
    def fail(_: Ping) -> None:
        raise ValueError("oops")

    emitter.on(Ping, seen.append)
    emitter.emit(Ping())
    assert seen == [Ping()]
    ((message, context),) = logger.errors
    assert message == "event handler failed"
    assert context is not None
    assert (context["event"], context["error"]) == ("Ping", "ValueError: oops")
    assert 'raise ValueError("oops")' in context["traceback"]


def fail_with_oops(_: Ping) -> None:
    raise ValueError("oops")


async def fail_later_with_oops(_: Ping) -> None:
    raise ValueError("oops")


@pytest.mark.parametrize("handler", [fail_with_oops, fail_later_with_oops])
@pytest.mark.parametrize("logger", [None, NoopLogger()])
async def test_by_default_a_mistake_in_a_handler_is_logged_by_logging_with_its_traceback(
    logger: NoopLogger | None, handler: Any, caplog: pytest.LogCaptureFixture
) -> None:
    emitter = AsyncEventEmitter(logger)
    emitter.on(Ping, handler)
    emitter.emit(Ping())
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("metered_realtime", "ERROR")
    assert "event handler failed event='Ping'" in record.getMessage()
    assert f"in {handler.__name__}" in caplog.text


async def test_a_mistake_goes_to_the_logger_of_the_program_alone(caplog: pytest.LogCaptureFixture) -> None:
    emitter = AsyncEventEmitter(StdlibLogger(logging.getLogger("program")))
    emitter.on(Ping, fail_with_oops)
    emitter.emit(Ping())
    (record,) = caplog.records
    assert record.name == "program"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "oops"


def test_a_mistake_is_printed_where_logging_is_not_configured() -> None:
    program = """
        from metered_realtime.emitter import AsyncEventEmitter
        from metered_realtime.events import Event
        def mistaken(event): raise ValueError("oops")
        emitter = AsyncEventEmitter()
        emitter.on(Event, mistaken)
        emitter.emit(Event())
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True)
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().endswith("ValueError: oops")


async def test_an_async_handler_that_raises_is_logged() -> None:
    logger = ListLogger()
    emitter = AsyncEventEmitter(logger)

    @emitter.on(Ping)
    async def fail(_: Ping) -> None:
        raise ValueError("oops")

    emitter.emit(Ping())
    await asyncio.sleep(0)
    assert [msg for msg, _ in logger.errors] == ["event handler failed"]


def test_an_async_handler_without_a_running_loop_is_logged_and_not_left_unawaited() -> None:
    logger = ListLogger()
    emitter = AsyncEventEmitter(logger)

    @emitter.on(Ping)
    async def never(_: Ping) -> None:
        raise AssertionError

    emitter.emit(Ping())
    assert len(logger.errors) == 1


@pytest.mark.parametrize("wrong", [int, "Ping", None, Ping()])
def test_only_event_classes_can_be_registered_for(wrong: Any) -> None:
    emitter = AsyncEventEmitter()
    for register in (emitter.on, emitter.once):
        with pytest.raises(TypeError):
            register(wrong, print)
    with pytest.raises(TypeError):
        emitter.events(wrong)


def test_handlers_have_to_be_callable() -> None:
    emitter: Any = AsyncEventEmitter()
    with pytest.raises(TypeError):
        emitter.on(Ping, "print")


# --- streams


async def test_a_stream_yields_what_was_told_since_it_was_asked_for() -> None:
    emitter = AsyncEventEmitter()
    emitter.emit(Ping(0))
    stream = emitter.events(Ping)
    emitter.emit(Ping(1))
    emitter.emit(Pong(2))
    emitter.emit(LoudPing(3))
    stream.close()
    emitter.emit(Ping(4))
    assert [event.n async for event in stream] == [1, 3]
    assert emitter.listener_count(Ping) == 0


async def test_streams_are_fed_after_the_handlers() -> None:
    emitter = AsyncEventEmitter()
    stream = emitter.events(Ping)
    waiting: list[bool] = []
    emitter.on(Ping, lambda _: waiting.append(not stream._events))
    emitter.emit(Ping())
    assert waiting == [True]
    assert await anext(stream) == Ping()


async def test_a_full_stream_drops_the_oldest_and_counts() -> None:
    emitter = AsyncEventEmitter()
    bounded, unbounded = emitter.events(Ping, maxsize=2), emitter.events(Ping, maxsize=0)
    for n in range(5):
        emitter.emit(Ping(n))
    bounded.close()
    unbounded.close()
    assert [event.n async for event in bounded] == [3, 4]
    assert len([event async for event in unbounded]) == 5
    assert (bounded.dropped, unbounded.dropped) == (3, 0)


async def test_a_stream_is_a_context_manager() -> None:
    emitter = AsyncEventEmitter()
    async with emitter.events(Ping) as stream:
        emitter.emit(Ping(1))
        assert (await anext(stream)).n == 1
    assert [event async for event in stream] == []


async def test_a_cancelled_reader_loses_no_event() -> None:
    emitter = AsyncEventEmitter()
    stream = emitter.events(Ping)
    reader = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    emitter.emit(Ping(1))
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert (await anext(stream)).n == 1


async def test_several_readers_share_a_stream() -> None:
    emitter = AsyncEventEmitter()
    stream = emitter.events(Ping)
    readers = [asyncio.ensure_future(anext(stream)) for _ in range(3)]
    await asyncio.sleep(0)
    for n in range(3):
        emitter.emit(Ping(n))
    assert [event.n for event in await asyncio.gather(*readers)] == [0, 1, 2]


def test_a_negative_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="maxsize"):
        AsyncEventEmitter().events(Ping, maxsize=-1)


# --- the end


async def test_at_the_end_streams_deliver_what_they_hold_and_stop_for_good() -> None:
    door = Door()
    stream = door.events(Ping)
    reader = asyncio.ensure_future(anext(door.events(Pong), None))
    door.emit(Ping(1))
    await asyncio.sleep(0)
    await door.close()
    assert await reader is None
    assert [event.n async for event in stream] == [1]
    assert [event.n async for event in stream] == []
    assert [event async for event in door.events(Ping)] == []


async def test_at_the_end_handlers_are_dropped() -> None:
    door, seen = Door(), list[Event]()
    door.on(Ping, seen.append)
    door.emit(Ping(1))
    await door.close()
    door.emit(Ping(2))
    assert seen == [Ping(1)]
    assert door.listener_count(Ping) == 0


async def test_running_handlers_may_finish() -> None:
    door, finished = Door(), list[int]()

    @door.on(Ping)
    async def slow(_: Ping) -> None:
        await asyncio.sleep(0.01)
        finished.append(1)

    door.emit(Ping())
    await door.close()
    assert finished == [1]


async def test_handlers_that_take_too_long_are_cancelled() -> None:
    door, cancelled = Door(), asyncio.Event()

    @door.on(Ping)
    async def endless(_: Ping) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    door.emit(Ping())
    await asyncio.sleep(0)
    await door.close()
    assert cancelled.is_set()


async def test_close_inside_handlers_waits_for_neither_of_them() -> None:
    door, closed = Door(), list[int]()

    async def leave(n: int) -> None:
        await asyncio.sleep(n / 200)
        await door.close()
        closed.append(n)

    for n in range(3):
        door.on(Ping, lambda _, n=n: leave(n))
    async with takes_less_than(0.4):
        door.emit(Ping())
        await asyncio.gather(*door._handler_tasks)
    assert sorted(closed) == [0, 1, 2]


# --- events that never come


class Bell(AsyncEventEmitter):
    _EMITS = frozenset({DCOpen, TextSent})


@dataclass(frozen=True, slots=True)
class Chime(Event):
    """An event of a program."""


LISTENERS: dict[str, Callable[[AsyncEventEmitter], object]] = {
    "on": lambda bell: bell.on(Message, print),
    "once": lambda bell: bell.once(Message, print),
    "events": lambda bell: bell.events(Message),
    "decorator": lambda bell: bell.on(Message)(print),
}


@pytest.mark.parametrize("way", LISTENERS)
def test_a_listener_for_an_event_that_never_comes_is_warned_of_where_it_is_added(way: str) -> None:
    with pytest.warns(UserWarning, match="Bell never emits Message; what it emits: DCOpen, TextSent") as caught:
        LISTENERS[way](Bell())
    assert [it.filename for it in caught] == [__file__]


@pytest.mark.parametrize("kind", [DCOpen, Event, DCMessage, TextSent, Chime])
def test_a_listener_for_an_event_that_may_come_is_not_warned_of(kind: type[Event]) -> None:
    bell = Bell()
    bell.on(kind, print)
    bell.events(kind).close()


def test_an_emitter_that_does_not_say_what_it_emits_takes_any_listener() -> None:
    AsyncEventEmitter().on(Message, print)


OBJECTS = [
    api.SignallingClient, api.MeteredPeer, api.RemotePeer, api.DataChannel, api.ManagedChannel, api.PeerChannel,
    api.OneShotConnection, api.Bridge, api.Chat,
]  # fmt: skip


def test_every_event_is_emitted_by_something_and_everything_says_what_it_emits() -> None:
    events = {it for name in api.__all__ if isinstance(it := getattr(api, name), type) and issubclass(it, Event)}
    emitted = {event for cls in OBJECTS for event in cls._EMITS or ()}
    assert emitted == events - {Event}


@pytest.mark.parametrize("cls", OBJECTS)
def test_the_docstring_of_an_emitter_names_what_it_emits(cls: type[AsyncEventEmitter]) -> None:
    missing = {it.__name__ for it in cls._EMITS or () if f"`{it.__name__}`" not in (cls.__doc__ or "")}
    assert not missing
