"""Calls with one remote, in both directions, over whatever channels there are to it.

The decisions are those of `core.rpc.Caller` and `core.rpc_serving.Callee`; `Calls` and `Handlers` carry them out, and
this has the channels, each a `Lane`. Calls go out on one lane for each format, opened when first needed, or on one that
the remote opened; what comes in on any lane is served. The owner tells when the connection below was replaced, and when
the remote is gone.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..core import rpc_serving as serving
from ..core.rpc import DEFAULT_TIMEOUT, MAX_TIMEOUT
from ..core.rpc_chunks import CHUNK_SIZE, MAX_MESSAGE_SIZE
from ..core.rpc_messages import HELLO, BadReply, BadRequest, Failure, Inbound, Notification, Request, Success
from ..errors import MeteredRealtimeError
from ..log import Logger, NoopLogger
from ..rpc.built_in import (
    RpcConnectionTimeoutError,
    RpcRecipientNotFoundError,
    RpcSendError,
    RpcUnknownIdError,
    RpcUnsupportedVersionError,
)
from ..rpc.codec import DEFAULT_FORMAT, RpcFormat, RpcPath, codec_of
from ..rpc.errors import ErrorRegistry, RpcError, default_errors
from ..rpc.methods import RpcMethods
from .rpc_calls import CallItem, Calls, Outcome
from .rpc_handlers import Handlers
from .rpc_lane import Lane
from .rpc_transports import RpcTransport

RpcVia = Literal["auto", "p2p", "server"]
"""How calls travel: directly, through the signalling server, or directly unless that cannot be."""

MAX_LANES = 8
"""Channels of one remote that are served. It needs one or two."""

DIRECT_PATIENCE = 5.0
"""Seconds after which a call that may travel through the server does, if no direct channel has opened."""

LOSS_GRACE = 1.0
"""Seconds after the end of a channel in which its connection may turn out to have failed, and be replaced."""

CLOSE_TIMEOUT = 1.0
"""Seconds that cancelled handlers may take to clean up."""

_UNREADABLE = (BadRequest(None, -32700),)

OpenTransport = Callable[[RpcFormat, RpcPath], RpcTransport]


@dataclass(frozen=True, slots=True)
class RpcStats:
    """Figures of an endpoint: what is under way now, and counters since it was made."""

    pending: int
    running: int
    queued: int
    channels: int
    dropped_answers: int
    dropped_notifications: int
    repeated_requests: int
    malformed: int


@dataclass(frozen=True, slots=True)
class _Ended:
    """Note that a handler has ended."""

    ticket: int


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
        self._open_transport = open_transport
        self._is_connected = is_connected
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._loop = asyncio.get_running_loop()
        self._session = uuid.uuid4().hex
        self._calls = Calls(self)
        self._callee = serving.Callee()
        self._handlers = Handlers(methods, identity, self._logger, self._answered, debug=debug)
        self._effects: deque[serving.Effect | _Ended] = deque()
        self._is_performing = False
        self._lanes: dict[int, Lane] = {}
        self._own: dict[tuple[RpcFormat, RpcPath], Lane] = {}
        self._former: dict[tuple[RpcFormat, RpcPath], Lane] = {}
        self._lost: dict[int, Lane] = {}
        self._verdict: asyncio.Future[None] = self._loop.create_future()
        self._unwritten: set[int] = set()
        self._ended_early: set[int] = set()
        self._last_lane = 0
        self._malformed = 0
        self._timer: asyncio.TimerHandle | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._is_closed = False

    # --- for its owner

    def serve(self, transport: RpcTransport, name: RpcFormat = DEFAULT_FORMAT, path: RpcPath = "p2p") -> Lane | None:
        """Serve a channel that the remote opened. None, and it is closed, if there are too many."""
        if self._is_closed or len(self._lanes) >= MAX_LANES:
            self._logger.warning("rpc channel refused", {"peer": self.identity})
            transport.close()
            return None
        return self._attach(transport, name, path)

    def transport_replaced(self) -> None:
        """Go on over a new connection: the direct channels are gone, and what has no answer is sent again, once."""
        gone = [lane for lane in (*self._lanes.values(), *self._lost.values()) if lane.path == "p2p"]
        for lane in gone:
            self._detach(lane)
            self._lost.pop(lane.number, None)
            self._former[lane.format, lane.path] = lane
        self._announce_verdict()
        for lane in gone:
            may_remember = lane.remembers or not lane.has_met
            self._calls.perform(self._calls.caller.replaced(lane.number, remembers=may_remember))

    def transport_failed(self) -> None:
        """Give up: the connection below the direct channels will not be replaced. Later calls may open another one."""
        for lane in tuple(self._lanes.values()):
            if lane.path == "p2p":
                self.lane_failed(lane)
        self._settle_lost()

    def close(self) -> None:
        """End it: the remote is gone. Handlers are cancelled.

        Idempotent. Calls that wait fail with `RpcRecipientDisconnectedError`, later ones with
        `RpcRecipientNotFoundError`.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._calls.perform(self._calls.caller.end())
        self._perform(self._callee.end())
        for lane in tuple(self._lanes.values()):
            self._detach(lane)
        self._lost.clear()
        self._announce_verdict()
        for timer in (self._timer, self._grace):
            if timer is not None:
                timer.cancel()

    async def wait_closed(self) -> None:
        """Close, and return when the handlers have ended or have had their time. May be awaited in a handler."""
        self.close()
        tasks = [task for task in self._handlers.tasks if task is not asyncio.current_task()]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_TIMEOUT)

    def stats(self) -> RpcStats:
        """Return the figures now."""
        return RpcStats(
            pending=len(self._calls.caller),
            running=self._callee.running,
            queued=self._callee.queued,
            channels=len(self._lanes),
            dropped_answers=self._calls.caller.dropped_answers,
            dropped_notifications=self._callee.dropped_notifications,
            repeated_requests=self._callee.repeated_requests,
            malformed=self._malformed,
        )

    # --- calling

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
        lane = await self._open_lane(format, via, deadline)
        return await self._calls.make(lane, items, timeout=timeout, deadline=deadline, is_batch=is_batch)

    async def _open_lane(self, name: RpcFormat, via: RpcVia, deadline: float) -> Lane:
        """Return a lane that is open, opening one if there is none."""
        while True:
            lane = self._choose_lane(name, via)
            now = self._loop.time()
            patience = DIRECT_PATIENCE if via == "auto" and lane.path == "p2p" else deadline - now
            if not lane.is_open:
                await asyncio.wait([lane.opening], timeout=max(0.0, min(patience, deadline - now)))
            if lane.is_refused:
                raise RpcUnsupportedVersionError
            if lane.is_open:
                return lane
            if lane.opening.done():
                await self._await_verdict(lane, deadline)
            elif self._loop.time() >= deadline:
                raise RpcConnectionTimeoutError
            elif via == "auto":
                via = self._fall_back(name)

    async def _await_verdict(self, lane: Lane, deadline: float) -> None:
        """Return when a channel that ended before it was open has been replaced.

        Raises:
            RpcSendError: it has not, and will not be in time.
        """
        while lane.number in self._lost and self._loop.time() < deadline:
            await asyncio.wait([self._verdict], timeout=max(0.0, deadline - self._loop.time()))
        if lane.is_given_up or lane.number in self._lost:
            raise RpcSendError

    def _announce_verdict(self) -> None:
        verdict, self._verdict = self._verdict, self._loop.create_future()
        verdict.set_result(None)

    def _fall_back(self, name: RpcFormat) -> RpcVia:
        """Return how a call goes on whose direct channel does not open: through the server, if that is possible."""
        try:
            self._choose_lane(name, "server")
        except RpcError:
            return "p2p"
        return "server"

    def _choose_lane(self, name: RpcFormat, via: RpcVia) -> Lane:
        if self._is_closed:
            raise RpcRecipientNotFoundError
        path: RpcPath = "server" if via == "server" else "p2p"
        own = self._own.get((name, path))
        if via == "auto" and (own is None or not own.is_open):
            own = self._own.get((name, "server"), own)  # direct channels did not open before
        if own is not None:
            return own
        for lane in self._lanes.values():
            if (lane.format, lane.path) == (name, path):
                return lane
        try:
            return self._open_own(name, path)
        except ImportError:
            if via != "auto":
                raise
            return self._choose_lane(name, "server")
        except RpcError:
            raise
        except MeteredRealtimeError as error:
            raise RpcRecipientNotFoundError from error

    def _open_own(self, name: RpcFormat, path: RpcPath) -> Lane:
        lane = self._attach(self._open_transport(name, path), name, path)
        self._own[name, path] = lane
        if (name, path) in self._former:
            lane.inherit(self._former.pop((name, path)))
        return lane

    # --- for Calls

    def lane(self, number: int) -> Lane | None:
        """Return a lane by its number."""
        return self._lanes.get(number)

    def lane_again(self, name: RpcFormat) -> Lane | None:
        """Return the lane on which calls go on after their connection was replaced."""
        try:
            return self._choose_lane(name, "p2p")
        except (RpcError, ImportError):
            return None

    def lane_failed(self, lane: Lane) -> None:
        """Note that a lane cannot send any more. What waits on it may go on, if its connection is replaced."""
        if lane.number not in self._lanes:
            return
        self._detach(lane)
        self._lost[lane.number] = lane
        if self._grace is None:
            self._grace = self._loop.call_later(LOSS_GRACE, self._give_up_lost)

    def deadline_set(self) -> None:
        """Note that there may be an earlier deadline than before."""
        deadlines = self._calls.caller.next_deadline, self._callee.next_deadline
        due = min((it for it in deadlines if it is not None), default=None)
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(due, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        self._calls.perform(self._calls.caller.expire(now))
        self._perform(self._callee.expire(now))
        self.deadline_set()

    def _give_up_lost(self) -> None:
        """Settle what was lost with channels whose connection is up: they ended by themselves."""
        self._grace = None
        if not self._is_connected():
            self._grace = self._loop.call_later(LOSS_GRACE, self._give_up_lost)
            return
        self._settle_lost()

    def _settle_lost(self) -> None:
        lost, self._lost = self._lost, {}
        for number, lane in lost.items():
            lane.is_given_up = True
            self._calls.perform(self._calls.caller.closed(number))
        self._announce_verdict()

    # --- lanes

    def _attach(self, transport: RpcTransport, name: RpcFormat, path: RpcPath) -> Lane:
        self._last_lane += 1
        lane = Lane(
            self._last_lane,
            name,
            path,
            transport,
            session=self._session,
            on_failure=self.lane_failed,
            logger=self._logger,
        )
        self._lanes[lane.number] = lane
        self._callee.opened(lane.number, name)
        transport.listen(lambda message: self._receive(lane, message), lambda: self.lane_failed(lane))
        return lane

    def _detach(self, lane: Lane) -> None:
        if self._lanes.pop(lane.number, None) is None:
            return
        if self._own.get((lane.format, lane.path)) is lane:
            del self._own[lane.format, lane.path]
        self._perform(self._callee.lost(lane.number))
        lane.close()

    # --- what comes in

    def _receive(self, lane: Lane, message: str | bytes) -> None:
        if lane.number not in self._lanes:
            return
        whole = lane.whole(message)
        if whole is None:
            return
        inbound = lane.codec.decode(whole)
        if self._is_other_format(lane, whole, inbound):
            return
        for item in inbound.items:
            self._receive_item(lane, item)
        self._perform(self._callee.receive(lane.number, inbound, self._loop.time()))
        self.deadline_set()
        if lane.is_flooded:
            self._logger.warning("rpc channel closed: its answers are not read", {"peer": self.identity})
            self.lane_failed(lane)

    def _is_other_format(self, lane: Lane, message: str | bytes, inbound: Inbound) -> bool:
        """Tell whether the other end answers in another format, and so does not speak this one."""
        if inbound.items != _UNREADABLE or isinstance(message, str) == lane.codec.is_text:
            return False
        self._malformed += 1
        lane.is_refused = lane is self._own.get((lane.format, lane.path))
        return self._calls.fail_all(lane, RpcUnsupportedVersionError()) or lane.is_refused

    def _receive_item(self, lane: Lane, item: object) -> None:
        match item:
            case Success() | Failure() | BadReply():
                if not self._calls.answered(item, lane):
                    context = {"peer": self.identity, "error": RpcUnknownIdError.__name__}
                    self._logger.warning("rpc answer dropped", context)
            case Notification(method) if method == HELLO:
                session = lane.meet(item)
                if session is not None:
                    self._perform(self._callee.resumed(lane.number, session))
            case BadRequest():
                self._malformed += 1
            case Request() | Notification():
                pass

    # --- serving

    def _perform(self, effects: Iterable[serving.Effect | _Ended]) -> None:
        """Carry out decisions, and those that follow from them."""
        self._effects.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while self._effects:
                self._perform_one(self._effects.popleft())
        finally:
            self._is_performing = False

    def _perform_one(self, effect: serving.Effect | _Ended) -> None:
        match effect:
            case serving.Run():
                self._run(effect)
            case serving.Stop(ticket):
                self._handlers.stop(ticket)
            case serving.Refuse():
                self._handlers.refuse(effect, codec_of(effect.format))
            case serving.Answer():
                self._send_answer(effect)
            case _Ended(ticket):
                self._free_place(ticket)

    def _run(self, run: serving.Run) -> None:
        lane = None if run.link is None else self._lanes.get(run.link)
        max_size = MAX_MESSAGE_SIZE if lane is None else lane.max_size
        self._handlers.start(run, codec_of(run.format), max_size, self._ended)

    def _answered(self, ticket: int, answer: bytes) -> None:
        self._perform(self._callee.answered(ticket, answer))

    def _ended(self, ticket: int) -> None:
        self._perform([_Ended(ticket)])  # behind its answer, which may be waiting to be carried out

    def _free_place(self, ticket: int) -> None:
        """Give the place of a handler to the next one, unless its answer is large and still here."""
        if ticket in self._unwritten:
            self._ended_early.add(ticket)
        else:
            self._perform(self._callee.ended(ticket))

    def _send_answer(self, answer: serving.Answer) -> None:
        lane = self._lanes.get(answer.link)
        if lane is None:
            return
        if answer.is_batch:
            lane.answer(lane.codec.join(answer.answers))
        elif answer.ticket is None or len(answer.answers[0]) <= CHUNK_SIZE:
            lane.answer(answer.answers[0])
        else:
            self._unwritten.add(ticket := answer.ticket)
            lane.answer(answer.answers[0], lambda error: self._written(ticket))

    def _written(self, ticket: int) -> None:
        self._unwritten.discard(ticket)
        if ticket in self._ended_early:
            self._ended_early.discard(ticket)
            self._perform(self._callee.ended(ticket))
