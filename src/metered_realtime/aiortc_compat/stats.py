"""Statistics of connections, senders and receivers.

The counters of aiortc are read directly: its `getStats()` is a coroutine that makes ten objects for each track. What it
does not count is counted by objects that replace a bound method and pass the call on.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aioice.stun
from aioice.ice import Connection, StunProtocol
from aiortc import RTCDataChannel, RTCPeerConnection
from aiortc.codecs import is_rtx
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtcsctptransport import (
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    RTCSctpTransport,
)

from ..core.media.rates import RateWindow
from .dtls import send_all
from .transports import dtls_transport, ice_transport, sctp_transport
from .version import Guard, KnownPart

_SENDER = "_RTCRtpSender__"


GUARD = Guard(
    "statistics read 0 where nothing is counted",
    KnownPart(RTCIceTransport, "b11403aba1c3a32b", "__init__"),
    KnownPart(RTCDtlsTransport, "77ad5bb3884c4371", "_recv_next", "_send_rtp", "_write_ssl"),
    KnownPart(
        RTCSctpTransport,
        "7c7f91fce00ffed8",
        "_data_channel_closed",
        "_data_channel_open",
        "_data_channel_receive",
        "_data_channel_send",
    ),
    KnownPart(RTCRtpSender, "f1a60fe630e41c3d", "_next_encoded_frame", "_run_rtp"),
    KnownPart(Connection, "f3e764c5b3f84323", "build_request", "check_start", "query_consent", "send", "sendto"),
    KnownPart(StunProtocol, "97991c38f65ea939", "request"),
)


class TransportCounter:
    """Counts what a connection sends: replaces the send function of its ICE transport."""

    pass_on: Callable[[bytes], Coroutine[Any, Any, None]]
    pairs: Mapping[int, Any]

    def __init__(self) -> None:
        began_at = time.monotonic()
        self.bytes_sent = 0
        self.packets_sent = 0
        self.connected_at: float | None = None
        self.rate_out = RateWindow(began_at)
        self.rate_in = RateWindow(began_at)

    def attach(self, ice: RTCIceTransport) -> None:
        """Count what this transport sends from now on."""
        counted: Any = ice
        self.pass_on = counted._send
        self.pairs = counted._connection._nominated
        counted._send = self

    def __call__(self, data: bytes) -> Coroutine[Any, Any, None]:
        """Send a datagram. It is not counted if there is no path, which raises."""
        if self.pairs:
            self.bytes_sent += len(data)
            self.packets_sent += 1
        return self.pass_on(data)

    def send_all(self, datagrams: Sequence[bytes]) -> Coroutine[Any, Any, None]:
        """Send several datagrams."""
        if self.pairs:
            self.bytes_sent += sum(map(len, datagrams))
            self.packets_sent += len(datagrams)
        return send_all(self.pass_on, datagrams)

    def follow(self, state: str) -> None:
        """Handle a change of the connection state."""
        self.connected_at = time.monotonic() if state == "connected" else None


class _TimedRequest:
    """Replaces the STUN request of one socket, and keeps the latest round-trip time to each address."""

    def __init__(self, request: Callable[..., Awaitable[Any]]) -> None:
        self.round_trips: dict[Any, float] = {}
        self.pass_on = request

    async def __call__(self, request: Any, addr: Any, *args: Any, **kwargs: Any) -> Any:
        asked_at = time.monotonic()
        response = await self.pass_on(request, addr, *args, **kwargs)
        elapsed = time.monotonic() - asked_at
        if elapsed < aioice.stun.RETRY_RTO:  # later it may answer a retransmission (RFC 6298 section 3)
            self.round_trips[addr] = elapsed
        return response


class _PacketCounter:
    """Counts the RTP payload of a receiver without retransmissions: replaces its packet handler."""

    def __init__(self, handle: Callable[..., Coroutine[Any, Any, None]], codecs_by_type: dict[int, Any]) -> None:
        self.bytes = 0
        self.codec: Any = None
        self.sources: dict[int, None] = {}
        self.rate = RateWindow(time.monotonic())
        self.pass_on = handle
        self.codecs_by_type = codecs_by_type

    def __call__(self, packet: Any, arrival_time_ms: int) -> Coroutine[Any, Any, None]:
        codec = self.codecs_by_type.get(packet.payload_type)
        if codec is not None and (codec is self.codec or not is_rtx(codec)):
            self.bytes += len(packet.payload)
            self.codec = codec
            self.sources[packet.ssrc] = None
        return self.pass_on(packet, arrival_time_ms=arrival_time_ms)


def count_frames(sender: RTCRtpSender) -> None:
    """Count the frames that a new sender encodes."""
    if not GUARD.holds():
        return
    counted: Any = sender
    counted._next_encoded_frame = FrameCounter(counted._next_encoded_frame)


class FrameCounter:
    """Counts the frames that a sender encodes: replaces the method that encodes one."""

    def __init__(self, encode_next: Callable[[Any], Awaitable[Any]]) -> None:
        self.frames = 0
        self.rate = RateWindow(time.monotonic())
        self.pass_on = encode_next

    async def __call__(self, codec: Any) -> Any:
        frame = await self.pass_on(codec)
        if frame is not None:
            self.frames += 1
        return frame


@dataclass(slots=True)
class MessageCounter:
    """Messages and bytes of one data channel, or of all of a connection."""

    messages_sent: int = 0
    bytes_sent: int = 0
    messages_received: int = 0
    bytes_received: int = 0

    def sent(self, size: int) -> None:
        """Count a message that was passed to SCTP."""
        self.messages_sent += 1
        self.bytes_sent += size

    def received(self, size: int) -> None:
        """Count a received message."""
        self.messages_received += 1
        self.bytes_received += size


class _MessageCounters:
    """Counts messages: `open`, `send` and `receive` replace methods of an SCTP transport.

    `total` is that of all channels there ever were, `channels` holds those that still exist.
    """

    pass_on_open: Callable[[RTCDataChannel], None]
    pass_on_send: Callable[[RTCDataChannel, bytes | str], None]
    pass_on_receive: Callable[[int, int, bytes], Coroutine[Any, Any, None]]

    def __init__(self) -> None:
        self.total = MessageCounter()
        self.channels: weakref.WeakKeyDictionary[RTCDataChannel, MessageCounter] = weakref.WeakKeyDictionary()
        self.by_id: Mapping[int, RTCDataChannel] = {}

    def attach(self, sctp: RTCSctpTransport) -> None:
        """Count the messages of this transport from now on."""
        counted: Any = sctp
        self.by_id = counted._data_channels
        self.pass_on_open = counted._data_channel_open
        self.pass_on_send = counted._data_channel_send
        self.pass_on_receive = counted._data_channel_receive
        counted._data_channel_open = self.open
        counted._data_channel_send = self.send
        counted._data_channel_receive = self.receive

    def of(self, channel: RTCDataChannel) -> MessageCounter:
        counter = self.channels.get(channel)
        if counter is None:
            counter = self.channels[channel] = MessageCounter()
        return counter

    def open(self, channel: RTCDataChannel) -> None:
        self.pass_on_open(channel)
        self.of(channel)  # without an id it is known nowhere else

    def send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        self.pass_on_send(channel, data)
        size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
        self.of(channel).sent(size)
        self.total.sent(size)

    def receive(self, stream_id: int, pp_id: int, data: bytes) -> Coroutine[Any, Any, None]:
        channel = self.by_id.get(stream_id)
        if channel is not None and pp_id in _MESSAGES:
            size = 0 if pp_id in _EMPTY_MESSAGES else len(data)
            self.of(channel).received(size)
            self.total.received(size)
        return self.pass_on_receive(stream_id, pp_id, data)

    def open_channels(self) -> list[RTCDataChannel]:
        """Return the channels that have not ended, those without an id last."""
        known = {*self.channels, *self.by_id.values()}
        alive = [channel for channel in known if channel.readyState != "closed"]
        return sorted(alive, key=lambda channel: (channel.id is None, channel.id))


_EMPTY_MESSAGES = frozenset({WEBRTC_STRING_EMPTY, WEBRTC_BINARY_EMPTY})

_MESSAGES = _EMPTY_MESSAGES | {WEBRTC_STRING, WEBRTC_BINARY}


@dataclass(frozen=True, slots=True)
class _Traffic:
    """The counters of one connection."""

    transport: TransportCounter
    messages: _MessageCounters


def count_traffic(pc: RTCPeerConnection) -> None:
    """Count what a new connection sends, the round-trip times of its STUN checks, and its messages."""
    transport, messages = TransportCounter(), _MessageCounters()
    counted: Any = pc
    counted.traffic = _Traffic(transport, messages)
    pc.on("connectionstatechange", lambda: transport.follow(pc.connectionState))
    if GUARD.holds():
        transport.attach(ice_transport(pc))
        _time_requests(ice_transport(pc)._connection)
        messages.attach(sctp_transport(pc))


def _time_requests(connection: Connection) -> None:
    """Measure every check, whichever socket sends it: a check is built right before it is sent."""
    timed: Any = connection
    build = timed.build_request

    def build_request(pair: Any, nominate: bool) -> Any:
        if not isinstance(pair.protocol.request, _TimedRequest):
            pair.protocol.request = _TimedRequest(pair.protocol.request)
        return build(pair, nominate)

    timed.build_request = build_request


def count_packets(receiver: RTCRtpReceiver) -> None:
    """Count the payload that a new receiver gets."""
    counted: Any = receiver
    counted._handle_rtp_packet = _PacketCounter(counted._handle_rtp_packet, counted._RTCRtpReceiver__codecs)


def _traffic(pc: RTCPeerConnection) -> _Traffic:
    counted: Any = pc
    traffic: _Traffic = counted.traffic
    return traffic


def transport_counter(pc: RTCPeerConnection) -> TransportCounter:
    """Return the counter of what a connection sends. `count_traffic` has made it."""
    return _traffic(pc).transport


def received(pc: RTCPeerConnection) -> tuple[int, int]:
    """Return the bytes and packets that a connection has received."""
    if not GUARD.holds():
        return 0, 0
    dtls: Any = dtls_transport(pc)
    return dtls._RTCDtlsTransport__rx_bytes, dtls._RTCDtlsTransport__rx_packets


def packets_refused(pc: RTCPeerConnection) -> int:
    """Return how many packets of the remote were refused as malformed or excessive."""
    return sum(
        getattr(it, "media_refused", 0) + getattr(it, "packets_malformed", 0) for it in (dtls_transport(pc), pc.sctp)
    )


def round_trip_time(pair: Any) -> float | None:
    """Return the round-trip time of the latest STUN check on a pair, in seconds."""
    request = pair.protocol.request
    return request.round_trips.get(pair.remote_addr) if isinstance(request, _TimedRequest) else None


def message_total(pc: RTCPeerConnection) -> MessageCounter:
    """Return the counter of all data channels, those that have ended included."""
    return _traffic(pc).messages.total


def message_counters(pc: RTCPeerConnection) -> list[tuple[RTCDataChannel, MessageCounter]]:
    """Return the data channels that have not ended, ordered by id, with their counters."""
    messages = _traffic(pc).messages
    return [(channel, messages.of(channel)) for channel in messages.open_channels()]


@dataclass(slots=True)
class SenderStats:
    """Statistics of a sender. `report` is aiortc's RTCRemoteInboundRtpStreamStats, None before the first one."""

    bytes: int
    packets: int
    frames: int
    rate: RateWindow
    report: Any


