"""Labels and options of managed channels, checked before a channel is opened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.channels.frames import LOSSY_PROTOCOL, PROTOCOL
from ..core.channels.replay import MAX_MESSAGE
from ..core.channels.send_window import MAX_WINDOW_BYTES, MAX_WINDOW_MESSAGES
from .unread import message_size

MAX_LABEL = 1_024
"""Maximum characters of a label. DCEP allows 65,535 bytes."""

MAX_NAME_BYTES = 65_535
"""Maximum UTF-8 bytes of the label or protocol of a data channel: lengths have 16 bits (RFC 8832 section 5.1)."""

INTERNAL_LABELS = "metered."
"""Prefix of the labels reserved for this package."""

MAX_RELIABILITY = 2**32 - 1
"""Maximum retransmissions, or milliseconds: the 32-bit reliability parameter of RFC 8832 section 5.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """Options of a managed channel. Sizes are in bytes, the life time is in milliseconds.

    Raises:
        TypeError: an option has the wrong type.
        ValueError: an option is out of range, or two options exclude each other.
    """

    reliable: bool = True
    ordered: bool = True
    max_retransmits: int | None = None
    max_packet_life_time: int | None = None
    window_messages: int = MAX_WINDOW_MESSAGES
    window_bytes: int = MAX_WINDOW_BYTES
    max_message_size: int = MAX_MESSAGE

    def __post_init__(self) -> None:
        for name in ("reliable", "ordered"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be a bool, not {getattr(self, name)!r}")
        for name in ("window_messages", "window_bytes"):
            _check_int(name, getattr(self, name), 1)
        _check_int("max_message_size", self.max_message_size, 1, 2**32 - 1)
        for name in ("max_retransmits", "max_packet_life_time"):
            if getattr(self, name) is not None:
                _check_int(name, getattr(self, name), 0, MAX_RELIABILITY)
        is_partial = self.max_retransmits is not None or self.max_packet_life_time is not None
        if self.reliable and (is_partial or not self.ordered):
            raise ValueError("a reliable channel must be ordered, without limits on retransmissions")
        if self.max_retransmits is not None and self.max_packet_life_time is not None:
            raise ValueError("give max_retransmits or max_packet_life_time, not both")

    def for_aiortc(self) -> dict[str, Any]:
        """Return the options as keyword arguments of `create_data_channel`."""
        return {
            "protocol": PROTOCOL if self.reliable else LOSSY_PROTOCOL,
            "ordered": self.ordered,
            "maxRetransmits": self.max_retransmits,
            "maxPacketLifeTime": self.max_packet_life_time,
        }


def check_label(label: object) -> None:
    """Check the label of a managed channel.

    Raises:
        TypeError: the label is not a str.
        ValueError: the label is too long, contains lone surrogates, or is reserved.
    """
    if not isinstance(label, str):
        raise TypeError(f"label must be a str, not {label!r}")
    if len(label) > MAX_LABEL:
        raise ValueError(f"label must have at most {MAX_LABEL} characters, not {len(label)}")
    if label.startswith(INTERNAL_LABELS):
        raise ValueError(f"label {label!r} is reserved: it starts with {INTERNAL_LABELS!r}")
    label.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate


def check_names(label: object, protocol: object = "") -> None:
    """Check the label and the protocol of a data channel.

    Raises:
        TypeError: one of them is not a str.
        ValueError: one of them is too long, or contains lone surrogates.
    """
    for what, name in (("label", label), ("protocol", protocol)):
        if not isinstance(name, str):
            raise TypeError(f"{what} must be a str, not {type(name).__name__}")
        size = message_size(name)
        if size > MAX_NAME_BYTES:
            raise ValueError(
                f"{what} must have at most {MAX_NAME_BYTES} UTF-8 bytes, not {size} (RFC 8832 section 5.1)"
            )


def _check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}, not {value!r}")
