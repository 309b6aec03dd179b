"""Opening of data channels (DCEP, RFC 8832), bounded.

aiortc opens as many channels as the remote asks for, with names of any length, and counts the characters of its own
names instead of their bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from struct import Struct
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection
from aiortc.rtcsctptransport import DATA_CHANNEL_ACK, DATA_CHANNEL_OPEN, WEBRTC_DCEP, RTCSctpTransport

from .dtls import DONE
from .version import Guard, KnownPart

MAX_CHANNELS = 1_024
"""Data channels that a remote may have open at once, as in Chromium. Each costs some 5 KB."""

MAX_NAME_BYTES = 1024 * 1024
"""Bytes of the labels and protocols of those channels. Names live as long as their channels, and take up to four times
as much memory as Python text."""

UNORDERED, MAX_RETRANSMITS, MAX_LIFE_TIME = 0x80, 1, 2
"""Channel types (RFC 8832 section 8.2.2)."""

_OPEN = Struct("!BBHLHH")


def open_message(channel: RTCDataChannel) -> bytes:
    """Return the message that opens a channel (RFC 8832 section 5.1), with lengths in bytes of UTF-8."""
    kind, reliability = 0, 0
    if channel.maxRetransmits is not None:
        kind, reliability = MAX_RETRANSMITS, channel.maxRetransmits
    elif channel.maxPacketLifeTime is not None:
        kind, reliability = MAX_LIFE_TIME, channel.maxPacketLifeTime
    if not channel.ordered:
        kind |= UNORDERED
    label, protocol = channel.label.encode(), channel.protocol.encode()
    return _OPEN.pack(DATA_CHANNEL_OPEN, kind, 0, reliability, len(label), len(protocol)) + label + protocol


GUARD = Guard("the data channels that a remote opens are not bounded", KnownPart(RTCSctpTransport, "ea2322c8aa980c46"))


class ChannelAdmission:
    """Bounds the channels that a remote opens: replaces the steps of SCTP that open and close them.

    A channel beyond the bounds is not opened; its stream is reset (RFC 8831 section 6.7). `tell` is called with the
    reason of the first refusal.
    """

    def __init__(self, pc: RTCPeerConnection, tell: Callable[[str], None]) -> None:
        self.refused = 0
        self._tell = tell
        sctp: Any = pc.sctp
        self._sctp = sctp
        self._names: dict[int, int] = {}
        self._bytes = 0
        self._reset: set[int] = set()
        if GUARD.holds():
            self._receive: Callable[[int, int, bytes], Coroutine[Any, Any, None]] = sctp._data_channel_receive
            self._closed: Callable[[int], None] = sctp._data_channel_closed
            sctp._data_channel_receive = self.receive
            sctp._data_channel_closed = self.closed

    def receive(self, stream_id: int, pp_id: int, data: bytes) -> Coroutine[Any, Any, None]:
        """Handle a message of a stream: open a channel, or pass the message on."""
        if pp_id != WEBRTC_DCEP:
            return self._receive(stream_id, pp_id, data)
        kind, is_known = data[:1], stream_id in self._sctp._data_channels
        if kind == bytes((DATA_CHANNEL_ACK,)):
            return self._receive(stream_id, pp_id, data) if is_known else DONE
        if kind != bytes((DATA_CHANNEL_OPEN,)) or is_known or len(data) < _OPEN.size:
            return DONE  # a channel opens once (RFC 8832 section 6)
        return self._opened(stream_id, pp_id, data)

    def closed(self, stream_id: int) -> None:
        """Handle the end of a channel, or of the stream of a refused one."""
        self._bytes -= self._names.pop(stream_id, 0)
        if stream_id in self._sctp._data_channels:
            self._closed(stream_id)

    def _opened(self, stream_id: int, pp_id: int, data: bytes) -> Coroutine[Any, Any, None]:
        *_, label, protocol = _OPEN.unpack_from(data)
        size = label + protocol
        if _OPEN.size + size > len(data):
            return self._refuse(stream_id, "an opening message is cut off")
        if len(self._names) >= MAX_CHANNELS:
            return self._refuse(stream_id, f"more than {MAX_CHANNELS}")
        if self._bytes + size > MAX_NAME_BYTES:
            return self._refuse(stream_id, f"their names take more than {MAX_NAME_BYTES} bytes")
        self._names[stream_id] = size
        self._bytes += size
        self._reset.discard(stream_id)
        self._sctp._data_channel_outbound_reset.discard(stream_id)
        return self._receive(stream_id, pp_id, data)

    def _refuse(self, stream_id: int, reason: str) -> Coroutine[Any, Any, None]:
        self.refused += 1
        if self.refused == 1:
            self._tell(reason)
        if stream_id not in self._reset:
            self._reset.add(stream_id)
            waiting: list[int] = self._sctp._reconfig_queue
            waiting.append(stream_id)
            if len(waiting) == 1:
                asyncio.ensure_future(self._sctp._transmit_reconfig())  # noqa: RUF006 - it does not suspend
        return DONE
