"""What receivers tell a sender, which aiortc keeps to itself when it does not encode: requests and estimates. And what
a sender does not tell or count.

This touches private attributes of aiortc; tests/aiortc_compat/test_rtcp_feedback.py fails when a release moves
something underneath.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from aiortc import RTCDtlsTransport, RTCRtpSender
from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    unpack_remb_fci,
)

from ..core.media.rates import RateWindow
from ..core.media.retransmissions import Retransmissions
from .stats import FrameCounter
from .version import Guard, KnownPart

MAX_SANE_BITRATE = 10**10
"""Bits per second above which an estimate (REMB) is noise: the format holds up to 2^81."""

FIR_ENTRY = struct.Struct(">I4x")
"""The source that is to send a key frame; a sequence number and a reserved field follow (RFC 5104 section 4.3.1.1)."""


@runtime_checkable
class KeepsPackets(Protocol):
    """A sender's own step that keeps what it has sent."""

    def kept(self, numbers: set[int]) -> list[tuple[int, int]]:
        """Return which packets are there, the oldest first, and how many bytes each has."""


class Feedback(Protocol):
    """Who listens to the receivers of a sender."""

    def request_key_frame(self) -> None: ...
    def take_estimate(self, bitrate: int) -> None: ...


ROUTER_GUARD = Guard(
    "using aiortc's own routing: full intra requests may not be heard",
    KnownPart(RtpRouter, "199bd7e279f1945a", "route_rtcp"),
)


def listen_to_feedback(sender: RTCRtpSender, feedback: Feedback) -> Retransmissions:
    """Tell of each PLI and FIR (RFC 4585 section 6.3.1, RFC 5104 section 4.3.1) and of each REMB for a sender.

    Return what decides on requests for lost packets.

    An estimate is shared out equally among the senders for which it is.

    aiortc remembers the first two for the next frame that it encodes, and gives the third to its encoder: a sender of
    packets has neither.
    """
    hooked: Any = sender
    tap = hooked._handle_rtcp_packet = _FeedbackTap(hooked, feedback)
    return tap.retransmissions


def route_full_intra_requests(transport: RTCDtlsTransport) -> None:
    """Hand each FIR to the senders that it names.

    aiortc looks for them in the packet's header, where this one has zero: they stand in its entries (RFC 5104 section
    4.3.1.1).
    """
    if not ROUTER_GUARD.holds():
        return
    router: Any = transport._rtp_router
    route: Callable[[Any], set[Any]] = router.route_rtcp

    def with_targets(packet: Any) -> set[Any]:
        recipients = route(packet)
        if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_FIR:
            whole = len(packet.fci) // FIR_ENTRY.size * FIR_ENTRY.size
            targets = {source for (source,) in FIR_ENTRY.iter_unpack(packet.fci[:whole])}
            recipients |= {router.senders[source] for source in targets & router.senders.keys()}
        return recipients

    router.route_rtcp = with_targets


class Loudness(Protocol):
    """Who knows how loud the packet was that a sender was given last."""

    @property
    def level(self) -> int | None: ...


def send_levels(sender: RTCRtpSender, loudness: Loudness) -> None:
    """Send the level of sound (RFC 6464) with packets of it, too: aiortc computes it of what it encodes itself.

    Call it for a sender whose frames are counted (`count_frames`); others send the level that aiortc computes.
    """
    counter = getattr(sender, "_next_encoded_frame", None)
    if not isinstance(counter, FrameCounter):
        return
    pass_on: Callable[[Any], Awaitable[Any]] = counter.pass_on

    async def with_level(codec: Any) -> Any:
        frame = await pass_on(codec)
        if frame is not None:
            frame.audio_level = loudness.level
        return frame

    counter.pass_on = with_level


class _FeedbackTap:
    """Stands in for a sender's RTCP handler, and passes everything on."""

    def __init__(self, sender: Any, feedback: Feedback) -> None:
        self._sender = sender
        self._feedback = feedback
        self._pass_on: Callable[[Any], Awaitable[None]] = sender._handle_rtcp_packet
        self._rate = RateWindow(time.monotonic())
        self.retransmissions = Retransmissions()

    async def __call__(self, packet: Any) -> None:
        if isinstance(packet, RtcpPsfbPacket):
            if packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self._feedback.request_key_frame()
            elif packet.fmt == RTCP_PSFB_APP:
                self._take_estimate(packet.fci)
        elif isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            packet.lost = self._admitted(packet.lost)
        await self._pass_on(packet)

    def _admitted(self, lost: list[int]) -> list[int]:
        """Return which of the numbers in a request are sent again. aiortc does not wrap those of a bit mask."""
        now = time.monotonic()
        sender = self._sender
        octets: int = sender._RTCRtpSender__octet_count
        rate, round_trip = self._rate.rate(octets, now), sender._RTCRtpSender__rtt
        return [
            number
            for number, size in self._kept({number & 0xFFFF for number in lost})
            if self.retransmissions.admit(number, size, now, round_trip=round_trip, rate=rate)
        ]

    def _kept(self, numbers: set[int]) -> list[tuple[int, int]]:
        """Return the packets that the sender still has, with their sizes."""
        source = self._sender._next_encoded_frame
        if isinstance(source, KeepsPackets):
            return source.kept(numbers)
        history = self._sender._RTCRtpSender__rtp_history
        kept = [(number, history.get(number % RTP_HISTORY_SIZE)) for number in numbers]
        return [(number, len(it.payload)) for number, it in kept if it is not None and it.sequence_number == number]

    def _take_estimate(self, message: bytes) -> None:
        try:
            bitrate, sources = unpack_remb_fci(message)
        except ValueError:  # any other application layer message
            return
        if self._sender._ssrc in sources:
            # It is that of the path. Chromium lists everything that it receives on it, retransmissions included.
            known = self._sender.transport._rtp_router.senders
            shares = sum(source in known for source in set(sources))
            self._feedback.take_estimate(min(bitrate, MAX_SANE_BITRATE) // max(1, shares))