def sender_stats(sender: RTCRtpSender) -> SenderStats:
    """Return the statistics of a sender. Frames read 0 if `count_frames` cannot count them."""
    counter = getattr(sender, "_next_encoded_frame", None)
    return SenderStats(
        bytes=getattr(sender, f"{_SENDER}octet_count", 0),
        packets=getattr(sender, f"{_SENDER}packet_count", 0),
        frames=getattr(counter, "frames", 0),
        rate=getattr(counter, "rate", None) or RateWindow(time.monotonic()),
        report=getattr(sender, f"{_SENDER}stats", {}).get(f"remote-inbound-rtp_{id(sender)}"),
    )


@dataclass(slots=True)
class ReceiverStats:
    """Statistics of a receiver, over all sources of its section. `jitter` is in units of the codec's clock."""

    bytes: int
    packets: int
    packets_lost: int
    jitter: int
    rate: RateWindow
    codec: Any


def receiver_stats(receiver: RTCRtpReceiver) -> ReceiverStats:
    """Return the statistics of a receiver that was passed to `count_packets`."""
    inside: Any = receiver
    counter = inside._handle_rtp_packet
    known = inside._RTCRtpReceiver__remote_streams
    streams = [known[ssrc] for ssrc in counter.sources if ssrc in known]
    return ReceiverStats(
        bytes=counter.bytes,
        packets=sum(stream.packets_received for stream in streams),
        packets_lost=sum(stream.packets_lost for stream in streams),
        jitter=streams[-1].jitter if streams else 0,
        rate=counter.rate,
        codec=counter.codec,
    )
