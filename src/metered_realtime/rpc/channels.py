"""The channels to one remote that carry calls: which one a call uses, and what follows when one ends.

Calls use one channel for each format and path, opened when first needed, or one that the remote opened. A channel may
end by itself, or with its connection, which may be replaced: until that is known, its calls wait.
"""

from __future__ import annotations

import asyncio
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
from .rpc_channel import MessageReceiver, RpcChannel
from .transports import RpcTransport

RpcVia = Literal["auto", "p2p", "server"]
"""How calls travel: directly, through the signalling server, or directly unless that is impossible."""

MAX_RPC_CHANNELS = 8
"""Channels of one remote that are served, and ended channels that may yet be replaced. A remote needs one or two."""

DIRECT_TIMEOUT = 5.0
"""Seconds for a direct channel to open before a call goes through the server; at most half of the call's timeout."""

LOSS_GRACE = 1.0
"""Seconds after the end of a channel in which its connection may turn out to have failed, and be replaced."""


class RpcConnection(Protocol):
    """The connection to a remote, below the channels."""

    @property
    def is_connected(self) -> bool:
        """Whether the connection is up. While it is not, the calls of a channel that has ended wait for it."""

    def open_transport(self, format: RpcFormat, path: RpcPath) -> RpcTransport:
        """Open a transport and return it, without waiting until it is open.

        Raises:
            RpcError: this format or path is impossible.
            ImportError: a package that the path needs is not installed.
        """


class RpcChannelsObserver(MessageReceiver, Protocol):
    """Observes all channels of a remote."""

    def channel_opened(self, channel: RpcChannel) -> None:
        """Handle a new channel."""

    def channel_closed(self, channel: RpcChannel) -> None:
        """Handle the end of a channel. It is not known yet whether it has a successor."""

    def channel_given_up(self, channel: RpcChannel) -> None:
        """Handle a channel that has ended without a successor."""


