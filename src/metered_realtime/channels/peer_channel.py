"""One channel to everybody: a message goes to each remote, also to those who come later, over channels that survive."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..emitter import AsyncEventEmitter
from ..errors import ChannelClosedError, DataChannelOverflowError, MessageTooLargeError
from ..events import ChannelError, ChannelMessage, DCClose, DCError, DCMessage, Event
from ..log import Logger
from .managed_channel import ManagedChannel
from .options import ChannelOptions, check_label
from .registry import RemoteChannels
from .send_queue import MAX_QUEUED_SENDS
from .waiters import Waiters

if TYPE_CHECKING:
    from ..events.peers import RemotePeer

PATIENCE = 1.0
"""Seconds that a send waits for a remote whose window is full: some round trips of a bad link, and a replaced one."""


class PeerChannel(AsyncEventEmitter):
    """A channel to every current and future remote, made by `MeteredPeer.open_channel`.

    Events: `ChannelMessage` with the remote that sent it, `ChannelError` with the one that something concerns. `async
    for event in channel` reads the messages as `ChannelMessage`. Each remote has a `ManagedChannel` of the same label
    and a window of its own.

    A remote whose window is full is waited for, by one send after the other and for `patience` seconds each, if it is
    connected. Then what waits for it is given up, it gets a `ChannelError` with a `ReplayOverflowError` here and a
    `DCError` with the number of missed messages there, and goes on with the message that found no room. So a remote
    that takes nothing delays the others once for each window. With a patience of 0 it never does; None waits for ever.
    """

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
        """The channel to each remote, with its state, its figures and its own events."""
        return dict(self._members)

    async def send(self, data: str | bytes) -> None:
        """Send text or bytes to everybody; return when each window has it. Goes to nobody if nobody is there.

        Sends go out in the order of the calls. One that is cancelled may have gone out to some.

        Raises:
            TypeError: neither str nor bytes.
            MessageTooLargeError: larger than `max_message_size`.
            DataChannelOverflowError: too many sends wait already.
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
        """Send text or bytes to everybody at once. Who has no room is not waited for. Raises like `send`.

        Raises:
            DataChannelOverflowError: a send waits, which comes first.
        """
        payload, is_text = self._encode(data)
        if self._queued:
            raise DataChannelOverflowError(self._queued, 0)
        for remote, channel in self._without_room(payload, is_text):
            self._overrun(remote, channel, payload, is_text)

    async def drain(self) -> None:
        """Return when every remote that stays has everything that was accepted for it. Those who leave are let go.

        Raises:
            ChannelClosedError: the channel is closed.
        """
        if self._ended:
            raise ChannelClosedError(self.label)
        await asyncio.gather(*(_drained(channel) for channel in self._members.values()))

    def close(self) -> None:
        """Close the channel to everybody, now. Idempotent; emits nothing. Iterations end."""
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
                    channel.taken()
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
        except Exception as error:  # what keeps one out must not keep out the others
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
        """Hand a message to everybody who has room. Return the others."""
        late = []
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
            return  # it has left meanwhile

    def _overrun(self, remote: RemotePeer, channel: ManagedChannel, payload: bytes, is_text: bool) -> None:
        """Give up what waits for a remote that does not keep up, and go on with this message."""
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
        """Take part in what a channel holds, in the order in which it came from all of them."""
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
    """The channels to everybody of one peer, by label. They stay when it leaves a channel and joins another one."""

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
        """Return the channel under a label, opened if it is not. Its first options stay.

        Raises:
            TypeError, ValueError: a label or a patience that cannot be taken.
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
        """Let every channel go to one more, also when that one opens it again later."""

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
