"""Typed events, received by handlers, `once` or `async for`.

Dispatch is synchronous and in registration order: plain handlers run inline, the awaitables that handlers return run
as tasks, then streams receive the event. An exception in a handler is logged and does not affect other listeners.
"""

from __future__ import annotations

import asyncio
import inspect
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, ClassVar, Generic, TypeVar, overload

from .events import Event
from .events.emitted import EventTypes
from .log import Logger, NoopLogger, log_exception

E = TypeVar("E", bound=Event)
Handler = Callable[[E], Any]

OWN_EVENTS = f"{__package__}.events"
"""Where the events of this package are defined. A program may emit events of its own on any object."""

HANDLER_DRAIN_TIMEOUT = 1.0
"""Seconds that running handlers may take when the emitter shuts down, before they are cancelled."""

HANDLER_CANCEL_TIMEOUT = 0.5
"""Seconds that cancelled handlers may take to clean up, before they are no longer waited for."""


class _Registration:
    __slots__ = ("handler", "once", "sequence")

    def __init__(self, handler: Callable[[Any], Any], once: bool, sequence: int) -> None:
        self.handler = handler
        self.once = once
        self.sequence = sequence


_Route = tuple[tuple[_Registration, ...], tuple["EventStream[Any]", ...]]


class EventStream(Generic[E]):
    """An async iterator over the events of one type, from the call of `events()` on.

    At most `maxsize` events wait. When that is exceeded the oldest is dropped, and counted in `dropped`. The iteration
    ends, after the queued events, when the emitter shuts down or the stream is closed.
    """

    def __init__(self, maxsize: int, detach: Callable[[EventStream[E]], None]) -> None:
        if maxsize < 0:
            raise ValueError(f"maxsize must be at least 0, not {maxsize}")
        self.dropped = 0
        self._events: deque[E] = deque()
        self._maxsize = maxsize
        self._detach = detach
        self._ended = False
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __aiter__(self) -> EventStream[E]:
        return self

    async def __anext__(self) -> E:
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return self._events.popleft()

    async def __aenter__(self) -> EventStream[E]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop receiving events. Those in the queue can still be read."""
        self._detach(self)
        self._end()

    def _feed(self, event: E) -> None:
        if self._maxsize and len(self._events) >= self._maxsize:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._wake()

    def _end(self) -> None:
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)


class AsyncEventEmitter:
    """Base class of the objects that emit events.

    A listener for an event of this package that the object never emits causes a `UserWarning`. Base classes, events of
    the program's own, and a class without `_EMITS` cause none.
    """

    _EMITS: ClassVar[EventTypes | None] = None
    """The events of this package that the class emits, None if anything may be emitted."""

    def __init__(self, logger: Logger | None = None) -> None:
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._handlers: dict[type[Event], list[_Registration]] = {}
        self._streams: dict[type[Event], list[EventStream[Any]]] = {}
        self._handler_tasks: set[asyncio.Task[Any]] = set()
        self._closing_tasks: set[asyncio.Task[Any] | None] = set()
        self._drains: set[asyncio.Future[None]] = set()
        self._routes: dict[type[Event], _Route] = {}
        self._sequence = 0
        self._emitter_closed = False

    @overload
    def on(self, event_type: type[E]) -> Callable[[Handler[E]], Handler[E]]: ...
    @overload
    def on(self, event_type: type[E], handler: Handler[E]) -> Handler[E]: ...
    def on(self, event_type: type[E], handler: Handler[E] | None = None) -> Any:
        """Register `handler` for every event of the type, and return it. Usable as a decorator."""
        return self._register(event_type, handler, once=False)

    @overload
    def once(self, event_type: type[E]) -> Callable[[Handler[E]], Handler[E]]: ...
    @overload
    def once(self, event_type: type[E], handler: Handler[E]) -> Handler[E]: ...
    def once(self, event_type: type[E], handler: Handler[E] | None = None) -> Any:
        """Register `handler` for the next event of the type only. `off` with the same function removes it."""
        return self._register(event_type, handler, once=True)

    def off(self, event_type: type[E], handler: Handler[E]) -> None:
        """Remove the first registration of `handler`. Unknown handlers are ignored."""
        registrations = self._handlers.get(event_type, [])
        for index, registration in enumerate(registrations):
            if registration.handler == handler:
                self._handlers[event_type] = registrations[:index] + registrations[index + 1 :]
                self._routes.clear()
                return

    def events(self, event_type: type[E], *, maxsize: int = 4096) -> EventStream[E]:
        """Return an async iterator over the events of the type from now on. `maxsize=0` means no limit."""
        self._check_type(event_type, depth=2)
        stream: EventStream[E] = EventStream(maxsize, lambda it: self._detach_stream(event_type, it))
        if self._emitter_closed:
            stream._end()
        else:
            self._streams.setdefault(event_type, []).append(stream)
            self._routes.clear()
        self._listener_added(event_type)
        return stream

    def listener_count(self, event_type: type[Event]) -> int:
        """Return how many handlers are registered for exactly this type. Streams do not count."""
        return len(self._handlers.get(event_type, ()))

    def emit(self, event: Event) -> None:
        """Dispatch an event to the handlers and streams of its class and of its base classes."""
        registrations, streams = self._routes.get(type(event)) or self._route(type(event))
        for registration in registrations:
            if registration.once and not self._take(registration):
                continue
            self._call(registration.handler, event)
        for stream in streams:
            stream._feed(event)

    def _route(self, event_type: type[Event]) -> _Route:
        """Collect the listeners of a type, and cache them until a listener is added or removed."""
        lineage = [cls for cls in event_type.__mro__ if issubclass(cls, Event)]
        registrations = [it for cls in lineage for it in self._handlers.get(cls, ())]
        registrations.sort(key=lambda registration: registration.sequence)
        streams = [stream for cls in lineage for stream in self._streams.get(cls, ())]
        route = self._routes[event_type] = (tuple(registrations), tuple(streams))
        return route

    def _register(
        self, event_type: type[E], handler: Handler[E] | None, *, once: bool
    ) -> Handler[E] | Callable[[Handler[E]], Handler[E]]:
        self._check_type(event_type, depth=3)
        if handler is None:
            return lambda function: self._add(event_type, function, once)
        return self._add(event_type, handler, once)

    def _add(self, event_type: type[E], handler: Handler[E], once: bool) -> Handler[E]:
        if not callable(handler):
            raise TypeError(f"handler must be callable, not {handler!r}")
        self._sequence += 1
        registration = _Registration(handler, once, self._sequence)
        self._handlers[event_type] = [*self._handlers.get(event_type, ()), registration]
        self._routes.clear()
        self._listener_added(event_type)
        return handler

    def _take(self, registration: _Registration) -> bool:
        """Remove a `once` registration before it runs. Return False if a nested `emit` or `off` already has."""
        for event_type, registrations in self._handlers.items():
            if registration in registrations:
                self._handlers[event_type] = [it for it in registrations if it is not registration]
                self._routes.clear()
                return True
        return False

    def _call(self, handler: Callable[[Any], Any], event: Event) -> None:
        try:
            result = handler(event)
        except Exception as error:
            self._log_handler_error(event, error)
            return
        if result is not None and inspect.isawaitable(result):
            self._run_handler(result, event)

    def _run_handler(self, awaitable: Awaitable[Any], event: Event) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            if inspect.iscoroutine(awaitable):
                awaitable.close()
            self._log_handler_error(event, error)
            return
        task = loop.create_task(self._finish_handler(awaitable, event))
        self._handler_tasks.add(task)
        task.add_done_callback(self._handler_tasks.discard)

    async def _finish_handler(self, awaitable: Awaitable[Any], event: Event) -> None:
        try:
            await awaitable
        except Exception as error:
            self._log_handler_error(event, error)

    def _log_handler_error(self, event: Event, error: Exception) -> None:
        log_exception(self._logger, "event handler failed", error, {"event": type(event).__name__})

    def _check_type(self, event_type: type[Event], *, depth: int) -> None:
        """Refuse what is no event, and warn of an event that never comes, `depth` calls below the program."""
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise TypeError(f"an event class is needed, not {event_type!r}")
        is_ours = event_type.__module__.startswith(OWN_EVENTS)
        if self._EMITS is None or not is_ours or any(issubclass(it, event_type) for it in self._EMITS):
            return
        emitted = ", ".join(sorted(it.__name__ for it in self._EMITS))
        text = f"{type(self).__name__} never emits {event_type.__name__}; what it emits: {emitted}"
        warnings.warn(text, UserWarning, stacklevel=depth + 1)

    def _detach_stream(self, event_type: type[Event], stream: EventStream[Any]) -> None:
        streams = self._streams.get(event_type, [])
        if stream in streams:
            streams.remove(stream)
            self._routes.clear()

    def _listener_added(self, event_type: type[Event]) -> None:
        """Called after a handler or stream was registered. For subclasses that hold events for the first one."""

    def _is_heard(self, event_type: type[Event]) -> bool:
        """Return whether an event of this type would reach any listener."""
        registrations, streams = self._routes.get(event_type) or self._route(event_type)
        return bool(registrations or streams)

    def _drop_listeners(self) -> None:
        """Remove the handlers and end the streams. Running handlers continue."""
        self._emitter_closed = True
        self._handlers.clear()
        streams = [stream for group in self._streams.values() for stream in group]
        self._streams.clear()
        self._routes.clear()
        for stream in streams:
            stream._end()

    def _enter_close(self) -> None:
        """Mark the running task as one inside `close()`: the drain does not wait for it."""
        self._closing_tasks.add(asyncio.current_task())
        for changed in self._drains:
            if not changed.done():
                changed.set_result(None)

    async def _shut_down_emitter(
        self, drain_timeout: float = HANDLER_DRAIN_TIMEOUT, cancel_timeout: float = HANDLER_CANCEL_TIMEOUT
    ) -> None:
        """Remove the handlers, end the streams, and wait for running handlers before cancelling them.

        Handler tasks that are themselves inside `close()` are neither waited for nor cancelled.
        """
        self._drop_listeners()
        late = await self._drain_handlers(drain_timeout)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=cancel_timeout)
        if not self._drains:
            self._closing_tasks.clear()

    async def _drain_handlers(self, timeout: float) -> set[asyncio.Task[Any]]:
        """Wait for the running handlers. Return those that did not finish in time."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while running := self._handler_tasks - self._closing_tasks - {asyncio.current_task()}:
            if loop.time() >= deadline:
                return running
            # Wakes when another handler enters `close()`, which must not be waited for.
            changed = loop.create_future()
            self._drains.add(changed)
            try:
                waited = {*running, changed}
                await asyncio.wait(waited, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._drains.discard(changed)
        return set()

    def _reopen_emitter(self) -> None:
        self._emitter_closed = False


def enter_close(emitters: Iterable[AsyncEventEmitter]) -> None:
    """Mark the running task as one inside `close()`: the drains of these emitters do not wait for it."""
    for emitter in emitters:
        emitter._enter_close()


def listens_for(emitter: AsyncEventEmitter, event_type: type[Event]) -> bool:
    """Return whether a handler or stream is registered for exactly this type. Those for a base class only watch."""
    return bool(emitter._handlers.get(event_type) or emitter._streams.get(event_type))
