"""Figures of data channels, in the terms of W3C webrtc-stats (https://www.w3.org/TR/webrtc-stats/)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DataChannelStats:
    """A data channel that has not ended: W3C RTCDataChannelStats, and its queues. Bytes are those of messages."""

    label: str
    id: int | None
    """None until the connection is up for the first time."""
    state: str
    """`connecting`, `open` or `closing`."""
    messages_sent: int
    bytes_sent: int
    """What was handed to the channel; `buffered_amount` of it is still here."""
    messages_received: int
    bytes_received: int
    buffered_amount: int
    """Bytes that wait to be sent."""
    queued_sends: int | None
    """Calls of `DataChannel.send` that wait for room. None for a channel that is used without a `DataChannel`."""


@dataclass(frozen=True, slots=True)
class DataStats:
    """All data channels of a connection together, also those that have ended, and each one that has not."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0
    buffered_amount: int = 0
    """Bytes that wait to be sent."""
    channels: tuple[DataChannelStats, ...] = ()
    """By id, those without one last."""
    channels_refused: int = 0
    """Channels that the remote opened and that were closed: too many, names that are too long in all, or more than may
    wait for a reader."""
