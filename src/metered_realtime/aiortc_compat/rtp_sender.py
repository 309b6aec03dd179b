"""RTP senders of packets that several receivers share.

For each receiver aiortc cuts the same frame again, makes two objects of every packet, reads the date twice, writes the
header in ten pieces, and passes the packet through four coroutines. Here the payloads are shared, the constant part of
the headers is written once, and a packet costs two concatenations, SRTP and a call of the socket. On the wire only the
sender reports differ: the first one is sent with the first frame, and another one if it was wrong. Starting, stopping,
all other reports and feedback stay aiortc's: this replaces two methods of its sender.

Unlike aiortc's sender this one does not log single packets at level DEBUG.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Coroutine, Iterable
from struct import Struct
from typing import Any, Protocol

from aiortc import RTCRtpSender, rtp
from aiortc.codecs import get_encoder, h264, vpx
from aiortc.rtcrtpsender import random_sequence_number
from aiortc.rtp import (
    RTP_HISTORY_SIZE,
    HeaderExtensions,
    HeaderExtensionsMap,
    RtcpSdesPacket,
    RtcpSenderInfo,
    RtcpSourceInfo,
    RtcpSrPacket,
    RtpPacket,
)
from aiortc.utils import random32

from ..core.media.rates import RateWindow
from ..media.codecs.encoders import Packet
from ..media.codecs.rtp_payload import MAX_PAYLOAD
from ..media.sending.shared_packet import PlacedPacket
from ..options import DEFAULT_TUNING, Tuning
from .dtls import DONE, FastDtlsTransport, one_by_one
from .rtcp_feedback import send_levels
from .version import Guard, KnownPart

_SENDER = "_RTCRtpSender__"

_HEADER = Struct("!BBHLL")
_EXTENSION = Struct("!HH")
_NUMBER = Struct("!H")

VERSION = 0x80
HAS_EXTENSION = 0x10
MARKER = 0x80
"""Bits of the first two bytes of a header (RFC 3550 section 5.1)."""

NTP_EPOCH = 2_208_988_800
"""Seconds from NTP's year 1900 to Unix's 1970."""

NTP_SECOND = 1 << 32

CNAME = 1
"""The item of a source description (RFC 3550 section 6.5.1) that all tracks with one clock share."""

MAX_WRONG = 0.01
"""Maximum error of a sender report, in seconds. A larger one is corrected at once."""

REPORT_PAUSE = 0.1
"""Minimum time between such corrections, in seconds."""

BATCH = 16
"""Packets that are written and then sent together, with one send time: some 0.3 ms. A picture has fewer, a key frame a
few times as many. Receivers estimate the capacity of the path by how packets are spread."""

PICTURE_IDS = 1 << 15
VP8_DESCRIPTOR = Struct("!BBH")
"""The VP8 payload descriptor with a picture id of 15 bits, as aiortc writes it (RFC 7741 section 4.2)."""

VP8_EXTENDED, VP8_START, VP8_HAS_PICTURE_ID, VP8_LONG_PICTURE_ID = 0x80, 0x10, 0x80, 0x8000

VP8_PAYLOAD = MAX_PAYLOAD - VP8_DESCRIPTOR.size
"""Bytes of a VP8 frame in one packet."""

# The encoders and packers of aiortc read these when they cut a frame.
vpx.PACKET_MAX = h264.PACKET_MAX = MAX_PAYLOAD


GUARD = Guard(
    "using aiortc's own sender, which packs media for each receiver",
    KnownPart(
        RTCRtpSender,
        "35492be5bf37e759",
        "__init__",
        "send",
        "_handle_rtcp_packet",
        "_next_encoded_frame",
        "_retransmit",
        "_run_rtp",
        "_run_rtcp",
        "_send_rtcp",
    ),
    KnownPart(HeaderExtensionsMap, "55c43cd8952bc31a", "set"),
    KnownPart(RtpPacket, "3231bbe4ef6ca07f", "serialize"),
    KnownPart(rtp, "0f099d4ba56fb887", "wrap_rtx"),
    KnownPart(vpx.Vp8Encoder, "af44bc52f43255b5", "pack", "_packetize"),
    KnownPart(
        h264.H264Encoder, "44f390111be16909", "_packetize", "_packetize_fu_a", "_packetize_stap_a", "_split_bitstream"
    ),
)
"""What is replaced, what calls the replacements, and what they call."""


class SharedPacketTrack(Protocol):
    """A track that yields shared packets: `ForwardTrack`. aiortc's own sender uses `level`."""

    level: int | None

    async def next_shared_packet(self) -> PlacedPacket: ...


