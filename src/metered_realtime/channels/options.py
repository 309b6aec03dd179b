"""How channels that survive their connections are opened: labels and options, checked before anything is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..core.channels.frames import LOSSY_PROTOCOL, PROTOCOL
from ..core.channels.replay import MAX_MESSAGE
from ..core.channels.send_window import MAX_WINDOW_BYTES, MAX_WINDOW_MESSAGES
from .unheard import message_size

MAX_LABEL = 1_024
"""Characters of a label, which is a name. DCEP would take 65,535 bytes."""

MAX_NAME_BYTES = 65_535
"""Bytes in UTF-8 of the label or the protocol of any data channel: lengths have 16 bits (RFC 8832 section 5.1)."""

INTERNAL_LABELS = "metered."
"""Labels that begin so belong to this package."""

MAX_RELIABILITY = 2**32 - 1
"""Retransmissions, or milliseconds: the reliability parameter of RFC 8832 section 5.1, which a remote may fill."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """How a channel is opened. Sizes are bytes, the life time is milliseconds.

    Raises:
        TypeError: a number is none.
        ValueError: it is out of range, or options exclude each other.
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
            raise ValueError("a reliable channel is ordered, and sends everything until it has arrived")
        if self.max_retransmits is not None and self.max_packet_life_time is not None:
            raise ValueError("give max_retransmits or max_packet_life_time, not both")

    def for_aiortc(self) -> dict[str, Any]:
        """Return what `create_data_channel` is given."""
        return {
            "protocol": PROTOCOL if self.reliable else LOSSY_PROTOCOL,
            "ordered": self.ordered,
            "maxRetransmits": self.max_retransmits,
            "maxPacketLifeTime": self.max_packet_life_time,
        }


def check_label(label: object) -> None:
    """Check the label that a program wants.

    Raises:
        TypeError: it is not str.
        ValueError: it is too long, not Unicode, or one of this package's own.
    """
    if not isinstance(label, str):
        raise TypeError(f"a label is str, not {label!r}")
    if len(label) > MAX_LABEL:
        raise ValueError(f"a label of {len(label)} characters, {MAX_LABEL} are taken")
    if label.startswith(INTERNAL_LABELS):
        raise ValueError(f"labels that begin with {INTERNAL_LABELS!r} are reserved: {label!r}")
    label.encode()  # a lone surrogate is a UnicodeEncodeError


def check_names(label: object, protocol: object = "") -> None:
    """Check what names a data channel.

    Raises:
        TypeError: one is not str.
        ValueError: one is too long, or not Unicode.
    """
    for what, name in (("label", label), ("protocol", protocol)):
        if not isinstance(name, str):
            raise TypeError(f"a {what} is str, not {type(name).__name__}")
        size = message_size(name)
        if size > MAX_NAME_BYTES:
            raise ValueError(f"a {what} of {size} bytes, at most {MAX_NAME_BYTES} fit (RFC 8832 section 5.1)")


def _check_int(name: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, not {value!r}")
    if value < low or (high is not None and value > high):
        bounds = f"at least {low}" if high is None else f"from {low} to {high}"
        raise ValueError(f"{name} must be {bounds}, not {value!r}")
