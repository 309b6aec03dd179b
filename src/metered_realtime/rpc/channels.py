"""The channels to one remote that carry calls: which one a call takes, and what becomes of those that end.

Calls go out on one lane for each format and path, opened when first needed, or on one that the remote opened. A lane
may end by itself, or with its connection, which may be replaced: its calls wait for the verdict.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal, Protocol

from ..core.rpc.chunks import PartialBytes
from ..errors import MeteredRealtimeError
from ..log import Logger
from .built_in import (
    RpcConnectionTimeoutError,
    RpcRecipientNotFoundError,
    RpcSendError,
    RpcUnsupportedVersionError,
)
from .codec import RpcFormat, RpcPath
from .errors import RpcError
from .rpc_channel import Lane
from .transports import RpcTransport

RpcVia = Literal["auto", "p2p", "server"]
"""How calls travel: directly, through the signalling server, or directly unless that cannot be."""

MAX_LANES = 8
"""Channels of one remote that are served, and that wait for a verdict. It needs one or two."""

DIRECT_PATIENCE = 5.0
"""Seconds after which a call that may travel through the server does, if no direct channel has opened; or half of its
time, if that is less."""

LOSS_GRACE = 1.0
"""Seconds after the end of a channel in which its connection may turn out to have failed, and be replaced."""

OpenTransport = Callable[[RpcFormat, RpcPath], RpcTransport]


class LanesOwner(Protocol):
    """Who is told what happens on the lanes."""

    def received(self, lane: Lane, message: str | bytes) -> None: ...
    def lane_opened(self, lane: Lane) -> None: ...
    def lane_closed(self, lane: Lane) -> None: ...
    def lane_given_up(self, lane: Lane) -> None: ...


class Lanes:
    """The lanes of one endpoint. `session` is the name of its calls; see `RpcEndpoint` for the other arguments."""

    def __init__(
        self,
        owner: LanesOwner,
        open_transport: OpenTransport,
        *,
        session: str,
        is_connected: Callable[[], bool],
        logger: Logger,
    ) -> None:
        self._owner = owner
        self._open_transport = open_transport
        self._session = session
        self._is_connected = is_connected
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, Lane] = {}
        self._own: dict[tuple[RpcFormat, RpcPath], Lane] = {}
        self._former: dict[tuple[RpcFormat, RpcPath], Lane] = {}
        self._lost: dict[int, Lane] = {}
        self._verdicts: dict[int, asyncio.TimerHandle] = {}
        self._last = 0
        self._partial = PartialBytes()
        self.refused = 0
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    def get(self, number: int) -> Lane | None:
        """Return a lane by its number, None if it has ended."""
        return self._open.get(number)

    def is_own(self, lane: Lane) -> bool:
        """Tell whether calls of this end opened it."""
        return self._own.get((lane.format, lane.path)) is lane

    def serve(self, transport: RpcTransport, name: RpcFormat, path: RpcPath) -> Lane | None:
        """Serve a channel that the remote opened. None, and it is closed, if there are too many."""
        if self.is_closed or len(self._open) >= MAX_LANES:
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:
                self._logger.warning("rpc channel refused", {"format": name, "count": self.refused})
            transport.close()
            return None
        return self._attach(transport, name, path)

    # --- for calls

    def ready(self, name: RpcFormat, via: RpcVia) -> Lane | None:
        """Return the lane that a call takes if it is open already."""
        lane = self._own.get((name, "server" if via == "server" else "p2p"))
        return lane if lane is not None and lane.is_open and not lane.is_refused else None

    async def open(self, name: RpcFormat, via: RpcVia, deadline: float) -> Lane:
        """Return a lane that is open, opening one if there is none.

        Raises:
            RpcError: there will be none in time, and this is why.
        """
        while True:
            lane = self._choose(name, via)
            if not lane.is_open:
                await self._wait_for(lane, via, deadline)
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

    def again(self, name: RpcFormat) -> Lane | None:
        """Return the lane on which calls go on after their connection was replaced."""
        try:
            return self._choose(name, "p2p")
        except (RpcError, ImportError):
            return None

    async def _wait_for(self, lane: Lane, via: RpcVia, deadline: float) -> None:
        patience = deadline - self._loop.time()
        if via == "auto" and lane.path == "p2p":
            patience = min(patience / 2, DIRECT_PATIENCE)
        await asyncio.wait([lane.opening], timeout=max(0.0, patience))

    async def _await_verdict(self, lane: Lane, deadline: float) -> None:
        """Return when a channel that ended before it was open has been replaced.

        Raises:
            RpcSendError: it has not, and will not be in time.
        """
        await asyncio.wait([lane.fate], timeout=max(0.0, deadline - self._loop.time()))
        if lane.is_given_up or lane.number in self._lost:
            raise RpcSendError

    def _fall_back(self, name: RpcFormat) -> RpcVia:
        """Return how a call goes on whose direct channel does not open: through the server, if that is possible."""
        try:
            self._choose(name, "server")
        except RpcError:
            return "p2p"
        return "server"

    def _choose(self, name: RpcFormat, via: RpcVia) -> Lane:
        if self.is_closed:
            raise RpcRecipientNotFoundError
        path: RpcPath = "server" if via == "server" else "p2p"
        own = self._own.get((name, path))
        if via == "auto" and (own is None or not own.is_open):
            own = self._own.get((name, "server"), own)  # direct channels did not open before
        if own is not None:
            return own
        for lane in self._open.values():
            if (lane.format, lane.path) == (name, path):
                return lane
        try:
            return self._open_own(name, path)
        except ImportError:
            if via != "auto":
                raise
            return self._choose(name, "server")
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

    # --- what ends

    def failed(self, lane: Lane) -> None:
        """Note that a lane cannot send any more. What waits on it may go on, if its connection is replaced."""
        if lane.number not in self._open:
            return
        self._detach(lane)
        self._lost[lane.number] = lane
        self._verdicts[lane.number] = self._loop.call_later(LOSS_GRACE, self._judge, lane)
        if len(self._lost) > MAX_LANES:  # of a remote that opens and closes channels
            self._give_up(next(iter(self._lost.values())))

    def connection_replaced(self) -> list[Lane]:
        """Return the direct lanes, which are gone with their connection. Later ones take over what they knew."""
        gone = [lane for lane in (*self._open.values(), *self._lost.values()) if lane.path == "p2p"]
        for lane in gone:
            self._detach(lane)
            self._former[lane.format, lane.path] = lane
            self._settle(lane)
        return gone

    def connection_failed(self) -> None:
        """Give up the direct lanes: their connection will not be replaced."""
        for lane in tuple(self._open.values()):
            if lane.path == "p2p":
                self.failed(lane)
        for lane in tuple(self._lost.values()):
            self._give_up(lane)

    def close(self) -> None:
        """End them all."""
        self.is_closed = True
        for lane in tuple(self._open.values()):
            self._detach(lane)
            self._settle(lane)
        for lane in tuple(self._lost.values()):
            self._settle(lane)

    def _judge(self, lane: Lane) -> None:
        """Give up a lane whose connection is up, or that has none: it ended by itself."""
        if lane.path == "server" or self._is_connected():
            self._give_up(lane)
        else:
            self._verdicts[lane.number] = self._loop.call_later(LOSS_GRACE, self._judge, lane)

    def _give_up(self, lane: Lane) -> None:
        lane.is_given_up = True
        self._settle(lane)
        self._owner.lane_given_up(lane)

    def _settle(self, lane: Lane) -> None:
        """Let go of a lane whose fate is known."""
        self._lost.pop(lane.number, None)
        verdict = self._verdicts.pop(lane.number, None)
        if verdict is not None:
            verdict.cancel()
        if not lane.fate.done():
            lane.fate.set_result(None)

    def _attach(self, transport: RpcTransport, name: RpcFormat, path: RpcPath) -> Lane:
        self._last += 1
        lane = Lane(
            self._last,
            name,
            path,
            transport,
            session=self._session,
            on_failure=self.failed,
            partial=self._partial,
            logger=self._logger,
        )
        self._open[lane.number] = lane
        self._owner.lane_opened(lane)
        transport.listen(lambda message: self._owner.received(lane, message), lambda: self.failed(lane))
        return lane

    def _detach(self, lane: Lane) -> None:
        if self._open.pop(lane.number, None) is None:
            return
        if self.is_own(lane):
            del self._own[lane.format, lane.path]
        self._owner.lane_closed(lane)
        lane.close()