def send_shared_packets(sender: RTCRtpSender, track: SharedPacketTrack, tuning: Tuning = DEFAULT_TUNING) -> None:
    """Let a new sender, whose frames are counted, send the shared packets of its track."""
    if not (tuning.shared_payloads and GUARD.holds()):
        send_levels(sender, track)
        return
    replaced: Any = sender
    stream = replaced._next_encoded_frame = SharedPacketSender(sender, track)
    replaced._retransmit = stream.retransmit


class SharedPacketSender:
    """Sends the packets of one track to one receiver: replaces the method of a sender that encodes a frame.

    It returns no frame, so that aiortc sends nothing itself. `frames` counts the frames; `rate` measures the bytes.
    """

    def __init__(self, sender: RTCRtpSender, track: SharedPacketTrack) -> None:
        self.frames = 0
        self.rate = RateWindow(time.monotonic())
        self._sender: Any = sender
        self._track = track
        self._loop = asyncio.get_running_loop()
        self._cut: Callable[[Packet], list[bytes]] | None = None
        self._clock_rate = 1
        self._told = math.inf  # the time of pts 0 in the last report sent here, by the clock of the event loop
        self._silent_until = -math.inf
        self._describes = False
        self._payload_type = 0
        self._sequence_number = random_sequence_number()
        self._origin = random32()
        self._picture_id = random.randrange(PICTURE_IDS)
        self._extensions: dict[int | None, tuple[bytes, bytes | None]] = {}
        self._history: list[tuple[int, bytes, bytes] | None] = [None] * RTP_HISTORY_SIZE

    async def __call__(self, codec: Any) -> None:
        """Send the next packet of the track. aiortc calls this in a loop, always with the same codec."""
        if self._cut is None:
            self._begin(codec)
        shared, pts, taken_at = await self._track.next_shared_packet()
        if not self._sender._enabled:
            return
        assert self._cut is not None
        payloads = shared.payloads(self._cut)
        if not payloads:
            return
        self.frames += 1
        timestamp = (self._origin + pts) & 0xFFFFFFFF
        for start in range(0, len(payloads), BATCH):
            sent_at = ntp_time()
            rest = self._send(self._packets(payloads, start, timestamp, sent_at, shared.level))
            if rest is not DONE:
                await rest
        now = self._loop.time()
        self._count(payloads, timestamp, ntp_time() - round((now - taken_at) * NTP_SECOND))
        began = taken_at - pts / self._clock_rate
        if abs(began - self._told) > MAX_WRONG and now >= self._silent_until:
            self._told, self._silent_until = began, now + REPORT_PAUSE
            await self._report()

    def kept(self, numbers: set[int]) -> list[tuple[int, int]]:
        """Return which of these packets `retransmit` still has, the oldest first, with their sizes in bytes."""
        following = self._sequence_number
        near = [number for number in numbers if (following - 1 - number) & 0xFFFF < RTP_HISTORY_SIZE]
        near.sort(key=lambda number: (number - following) & 0xFFFF)
        kept = ((number, self._history[number % RTP_HISTORY_SIZE]) for number in near)
        return [(number, len(it[1]) + len(it[2])) for number, it in kept if it is not None and it[0] == number]

    async def retransmit(self, sequence_number: int) -> None:
        """Send a packet again if it is kept, as RTX (RFC 4588 section 4) if that was negotiated."""
        kept = self._history[sequence_number % RTP_HISTORY_SIZE]
        if kept is None or kept[0] != sequence_number:
            return
        _, head, payload = kept
        sender = self._sender
        if getattr(sender, f"{_SENDER}rtx_payload_type") is not None:
            head = self._as_rtx(head, sequence_number)
        await self._send((head + payload,))

    def _begin(self, codec: Any) -> None:
        self._payload_type = codec.payloadType
        self._clock_rate = codec.clockRate
        self._describes = codec.mimeType.lower() == "video/vp8"
        self._cut = cut_vp8 if self._describes else _cutter(codec)

    def _packets(
        self, payloads: list[bytes], start: int, timestamp: int, sent_at: int, level: int | None
    ) -> list[bytes]:
        """Write up to `BATCH` packets of a frame from `start` on, and keep them for `retransmit`."""
        before, after = self._extensions_with(level)
        flags, kind = VERSION | HAS_EXTENSION if before else VERSION, self._payload_type
        number, source, last = self._sequence_number, self._sender._ssrc, len(payloads) - 1
        rest = before if after is None else before + (sent_at >> 14 & 0xFFFFFF).to_bytes(3) + after
        history, packets = self._history, []
        for place, payload in enumerate(payloads[start : start + BATCH], start):
            head = _HEADER.pack(flags, kind if place < last else kind | MARKER, number, timestamp, source) + rest
            if self._describes:
                head += self._descriptor(place)
            history[number % RTP_HISTORY_SIZE] = number, head, payload
            packets.append(head + payload)
            number = (number + 1) & 0xFFFF
        self._sequence_number = number
        return packets

    def _descriptor(self, place: int) -> bytes:
        """Return the payload descriptor of a VP8 packet. Its picture ids have no gaps for any receiver: Chromium uses
        them to find what a picture depends on."""
        flags = VP8_EXTENDED if place else VP8_EXTENDED | VP8_START
        return VP8_DESCRIPTOR.pack(flags, VP8_HAS_PICTURE_ID, VP8_LONG_PICTURE_ID | self._picture_id)

    def _extensions_with(self, level: int | None) -> tuple[bytes, bytes | None]:
        loudness = None if level is None else -level & 0x7F  # no more values than 7 bits hold
        known = self._extensions.get(loudness)
        if known is None:
            sender = self._sender
            ids, mid = (getattr(sender, _SENDER + name) for name in ("rtp_header_extensions_map", "mid"))
            known = self._extensions[loudness] = extensions_around_time(ids, mid, loudness)
        return known

    def _send(self, packets: Iterable[bytes]) -> Coroutine[Any, Any, None]:
        transport = self._sender.transport
        if isinstance(transport, FastDtlsTransport):
            return transport.send_media(packets)
        return one_by_one(transport._send_rtp, packets)

    def _count(self, payloads: list[bytes], timestamp: int, taken_at: int) -> None:
        """Update what aiortc reports (RFC 3550 section 6.4.1) and its statistics.

        Receivers synchronise sound and picture by the time that is reported with a timestamp. It is the time at which
        the track yielded the frame, not the time of sending as in aiortc: it does not include the encoder's.
        """
        sender, count = self._sender, len(payloads)
        sender._RTCRtpSender__ntp_timestamp = taken_at
        sender._RTCRtpSender__rtp_timestamp = timestamp
        sender._RTCRtpSender__octet_count += sum(map(len, payloads))
        sender._RTCRtpSender__packet_count += count
        if self._describes:
            sender._RTCRtpSender__octet_count += count * VP8_DESCRIPTOR.size
            self._picture_id = (self._picture_id + 1) % PICTURE_IDS

    async def _report(self) -> None:
        """Send the report that `_run_rtcp` would send, without its delay of 0.5 to 1.5 s.

        A report to a single receiver may be sent at once (RFC 3550 section 6.2): the receiver cannot synchronise before
        the first one. Later ones correct it if the first frames were delayed.
        """
        sender = self._sender
        reported = RtcpSenderInfo(
            ntp_timestamp=sender._RTCRtpSender__ntp_timestamp,
            rtp_timestamp=sender._RTCRtpSender__rtp_timestamp,
            packet_count=sender._RTCRtpSender__packet_count & 0xFFFFFFFF,
            octet_count=sender._RTCRtpSender__octet_count & 0xFFFFFFFF,
        )
        # The receiver returns it with its age: aiortc computes the round-trip time from that.
        sender._RTCRtpSender__lsr = reported.ntp_timestamp >> 16 & 0xFFFFFFFF
        sender._RTCRtpSender__lsr_time = time.time()
        packets: list[Any] = [RtcpSrPacket(sender._ssrc, reported)]
        name = sender._RTCRtpSender__cname
        if name is not None:
            packets.append(RtcpSdesPacket([RtcpSourceInfo(sender._ssrc, [(CNAME, name.encode())])]))
        await sender._send_rtcp(packets)

    def _as_rtx(self, head: bytes, sequence_number: int) -> bytes:
        sender = self._sender
        flags, kind, _, timestamp, _ = _HEADER.unpack_from(head)
        end = _HEADER.size
        if flags & HAS_EXTENSION:
            end += _EXTENSION.size + 4 * _EXTENSION.unpack_from(head, end)[1]
        kind = kind & MARKER | sender._RTCRtpSender__rtx_payload_type
        number = sender._RTCRtpSender__rtx_sequence_number
        sender._RTCRtpSender__rtx_sequence_number = (number + 1) & 0xFFFF
        again = _HEADER.pack(flags, kind, number, timestamp, sender._rtx_ssrc)
        return again + head[_HEADER.size : end] + _NUMBER.pack(sequence_number) + head[end:]


