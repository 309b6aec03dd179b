"""Statistics of data channels, in the terms of W3C webrtc-stats (https://www.w3.org/TR/webrtc-stats/)."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from .unheard import unheard_on

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

    from ..aiortc_compat.stats import MessageCounter


@dataclass(frozen=True, slots=True)
class DataChannelStats:
    """A data channel that has not ended: W3C RTCDataChannelStats, and its queues. Bytes count message content."""

    label: str
    id: int | None
    """None until the connection is up for the first time."""
    state: str
    """`connecting`, `open` or `closing`."""
    messages_sent: int
    bytes_sent: int
    """Bytes handed to the channel, including the `buffered_amount` that is still in its buffer."""
    messages_received: int
    bytes_received: int
    buffered_amount: int
    """Bytes waiting to be sent."""
    queued_sends: int | None
    """Calls of `DataChannel.send` that wait for room. None for a channel that is used without a `DataChannel`."""


@dataclass(frozen=True, slots=True)
class DataStats:
    """All data channels of a connection: totals that include ended channels, and each channel that has not ended."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    buffered_amount: int = 0
    """Bytes waiting to be sent."""
    channels: tuple[DataChannelStats, ...] = ()
    """By id, those without one last."""
    channels_refused: int = 0
    """Channels opened by the remote and closed at once: too many, names too long in total, or too much unread data."""


ManagedChannelState = Literal["connecting", "open", "reconnecting", "closed"]


@dataclass(frozen=True, slots=True)
class ManagedChannelStats:
    """A managed channel over all its connections. Bytes count message content."""

    label: str
    state: ManagedChannelState
    messages_sent: int
    """Messages accepted."""
    bytes_sent: int
    messages_received: int
    """Messages delivered to a reader, or held for one."""
    bytes_received: int
    messages_resent: int
    """Messages sent again on another connection."""
    duplicates_removed: int
    messages_dropped: int
    """Messages accepted and then dropped here."""
    messages_missed: int
    """Messages that the other end dropped."""
    window_messages: int
    window_bytes: int
    """Messages that the other end has not acknowledged."""
    queued_sends: int
    """Calls of `send` that wait for room."""
    unread_messages: int
    connections: int
    """Connections that the channel has used so far."""


class ReportsStats(Protocol):
    """The object that a program uses a channel through."""

    def stats(self) -> DataChannelStats: ...


class CountsMessages(Protocol):
    """Message counters of all data channels of one connection, as the connection reports them."""

    @property
    def transport(self) -> Any: ...
    @property
    def total(self) -> MessageCounter: ...
    @property
    def channels(self) -> Sequence[tuple[RTCDataChannel, MessageCounter]]: ...
    @property
    def refused(self) -> int: ...


_wrappers: weakref.WeakKeyDictionary[RTCDataChannel, weakref.ref[ReportsStats]] = weakref.WeakKeyDictionary()


def reports_for(wrapper: ReportsStats, channel: RTCDataChannel) -> None:
    """Register the object that knows the send queue of a channel. The first one counts."""
    current = _wrappers.get(channel)
    if current is None or current() is None:
        _wrappers[channel] = weakref.ref(wrapper)


def reports_no_more(wrapper: ReportsStats, channel: RTCDataChannel) -> None:
    """Undo `reports_for`."""
    current = _wrappers.get(channel)
    if current is not None and current() is wrapper:
        del _wrappers[channel]


def data_stats(counters: CountsMessages, *, with_channels: bool) -> DataStats:
    """Return the statistics of all data channels of a connection, with or without those of single channels."""
    channels: tuple[DataChannelStats, ...] = ()
    if with_channels:
        channels = tuple(_channel_stats(channel, counter) for channel, counter in counters.channels)
    total = counters.total
    return DataStats(
        messages_sent=total.messages_sent,
        bytes_sent=total.bytes_sent,
        messages_received=total.messages_received,
        bytes_received=total.bytes_received,
        buffered_amount=sum(channel.buffered_amount for channel in channels),
        channels=channels,
        channels_refused=counters.refused + unheard_on(counters.transport).closed,
    )


def _channel_stats(channel: RTCDataChannel, counter: MessageCounter) -> DataChannelStats:
    wrapper = _wrappers.get(channel)
    reporter = wrapper() if wrapper is not None else None
    return DataChannelStats(
        label=channel.label,
        id=channel.id,
        state=channel.readyState,
        messages_sent=counter.messages_sent,
        bytes_sent=counter.bytes_sent,
        messages_received=counter.messages_received,
        bytes_received=counter.bytes_received,
        buffered_amount=channel.bufferedAmount,
        queued_sends=reporter.stats().queued_sends if reporter is not None else None,
    )
