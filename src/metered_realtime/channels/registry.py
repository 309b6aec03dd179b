"""The managed channels of one remote, and the data channels that carry them."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from ..core.channels.frames import LOSSY_PROTOCOL, PROTOCOL, encode_close
from ..errors import ChannelClosedError, ChannelProtocolError, MeteredRealtimeError
from ..events import ChannelOpened, Event
from ..log import Logger
from .carrier import MAX_BUFFERED, RawChannel
from .managed_channel import BROKEN_RULES, ManagedChannel
from .options import MAX_LABEL, ChannelOptions, check_label

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

MAX_CHANNELS = 1_024
"""Maximum channels with one remote, which can open them on its own."""

MAX_UNREAD_BYTES = 128 * 1024 * 1024
"""Maximum unread bytes in all channels of one remote: two of the largest messages, or eight full windows. A conforming
end stops when its window is full; the channel of any other end is closed."""

MAX_CLOSED = 1_024
"""Closed channels that are remembered, to tell an end that was away when they were closed."""

INBOUND_GRACE = 0.5
"""Seconds on a new connection during which only the polite end opens channels again."""

REOPEN_DELAY = 0.3
MAX_REOPEN_DELAY = 30.0
"""Seconds, doubled each time, before a channel is opened again whose data channel closed on a live connection. Usually
the other end opens a new one; the delay bounds the cost of an end that closes every one."""


class ChannelRemote(Protocol):
    """What the channels of a remote need of it."""

    @property
    def id(self) -> str: ...
    @property
    def polite(self) -> bool: ...
    @property
    def is_connected(self) -> bool: ...
    def emit(self, event: Event) -> None: ...
    def create_data_channel(self, label: str, **kwargs: Any) -> RTCDataChannel: ...
    def when_free(self, action: Callable[[], None]) -> None:
        """Call an action that needs a connection, now or when a connection may be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """A label that is used by this package, whichever end opens the channel.

    `opened` is called with a channel that the other end has opened, before any message. Its data channel buffers at
    most `max_buffered` bytes. Unacknowledged messages are dropped when another program replaces the other end.
    """

    options: ChannelOptions
    max_buffered: int
    opened: Callable[[ManagedChannel], object]


@dataclass(slots=True)
class _KnownChannel:
    channel: ManagedChannel
    options: ChannelOptions
    announced: bool
    reservation: Reservation | None = None
    delay: float = REOPEN_DELAY
    timer: asyncio.TimerHandle | None = None


