"""A channel to all current and future remotes, over one managed channel for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..emitter import AsyncEventEmitter
from ..errors import ChannelClosedError, DataChannelOverflowError, MessageTooLargeError
from ..events import ChannelError, ChannelMessage, DCClose, DCError, DCMessage, Event
from ..events.emitted import BY_PEER_CHANNEL
from ..log import Logger
from .managed_channel import ManagedChannel
from .options import ChannelOptions, check_label
from .registry import RemoteChannels
from .send_queue import MAX_QUEUED_SENDS
from .waiters import Waiters

if TYPE_CHECKING:
    from ..events.peers import RemotePeer

PATIENCE = 1.0
"""Seconds that a send waits for a remote whose window is full: some round trips of a bad path, or a new connection."""


class PeerChannel(AsyncEventEmitter):
    """A channel to every current and future remote, made by `MeteredPeer.open_channel`.

    Events: `ChannelMessage` with the remote that sent it, `ChannelError` with the remote that it concerns. `async for
    event in channel` reads the messages as `ChannelMessage`. Each remote has a `ManagedChannel` of the same label, with
    a window of its own.

    A send waits up to `patience` seconds for a connected remote whose window is full. Then the messages in that window
    are dropped, and the new one is sent: this end gets a `ChannelError` with a `ReplayOverflowError`, the remote a
    `DCError` with the number of missed messages. A remote that reads nothing thus delays the others once for each
    window. A patience of 0 never waits; None waits without limit.
    """

    _EMITS = BY_PEER_CHANNEL

    def __init__(
        self,
        label: str,
        options: ChannelOptions,
        *,
        patience: float | None = PATIENCE,
        ended: Callable[[PeerChannel], None],
        logger: Logger | None = None,
    ) -> None:
        super().__init__(logger)
        if patience is not None and not patience >= 0:
            raise ValueError(f"patience must be at least 0, not {patience!r}")
        self.label = label
        self.options = options
        self._patience = patience
        self._tell_ended = ended
        self._members: dict[RemotePeer, ManagedChannel] = {}
        self._order = asyncio.Lock()
        self._queued = 0
        self._ready: deque[tuple[RemotePeer, ManagedChannel]] = deque()
        self._reading = Waiters()
        self._is_iterated = False
        self._ended = False

    def __repr__(self) -> str:
        return f"<PeerChannel {self.label!r} to {len(self._members)}>"

    @property
    def channels(self) -> dict[RemotePeer, ManagedChannel]:
        """The channel to each remote, with its own state, stats and events."""
        return dict(self._members)

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes to every remote. Wait until each window has accepted the message.

        Messages are sent in the order of the calls. A cancelled call may have sent its message to some remotes.

        Raises:
            TypeError: `data` is neither str nor bytes.
            MessageTooLargeError: the message exceeds `max_message_size` of the options.
            DataChannelOverflowError: too many calls wait already.
            ChannelClosedError: the channel is closed.
        """
        payload, is_text = self._encode(data)
        if self._order.locked() and self._queued >= MAX_QUEUED_SENDS:
            raise DataChannelOverflowError(self._queued, MAX_QUEUED_SENDS)
        self._queued += 1
        try:
            async with self._order:
                await self._broadcast(payload, is_text)
        finally:
            self._queued -= 1

    def send_nowait(self, data: str | bytes) -> None:
        """Send text or bytes to every remote without waiting for those whose window is full. Raises like `send`.

        Raises:
            DataChannelOverflowError: a call of `send` waits, whose message comes first.
        """
        payload, is_text = self._encode(data)
        if self._queued:
            raise DataChannelOverflowError(self._queued, 0)
        for remote, channel in self._without_room(payload, is_text):
            self._overrun(remote, channel, payload, is_text)

    async def drain(self) -> None:
        """Wait until every remote has every message accepted for it. Remotes that leave are ignored.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        if self._ended:
            raise ChannelClosedError(self.label)
        await asyncio.gather(*(_drained(channel) for channel in self._members.values()))

    def close(self) -> None:
        """Close the channel to every remote at once. Iterations end. Idempotent; emits no event."""
        if not self._ended:
            self._ended = True
            self._tell_ended(self)
            for channel in tuple(self._members.values()):
                channel.close()
            self._members.clear()
            self._reading.release()
            self._drop_listeners()

    def __aiter__(self) -> PeerChannel:
        if not self._is_iterated:
            self._is_iterated = True
            for remote, channel in self._members.items():
                self._read_from(remote, channel)
        return self

    async def __anext__(self) -> ChannelMessage:
        self.__aiter__()
        while True:
            while self._ready:
                remote, channel = self._ready.popleft()
                message = channel.inbox.get_nowait()
                if message is not None:
                    channel.note_read()
                    return ChannelMessage(remote, message)
            if self._ended:
                raise StopAsyncIteration
            await self._reading.wait()

    # --- for MeteredPeer

    def add(self, remote: RemotePeer, channels: RemoteChannels) -> None:
        """Send to a remote from now on, over one of its channels."""
        if self._ended or remote in self._members:
            return
        try:
            channel = channels.open(self.label, self.options)
        except Exception as error:  # a failure with one remote must not affect the others
            self.emit(ChannelError(remote, error))
            return
        self._adopt(remote, channel)

    def _adopt(self, remote: RemotePeer, channel: ManagedChannel) -> None:
        self._members[remote] = channel
        channel.on(DCError, lambda event: self.emit(ChannelError(remote, event.err)))
        channel.on(DCClose, lambda event: self._left(remote, channel))
        if self._is_heard(ChannelMessage):
            self._listen_to(remote, channel)
        if self._is_iterated:
            self._read_from(remote, channel)

    # --- inside

    def _encode(self, data: str | bytes) -> tuple[bytes, bool]:
        if not isinstance(data, str | bytes):
            raise TypeError(f"data must be str or bytes, not {type(data).__name__}")
        if self._ended:
            raise ChannelClosedError(self.label)
        payload = data if isinstance(data, bytes) else data.encode()
        if len(payload) > self.options.max_message_size:
            raise MessageTooLargeError(len(payload), self.options.max_message_size)
        return payload, payload is not data

    async def _broadcast(self, payload: bytes, is_text: bool) -> None:
        late = self._without_room(payload, is_text)
        if late:
            await asyncio.gather(*(self._insist(remote, channel, payload, is_text) for remote, channel in late))

    def _without_room(self, payload: bytes, is_text: bool) -> list[tuple[RemotePeer, ManagedChannel]]:
        """Send a message to every remote whose window has room. Return the other remotes."""
        late: list[tuple[RemotePeer, ManagedChannel]] = []
        for remote, channel in tuple(self._members.items()):
            if len(payload) > channel.max_message_size:
                self.emit(ChannelError(remote, MessageTooLargeError(len(payload), channel.max_message_size)))
            elif not channel.offer(payload, is_text=is_text):
                late.append((remote, channel))
        return late

    async def _insist(self, remote: RemotePeer, channel: ManagedChannel, payload: bytes, is_text: bool) -> None:
        patience = self._patience if channel.ready_state == "open" or self._patience is None else 0
        try:
            async with asyncio.timeout(patience):
                await channel.send_encoded(payload, is_text=is_text)
        except TimeoutError:
            self._overrun(remote, channel, payload, is_text)
        except ChannelClosedError:
            return  # the remote has left in the meantime

    def _overrun(self, remote: RemotePeer, channel: ManagedChannel, payload: bytes, is_text: bool) -> None:
        """Drop the messages in the window of a remote that is too slow, and continue with this one."""
        if channel.ready_state != "closed":
            error = channel.give_up()
            channel.offer(payload, is_text=is_text)
            self.emit(ChannelError(remote, error))

    def _left(self, remote: RemotePeer, channel: ManagedChannel) -> None:
        if self._members.get(remote) is channel:
            del self._members[remote]

    def _listener_added(self, event_type: type[Event]) -> None:
        if self._is_heard(ChannelMessage):
            for remote, channel in self._members.items():
                if not channel.listener_count(DCMessage):
                    self._listen_to(remote, channel)

    def _listen_to(self, remote: RemotePeer, channel: ManagedChannel) -> None:
        channel.on(DCMessage, lambda event: self.emit(ChannelMessage(remote, event.data)))

    def _read_from(self, remote: RemotePeer, channel: ManagedChannel) -> None:
        """Read a channel in this iteration, in the order of arrival over all channels."""
        channel.inbox.is_iterated = True
        self._ready.extend([(remote, channel)] * len(channel.inbox))

        def note() -> None:
            self._ready.append((remote, channel))
            self._reading.release()

        channel.inbox.when_held = note


async def _drained(channel: ManagedChannel) -> None:
    try:
        await channel.drain()
    except ChannelClosedError:
        return


class PeerChannels:
    """The channels of one peer to all remotes, by label. They stay when the peer leaves and joins again."""

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._by_label: dict[str, PeerChannel] = {}

    def open(
        self,
        label: str,
        options: ChannelOptions,
        patience: float | None,
        remotes: Mapping[RemotePeer, RemoteChannels],
    ) -> PeerChannel:
        """Return the channel with a label, opened if necessary. An open channel keeps its options.

        Raises:
            TypeError: the label is not a str.
            ValueError: the label or the patience is invalid.
        """
        check_label(label)
        channel = self._by_label.get(label)
        if channel is None:
            channel = PeerChannel(label, options, patience=patience, ended=self._ended, logger=self._logger)
            self._by_label[label] = channel
            for remote, channels in remotes.items():
                channel.add(remote, channels)
        return channel

    def remote_joined(self, remote: RemotePeer, channels: RemoteChannels) -> None:
        """Add a remote to every channel, and accept channels with these labels that it opens later."""

        def claim(channel: ManagedChannel) -> bool:
            mine = self._by_label.get(channel.label)
            if mine is None or mine.options.reliable is not channel.reliable:
                return False
            mine.add(remote, channels)
            return True

        channels.claim = claim
        for channel in tuple(self._by_label.values()):
            channel.add(remote, channels)

    def close(self) -> None:
        """Close every channel."""
        for channel in tuple(self._by_label.values()):
            channel.close()

    def _ended(self, channel: PeerChannel) -> None:
        self._by_label.pop(channel.label, None)