class RpcChannels:
    """Opens, chooses and replaces the channels to one remote. `instance_id` names this run of the peer."""

    def __init__(
        self,
        connection: RpcConnection,
        observer: RpcChannelsObserver,
        *,
        instance_id: str,
        logger: Logger,
    ) -> None:
        self._connection = connection
        self._observer = observer
        self._instance_id = instance_id
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, RpcChannel] = {}
        self._own: dict[tuple[RpcFormat, RpcPath], RpcChannel] = {}
        self._predecessors: dict[tuple[RpcFormat, RpcPath], RpcChannel] = {}
        self._ended: dict[int, RpcChannel] = {}
        self._grace_timers: dict[int, asyncio.TimerHandle] = {}
        self._last_number = 0
        self._partial = PartialBytes()
        self._refused = 0
        self.is_closed = False

    def __len__(self) -> int:
        """Return how many channels are open or opening."""
        return len(self._open)

    def get(self, number: int) -> RpcChannel | None:
        """Return a channel by its number; None if it has ended."""
        return self._open.get(number)

    def serve(self, transport: RpcTransport, format: RpcFormat, path: RpcPath) -> RpcChannel | None:
        """Serve a transport that the remote opened. Close it and return None if there are too many."""
        if self.is_closed or len(self._open) >= MAX_RPC_CHANNELS:
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:
                self._logger.warning("rpc channel refused", {"format": format, "count": self._refused})
            transport.close()
            return None
        return self._attach(transport, format, path)

    # --- for calls

    def find_open(self, format: RpcFormat, via: RpcVia) -> RpcChannel | None:
        """Return the channel for a call if it is open already."""
        channel = self._own.get((format, "server" if via == "server" else "p2p"))
        return channel if channel is not None and channel.is_open and not channel.is_refused else None

    async def open(self, format: RpcFormat, via: RpcVia, deadline: float) -> RpcChannel:
        """Return an open channel for a call; open one if there is none.

        Raises:
            RpcError: no channel opens before the deadline, or ever.
        """
        while True:
            channel = self._choose(format, via)
            if not channel.is_open:
                await self._wait_until_open(channel, via, deadline)
            if channel.is_refused:
                raise RpcUnsupportedVersionError
            if channel.is_open:
                return channel
            if channel.opening.done():
                await self._wait_until_replaced(channel, deadline)
            elif self._loop.time() >= deadline:
                raise RpcConnectionTimeoutError
            elif via == "auto":
                via = self._fall_back(format)

    def find_successor(self, format: RpcFormat) -> RpcChannel | None:
        """Return the channel that continues the calls of a replaced one; open it if there is none."""
        try:
            return self._choose(format, "p2p")
        except (RpcError, ImportError):
            return None

    def refuse_format(self, channel: RpcChannel) -> bool:
        """Refuse calls on a channel whose format the remote lacks. Return False if the remote opened it itself."""
        channel.is_refused = self._is_own(channel)
        return channel.is_refused

    async def _wait_until_open(self, channel: RpcChannel, via: RpcVia, deadline: float) -> None:
        timeout = deadline - self._loop.time()
        if via == "auto" and channel.path == "p2p":
            timeout = min(timeout / 2, DIRECT_TIMEOUT)
        await asyncio.wait([channel.opening], timeout=max(0.0, timeout))

    async def _wait_until_replaced(self, channel: RpcChannel, deadline: float) -> None:
        """Return when a channel that ended before it was open has been replaced.

        Raises:
            RpcSendError: it is not replaced before the deadline, or ever.
        """
        await asyncio.wait([channel.resolved], timeout=max(0.0, deadline - self._loop.time()))
        if channel.is_given_up or channel.number in self._ended:
            raise RpcSendError

    def _fall_back(self, format: RpcFormat) -> RpcVia:
        """Return how to continue a call whose direct channel does not open: through the server, if that is possible."""
        try:
            self._choose(format, "server")
        except RpcError:
            return "p2p"
        return "server"

    def _choose(self, format: RpcFormat, via: RpcVia) -> RpcChannel:
        if self.is_closed:
            raise RpcRecipientNotFoundError
        path: RpcPath = "server" if via == "server" else "p2p"
        own = self._own.get((format, path))
        if via == "auto" and (own is None or not own.is_open):
            own = self._own.get((format, "server"), own)  # direct channels did not open before
        if own is not None:
            return own
        for channel in self._open.values():
            if (channel.format, channel.path) == (format, path):
                return channel
        try:
            return self._open_own(format, path)
        except ImportError:
            if via != "auto":
                raise
            return self._choose(format, "server")
        except RpcError:
            raise
        except MeteredRealtimeError as error:
            raise RpcRecipientNotFoundError from error

    def _open_own(self, format: RpcFormat, path: RpcPath) -> RpcChannel:
        channel = self._attach(self._connection.open_transport(format, path), format, path)
        self._own[format, path] = channel
        if (format, path) in self._predecessors:
            channel.inherit_features(self._predecessors.pop((format, path)))
        return channel

    # --- channels that end

    def channel_failed(self, channel: RpcChannel) -> None:
        """Handle a channel that cannot send any more. Its calls may continue if its connection is replaced."""
        if channel.number not in self._open:
            return
        self._detach(channel)
        self._ended[channel.number] = channel
        self._grace_timers[channel.number] = self._loop.call_later(LOSS_GRACE, self._grace_over, channel)
        if len(self._ended) > MAX_RPC_CHANNELS:  # the remote opens and closes channels
            self._give_up(next(iter(self._ended.values())))

    def connection_replaced(self) -> list[RpcChannel]:
        """Close and return the direct channels. Their successors inherit what is known about the remote."""
        gone = [channel for channel in (*self._open.values(), *self._ended.values()) if channel.path == "p2p"]
        for channel in gone:
            self._detach(channel)
            self._predecessors[channel.format, channel.path] = channel
            self._resolve(channel)
        return gone

    def connection_lost(self) -> None:
        """Give up the direct channels: their connection is not replaced."""
        for channel in tuple(self._open.values()):
            if channel.path == "p2p":
                self.channel_failed(channel)
        for channel in tuple(self._ended.values()):
            self._give_up(channel)

    def close(self) -> None:
        """Close all channels."""
        self.is_closed = True
        for channel in tuple(self._open.values()):
            self._detach(channel)
            self._resolve(channel)
        for channel in tuple(self._ended.values()):
            self._resolve(channel)

    def _grace_over(self, channel: RpcChannel) -> None:
        """Give up a channel that has ended by itself: its connection is up, or it needs none."""
        if channel.path == "server" or self._connection.is_connected:
            self._give_up(channel)
        else:
            self._grace_timers[channel.number] = self._loop.call_later(LOSS_GRACE, self._grace_over, channel)

    def _give_up(self, channel: RpcChannel) -> None:
        channel.is_given_up = True
        self._resolve(channel)
        self._observer.channel_given_up(channel)

    def _resolve(self, channel: RpcChannel) -> None:
        """Forget a channel of which it is known whether it has a successor."""
        self._ended.pop(channel.number, None)
        grace_timer = self._grace_timers.pop(channel.number, None)
        if grace_timer is not None:
            grace_timer.cancel()
        if not channel.resolved.done():
            channel.resolved.set_result(None)

    def _attach(self, transport: RpcTransport, format: RpcFormat, path: RpcPath) -> RpcChannel:
        self._last_number += 1
        channel = RpcChannel(
            self._last_number,
            format,
            path,
            transport,
            owner=self,
            receiver=self._observer,
            instance_id=self._instance_id,
            partial=self._partial,
            logger=self._logger,
        )
        self._open[channel.number] = channel
        self._observer.channel_opened(channel)
        transport.listen(channel)
        return channel

    def _detach(self, channel: RpcChannel) -> None:
        if self._open.pop(channel.number, None) is None:
            return
        if self._is_own(channel):
            del self._own[channel.format, channel.path]
        self._observer.channel_closed(channel)
        channel.close()

    def _is_own(self, channel: RpcChannel) -> bool:
        return self._own.get((channel.format, channel.path)) is channel
