"""The channels to one remote that carry calls: which one a call takes, and what becomes of those that end.

Calls go out on one channel for each format and path, opened when first needed, or on one that the remote opened. A
channel may end by itself, or with its connection, which may be replaced: its calls wait for the verdict.
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
from .rpc_channel import RpcChannel
from .transports import RpcTransport

RpcVia = Literal["auto", "p2p", "server"]
"""How calls travel: directly, through the signalling server, or directly unless that cannot be."""

MAX_RPC_CHANNELS = 8
"""Channels of one remote that are served, and that wait for a verdict. It needs one or two."""

DIRECT_PATIENCE = 5.0
"""Seconds after which a call that may travel through the server does, if no direct channel has opened; or half of its
time, if that is less."""

LOSS_GRACE = 1.0
"""Seconds after the end of a channel in which its connection may turn out to have failed, and be replaced."""

OpenTransport = Callable[[RpcFormat, RpcPath], RpcTransport]


class RpcChannelsOwner(Protocol):
    """Who is told what happens on the channels."""

    def received(self, channel: RpcChannel, message: str | bytes) -> None: ...
    def channel_opened(self, channel: RpcChannel) -> None: ...
    def channel_closed(self, channel: RpcChannel) -> None: ...
    def channel_given_up(self, channel: RpcChannel) -> None: ...


class RpcChannels:
    """The channels of one endpoint. `instance_id` names this run of the peer; the rest is in `RpcEndpoint`."""

    def __init__(
        self,
        owner: RpcChannelsOwner,
        open_transport: OpenTransport,
        *,
        instance_id: str,
        is_connected: Callable[[], bool],
        logger: Logger,
    ) -> None:
        self._owner = owner
        self._open_transport = open_transport
        self._instance_id = instance_id
        self._is_connected = is_connected
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, RpcChannel] = {}
        self._own: dict[tuple[RpcFormat, RpcPath], RpcChannel] = {}
        self._former: dict[tuple[RpcFormat, RpcPath], RpcChannel] = {}
        self._lost: dict[int, RpcChannel] = {}
        self._verdicts: dict[int, asyncio.TimerHandle] = {}
        self._last = 0
        self._partial = PartialBytes()
        self.refused = 0
        self.is_closed = False

    def __len__(self) -> int:
        return len(self._open)

    def get(self, number: int) -> RpcChannel | None:
        """Return a channel by its number, None if it has ended."""
        return self._open.get(number)

    def is_own(self, channel: RpcChannel) -> bool:
        """Tell whether calls of this end opened it."""
        return self._own.get((channel.format, channel.path)) is channel

    def serve(self, transport: RpcTransport, name: RpcFormat, path: RpcPath) -> RpcChannel | None:
        """Serve a channel that the remote opened. None, and it is closed, if there are too many."""
        if self.is_closed or len(self._open) >= MAX_RPC_CHANNELS:
            self.refused += 1
            if self.refused & (self.refused - 1) == 0:
                self._logger.warning("rpc channel refused", {"format": name, "count": self.refused})
            transport.close()
            return None
        return self._attach(transport, name, path)

    # --- for calls

    def ready(self, name: RpcFormat, via: RpcVia) -> RpcChannel | None:
        """Return the channel that a call takes if it is open already."""
        channel = self._own.get((name, "server" if via == "server" else "p2p"))
        return channel if channel is not None and channel.is_open and not channel.is_refused else None

    async def open(self, name: RpcFormat, via: RpcVia, deadline: float) -> RpcChannel:
        """Return a channel that is open, opening one if there is none.

        Raises:
            RpcError: there will be none in time, and this is why.
        """
        while True:
            channel = self._choose(name, via)
            if not channel.is_open:
                await self._wait_for(channel, via, deadline)
            if channel.is_refused:
                raise RpcUnsupportedVersionError
            if channel.is_open:
                return channel
            if channel.opening.done():
                await self._await_verdict(channel, deadline)
            elif self._loop.time() >= deadline:
                raise RpcConnectionTimeoutError
            elif via == "auto":
                via = self._fall_back(name)

    def again(self, name: RpcFormat) -> RpcChannel | None:
        """Return the channel on which calls go on after their connection was replaced."""
        try:
            return self._choose(name, "p2p")
        except (RpcError, ImportError):
            return None

    async def _wait_for(self, channel: RpcChannel, via: RpcVia, deadline: float) -> None:
        patience = deadline - self._loop.time()
        if via == "auto" and channel.path == "p2p":
            patience = min(patience / 2, DIRECT_PATIENCE)
        await asyncio.wait([channel.opening], timeout=max(0.0, patience))

    async def _await_verdict(self, channel: RpcChannel, deadline: float) -> None:
        """Return when a channel that ended before it was open has been replaced.

        Raises:
            RpcSendError: it has not, and will not be in time.
        """
        await asyncio.wait([channel.fate], timeout=max(0.0, deadline - self._loop.time()))
        if channel.is_given_up or channel.number in self._lost:
            raise RpcSendError

    def _fall_back(self, name: RpcFormat) -> RpcVia:
        """Return how a call goes on whose direct channel does not open: through the server, if that is possible."""
        try:
            self._choose(name, "server")
        except RpcError:
            return "p2p"
        return "server"

    def _choose(self, name: RpcFormat, via: RpcVia) -> RpcChannel:
        if self.is_closed:
            raise RpcRecipientNotFoundError
        path: RpcPath = "server" if via == "server" else "p2p"
        own = self._own.get((name, path))
        if via == "auto" and (own is None or not own.is_open):
            own = self._own.get((name, "server"), own)  # direct channels did not open before
        if own is not None:
            return own
        for channel in self._open.values():
            if (channel.format, channel.path) == (name, path):
                return channel
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

    def _open_own(self, name: RpcFormat, path: RpcPath) -> RpcChannel:
        channel = self._attach(self._open_transport(name, path), name, path)
        self._own[name, path] = channel
        if (name, path) in self._former:
            channel.inherit(self._former.pop((name, path)))
        return channel

    # --- what ends

    def failed(self, channel: RpcChannel) -> None:
        """Note that a channel cannot send any more. What waits on it may go on, if its connection is replaced."""
        if channel.number not in self._open:
            return
        self._detach(channel)
        self._lost[channel.number] = channel
        self._verdicts[channel.number] = self._loop.call_later(LOSS_GRACE, self._judge, channel)
        if len(self._lost) > MAX_RPC_CHANNELS:  # of a remote that opens and closes channels
            self._give_up(next(iter(self._lost.values())))

    def connection_replaced(self) -> list[RpcChannel]:
        """Return the direct channels, which are gone with their connection. Later ones take over what they knew."""
        gone = [channel for channel in (*self._open.values(), *self._lost.values()) if channel.path == "p2p"]
        for channel in gone:
            self._detach(channel)
            self._former[channel.format, channel.path] = channel
            self._settle(channel)
        return gone

    def connection_failed(self) -> None:
        """Give up the direct channels: their connection will not be replaced."""
        for channel in tuple(self._open.values()):
            if channel.path == "p2p":
                self.failed(channel)
        for channel in tuple(self._lost.values()):
            self._give_up(channel)

    def close(self) -> None:
        """End them all."""
        self.is_closed = True
        for channel in tuple(self._open.values()):
            self._detach(channel)
            self._settle(channel)
        for channel in tuple(self._lost.values()):
            self._settle(channel)

    def _judge(self, channel: RpcChannel) -> None:
        """Give up a channel whose connection is up, or that has none: it ended by itself."""
        if channel.path == "server" or self._is_connected():
            self._give_up(channel)
        else:
            self._verdicts[channel.number] = self._loop.call_later(LOSS_GRACE, self._judge, channel)

    def _give_up(self, channel: RpcChannel) -> None:
        channel.is_given_up = True
        self._settle(channel)
        self._owner.channel_given_up(channel)

    def _settle(self, channel: RpcChannel) -> None:
        """Let go of a channel whose fate is known."""
        self._lost.pop(channel.number, None)
        verdict = self._verdicts.pop(channel.number, None)
        if verdict is not None:
            verdict.cancel()
        if not channel.fate.done():
            channel.fate.set_result(None)

    def _attach(self, transport: RpcTransport, name: RpcFormat, path: RpcPath) -> RpcChannel:
        self._last += 1
        channel = RpcChannel(
            self._last,
            name,
            path,
            transport,
            instance_id=self._instance_id,
            on_failure=self.failed,
            partial=self._partial,
            logger=self._logger,
        )
        self._open[channel.number] = channel
        self._owner.channel_opened(channel)
        transport.listen(lambda message: self._owner.received(channel, message), lambda: self.failed(channel))
        return channel

    def _detach(self, channel: RpcChannel) -> None:
        if self._open.pop(channel.number, None) is None:
            return
        if self.is_own(channel):
            del self._own[channel.format, channel.path]
        self._owner.channel_closed(channel)
        channel.close()