class RemoteChannels:
    """The managed channels of a remote by label, over all its connections.

    Either end may open the data channel that carries one. When both do, that of the polite end is used, and the other
    end switches to it. No message is lost, because none is sent before both ends have exchanged a hello.
    """

    def __init__(self, remote: ChannelRemote, logger: Logger) -> None:
        self.claim: Callable[[ManagedChannel], bool] | None = None
        self._remote = remote
        self._logger = logger
        self._entries: dict[str, _KnownChannel] = {}
        self._reserved: dict[str, Reservation] = {}
        self._closed_instances: OrderedDict[int, None] = OrderedDict()
        self._unread_bytes = 0
        self._has_left = False

    def open(self, label: str, options: ChannelOptions) -> ManagedChannel:
        """Return the channel with a label, opened if necessary. An open channel keeps its options.

        Raises:
            TypeError: the label is not a str.
            ValueError: the channel is open with another `reliable`, or the label is invalid.
            MeteredRealtimeError: the remote has left, or there are too many channels.
        """
        check_label(label)
        if label not in self._entries and len(self._entries) >= MAX_CHANNELS and not self._has_left:
            raise MeteredRealtimeError(f"{MAX_CHANNELS} channels to peer {self._remote.id!r} are already open")
        return self._open(label, options)

    def reserve(self, label: str, reservation: Reservation) -> None:
        """Reserve a label."""
        self._reserved[label] = reservation

    def open_reserved(self, label: str) -> ManagedChannel:
        """Return the channel with a reserved label, opened if necessary.

        Raises:
            MeteredRealtimeError: the remote has left.
        """
        return self._open(label, self._reserved[label].options)

    def _open(self, label: str, options: ChannelOptions) -> ManagedChannel:
        entry = self._entries.get(label)
        if entry is not None:
            if entry.options.reliable is not options.reliable:
                raise ValueError(f"channel {label!r} is open with reliable={entry.options.reliable}")
            entry.announced = True
            return entry.channel
        if self._has_left:
            raise ChannelClosedError(label, f"peer {self._remote.id!r} has left")
        entry = self._make(label, options, announced=True)
        try:
            self._remote.when_free(lambda: self._open_first(entry))
        except BaseException:
            del self._entries[label]
            raise
        return entry.channel

    def claim_data_channel(self, raw: RTCDataChannel) -> bool:
        """Use a data channel opened by the remote. False if it does not carry a managed channel."""
        if raw.protocol not in (PROTOCOL, LOSSY_PROTOCOL):
            return False
        reliable = raw.protocol == PROTOCOL
        entry = self._entries.get(raw.label)
        if entry is None:
            if not self._may_open(raw.label):
                self._logger.warning("channel refused", {"peer": self._remote.id, "channels": len(self._entries)})
                raw.close()
                return True
            entry = self._make(raw.label, self._options_of(raw, reliable), announced=False)
        if entry.options.reliable is not reliable:
            self._refuse(entry, raw)
        else:
            self._bind_inbound(entry, raw)
        return True

    def reset(self) -> None:
        """Handle the replacement of the connection. The polite end opens the channels again."""
        for entry in tuple(self._entries.values()):
            if not entry.announced:
                entry.channel.remote_closed()  # it was never announced; the other end opens it again if necessary
                continue
            entry.channel.unbind()
            if self._remote.polite:
                self._reopen(entry)

    def connected(self) -> None:
        """Handle a connection that is up: open the channels that the other end does not open soon."""
        for entry in self._entries.values():
            if entry.channel.raw is None:
                self._reopen_in(entry, INBOUND_GRACE)

    def end(self) -> None:
        """End every channel: the remote has left."""
        self._has_left = True
        for entry in tuple(self._entries.values()):
            entry.channel.remote_closed()

    # --- inside

    def _may_open(self, label: str) -> bool:
        """Return whether the remote may open a channel with a new label."""
        has_room = len(self._entries) < MAX_CHANNELS and len(label) <= MAX_LABEL
        return not self._has_left and (has_room or label in self._reserved)

    def _options_of(self, raw: RTCDataChannel, reliable: bool) -> ChannelOptions:
        """Return the options of a channel opened by the remote."""
        if raw.label in self._reserved:
            return self._reserved[raw.label].options
        return ChannelOptions(
            reliable=reliable,
            ordered=reliable or raw.ordered,
            max_retransmits=None if reliable else raw.maxRetransmits,
            max_packet_life_time=None if reliable else raw.maxPacketLifeTime,
        )

    def _make(self, label: str, options: ChannelOptions, *, announced: bool) -> _KnownChannel:
        reservation = self._reserved.get(label)
        channel = ManagedChannel(
            label,
            secrets.randbits(63) + 1,
            reliable=options.reliable,
            window_messages=options.window_messages,
            window_bytes=options.window_bytes,
            max_message_size=options.max_message_size,
            serves_successors=reservation is None,
            owner=self,
            logger=self._logger,
        )
        entry = self._entries[label] = _KnownChannel(channel, options, announced, reservation)
        return entry

    def _bind_inbound(self, entry: _KnownChannel, raw: RTCDataChannel) -> None:
        current = entry.channel.raw
        if current is not None and current.own and self._remote.polite and entry.channel.ready_state != "open":
            return  # both ends have opened one: the other end switches to this one and closes its own
        self._bind(entry, raw, own=False)
        if current is not None:
            current.close()

    def _refuse(self, entry: _KnownChannel, raw: RTCDataChannel) -> None:
        """Close a channel that the two ends have opened with different `reliable`."""
        raw.send(encode_close(BROKEN_RULES))
        raw.close()
        text = f"the other end has opened channel {raw.label!r} with reliable={not entry.options.reliable}"
        entry.channel.fail(ChannelProtocolError(text))

    def _open_first(self, entry: _KnownChannel) -> None:
        if entry.channel.raw is None and entry.channel.ready_state != "closed":  # the other end may have been first
            self._open_raw(entry)

    def _open_raw(self, entry: _KnownChannel) -> None:
        raw = self._remote.create_data_channel(entry.channel.label, **entry.options.for_aiortc())
        self._bind(entry, raw, own=True)

    def _bind(self, entry: _KnownChannel, raw: RTCDataChannel, *, own: bool) -> None:
        max_buffered = entry.reservation.max_buffered if entry.reservation is not None else MAX_BUFFERED
        closed = partial(self._raw_closed, entry)
        entry.channel.bind(RawChannel(raw, own=own, closed=closed, max_buffered=max_buffered))

    def _raw_closed(self, entry: _KnownChannel, raw: RawChannel) -> None:
        if entry.channel.raw is raw:
            if not entry.announced:
                entry.channel.remote_closed()
                return
            entry.channel.unbind()
            self._reopen_in(entry, entry.delay)
            entry.delay = min(2 * entry.delay, MAX_REOPEN_DELAY)

    def _reopen_in(self, entry: _KnownChannel, delay: float) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = asyncio.get_running_loop().call_later(delay, self._reopen_when_connected, entry)

    def _reopen_when_connected(self, entry: _KnownChannel) -> None:
        entry.timer = None
        if self._remote.is_connected:  # otherwise `connected` follows
            self._reopen(entry)

    def _reopen(self, entry: _KnownChannel) -> None:
        if entry.channel.raw is None and entry.channel.ready_state != "closed":
            with contextlib.suppress(MeteredRealtimeError):  # the remote is about to leave
                self._open_raw(entry)

    # --- for its channels

    def channel_greeted(self, channel: ManagedChannel, known: int) -> bool:
        """Announce a channel opened by the other end. False if it was closed here while that end was away."""
        if known in self._closed_instances:
            return False
        entry = self._entries.get(channel.label)
        if entry is None or entry.channel is not channel:
            return True
        entry.delay = REOPEN_DELAY
        if not entry.announced:
            entry.announced = True
            if entry.reservation is not None:
                entry.reservation.opened(channel)
            elif self.claim is None or not self.claim(channel):
                self._remote.emit(ChannelOpened(channel))
        return True

    def channel_ended(self, channel: ManagedChannel) -> None:
        """Forget a channel that has ended."""
        entry = self._entries.get(channel.label)
        if entry is not None and entry.channel is channel:
            del self._entries[channel.label]
            if entry.timer is not None:
                entry.timer.cancel()
        self._closed_instances[channel.instance_id] = None
        if len(self._closed_instances) > MAX_CLOSED:
            self._closed_instances.popitem(last=False)

    def unread_changed(self, change: int) -> bool:
        """Count unread bytes. False if the channels of the remote hold too many."""
        self._unread_bytes += change
        return change <= 0 or self._unread_bytes <= MAX_UNREAD_BYTES