def ntp_time() -> int:
    """Return the time in units of 2^-32 s, to the microsecond: aiortc's function in a third of its time."""
    seconds, microseconds = divmod(time.time_ns() // 1_000, 1_000_000)
    return (seconds + NTP_EPOCH) << 32 | (microseconds << 32) // 1_000_000


def cut_vp8(packet: Packet) -> list[bytes]:
    """Cut a VP8 frame into payloads, without their descriptors."""
    frame = bytes(packet)
    return [frame[start : start + VP8_PAYLOAD] for start in range(0, len(frame), VP8_PAYLOAD)]


def cut_h264(packet: Packet) -> list[bytes]:
    """Cut an H.264 frame into payloads as aiortc does (RFC 6184): small units together, large ones in fragments.

    Empty units, on which aiortc fails, are left out.
    """
    units = h264.H264Encoder._split_bitstream(bytes(packet))
    return h264.H264Encoder._packetize(unit for unit in units if unit)


def _cutter(codec: Any) -> Callable[[Packet], list[bytes]]:
    """Return a function that cuts as aiortc does, for codecs whose payloads are the same for all receivers."""
    if codec.mimeType.lower() == "video/h264":
        return cut_h264
    packer = get_encoder(codec)

    def cut(packet: Packet) -> list[bytes]:
        payloads, _ = packer.pack(packet)
        return payloads

    return cut


def extensions_around_time(
    ids: HeaderExtensionsMap, mid: str | None, loudness: int | None
) -> tuple[bytes, bytes | None]:
    """Return the header extensions (RFC 8285) as aiortc writes them, before and after the 3 bytes of abs-send-time.

    The second part is None if abs-send-time is not negotiated. `loudness` is in -dBov (RFC 6464).
    """
    one, other = (_extensions(ids, mid, loudness, at) for at in (0, 0xFFFFFF))
    if one == other:
        return one, None
    start = next(place for place, byte in enumerate(one) if byte != other[place])
    return one[:start], one[start + 3 :]


def _extensions(ids: HeaderExtensionsMap, mid: str | None, loudness: int | None, sent_at: int) -> bytes:
    level = None if loudness is None else (False, loudness)
    profile, content = ids.set(HeaderExtensions(abs_send_time=sent_at, mid=mid, audio_level=level))
    return _EXTENSION.pack(profile, len(content) // 4) + content if content else b""
