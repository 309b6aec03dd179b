"""Packets of tracks that are not read, counted and dropped as early as possible.

Decrypting, parsing and reassembling a packet, and requesting lost ones, costs far more than counting it. While a track
is not read its packets are counted as they come from the socket, and dropped. The statistics that RTCP reports, loss
and jitter among them, go on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from struct import Struct
from typing import Any, NamedTuple, Protocol

from aioice.ice import Connection, StunProtocol
from aiortc import RTCDtlsTransport
from aiortc.codecs import is_rtx
from aiortc.jitterbuffer import JitterBuffer
from aiortc.rtcrtpreceiver import RTCRtpReceiver, StreamStatistics
from aiortc.rtp import RtpPacket

from .version import Guard, KnownPart

PASS_EVERY = 256
"""One in so many packets is decrypted, so that SRTP follows the sequence numbers: it needs one in 32,768 to know how
often they have wrapped (RFC 3711 section 3.3.1)."""

BATCH = 8
"""Packets that are counted together. The statistics of a track that is not read lag by at most so many."""

RTP_OVERHEAD = 36
"""Bytes of a packet that are not payload, until a decrypted one has shown how many there are."""

_SEQUENCE_AND_TIMESTAMP = Struct("!2xHI")
_RECEIVER = "_RTCRtpReceiver__"


GUARD = Guard(
    "using aiortc's own receiving path: a track that is not read costs more",
    KnownPart(Connection, "5631b17fab717d6b", "data_received"),
    KnownPart(StunProtocol, "2c7f0283ddebbd99", "connection_made", "datagram_received"),
    KnownPart(RTCDtlsTransport, "f12c072a1d8eeebd", "_handle_rtp_data", "_recv_next"),
    KnownPart(StreamStatistics, "fa1224049c219dac"),
    KnownPart(JitterBuffer, "f485c3c78df73622"),
)


class UnreadSink(Protocol):
    """Counts the frames of a track that is not read."""

    def skipped(self, frames: int) -> None:
        """Count frames that were dropped."""

    def passed(self, codec: Any, timestamp: int) -> None:
        """Handle the codec and the timestamp of a packet now and then."""


class ReceiverGate:
    """Replaces the packet handler of a receiver: closed it counts and drops packets, open it passes them on."""

    def __init__(self, receiver: RTCRtpReceiver, sink: UnreadSink) -> None:
        self._receiver: Any = receiver
        self._sink = sink
        self._handle = receiver._handle_rtp_packet
        self._can_close = GUARD.holds()
        self._is_open = not self._can_close
        self._sources: dict[int, _Source] = {}

    def __call__(self, packet: RtpPacket, arrival_time_ms: int) -> Coroutine[Any, Any, None]:
        if self._is_open:
            return self._handle(packet, arrival_time_ms=arrival_time_ms)
        return self._drop(packet)

    def open(self) -> None:
        """Pass packets on. The receiver does not request those that were dropped."""
        if not self._is_open:
            self._is_open = True
            self._leave_gate()
            self._forget_losses()

    def close(self) -> None:
        """Drop packets, if the guard holds."""
        self._is_open = not self._can_close

    def forget(self, ssrc: int) -> None:
        """Remove a source."""
        source = self._sources.pop(ssrc, None)
        if source is not None:
            source.flush()
            _datagram_gate_of(self._receiver).sources.pop(ssrc.to_bytes(4, "big"), None)

    async def _drop(self, packet: RtpPacket) -> None:
        codec = getattr(self._receiver, f"{_RECEIVER}codecs").get(packet.payload_type)
        if codec is None or is_rtx(codec):
            return
        source = self._sources.get(packet.ssrc)
        if source is None:
            source = self._sources[packet.ssrc] = self._new_source(packet.ssrc, codec.clockRate)
        source.passed(packet)
        self._sink.passed(codec, packet.timestamp)

    def _new_source(self, ssrc: int, clock_rate: int) -> _Source:
        streams = getattr(self._receiver, f"{_RECEIVER}remote_streams")
        statistics = streams.setdefault(ssrc, StreamStatistics(clock_rate))
        source = _Source(self._receiver, statistics, self._sink)
        _datagram_gate_of(self._receiver).sources[ssrc.to_bytes(4, "big")] = source
        return source

    def _leave_gate(self) -> None:
        if self._sources:
            sources = _datagram_gate_of(self._receiver).sources
            for ssrc, source in self._sources.items():
                source.flush()
                if sources.get(ssrc.to_bytes(4, "big")) is source:
                    del sources[ssrc.to_bytes(4, "big")]
            self._sources.clear()

    def _forget_losses(self) -> None:
        """Make the next packet the first one: all that were dropped would be requested otherwise."""
        inside = self._receiver
        buffer = getattr(inside, f"{_RECEIVER}jitter_buffer")
        if buffer._origin is not None:
            buffer.remove(buffer.capacity)
            buffer._origin = None
        for name in ("nack_generator", "remote_bitrate_estimator"):
            old = getattr(inside, f"{_RECEIVER}{name}")
            if old is not None:
                setattr(inside, f"{_RECEIVER}{name}", type(old)())


class _Source:
    """One SSRC of a track that is not read: counts packets in batches, before they are decrypted."""

    def __init__(self, receiver: Any, statistics: StreamStatistics, sink: UnreadSink) -> None:
        self._receiver = receiver
        self._statistics = statistics
        self._sink = sink
        self._is_audio = receiver.track.kind == "audio"
        self._packets = 0
        self._bytes = 0
        self._frames = 0
        self._until_pass = PASS_EVERY
        self._overhead = RTP_OVERHEAD
        self._size: int | None = None

    def drops(self, data: bytes) -> bool:
        """Count an encrypted packet. Return False if it has to be decrypted."""
        self._until_pass -= 1
        if not self._until_pass:
            self._until_pass = PASS_EVERY
            self._size = len(data)
            return False
        self._packets += 1
        self._bytes += len(data)
        if self._is_audio or data[1] > 127:  # the marker bit: the last packet of a picture
            self._frames += 1
        if self._packets == BATCH:
            self.flush()
            # For time and order the last packet of a batch stands for all of it.
            self._statistics.packets_received -= 1
            self._statistics.add(_Header(*_SEQUENCE_AND_TIMESTAMP.unpack_from(data)))  # type: ignore[arg-type]
        return True

    def passed(self, packet: RtpPacket) -> None:
        """Count a decrypted packet. Its bytes are counted already."""
        if self._size is not None:
            self._overhead, self._size = self._size - len(packet.payload), None
        self.flush()
        self._statistics.add(packet)
        self._sink.skipped(1 if self._is_audio else packet.marker)

    def flush(self) -> None:
        """Add what was counted so far to the statistics."""
        packets, self._packets = self._packets, 0
        size, self._bytes = self._bytes, 0
        frames, self._frames = self._frames, 0
        self._statistics.packets_received += packets
        self._receiver._handle_rtp_packet.bytes += size - packets * self._overhead
        self._receiver.transport._RTCDtlsTransport__rx_bytes += size
        self._receiver.transport._RTCDtlsTransport__rx_packets += packets
        self._sink.skipped(frames)


class _Header(NamedTuple):
    """The fields of a packet that `StreamStatistics` reads."""

    sequence_number: int
    timestamp: int


class _DatagramGate:
    """Replaces the step between the sockets of a connection and DTLS (RFC 7983)."""

    def __init__(self, connection: Any) -> None:
        self.sources: dict[bytes, _Source] = {}
        self._connection = connection
        self._pass_on = connection.data_received
        self._watched: list[Any] = []

    def __call__(self, data: bytes, component: int) -> None:
        """Handle a datagram of a socket that is not watched yet, and watch the socket."""
        source = self._source_of(data)
        if source is None or not source.drops(data):
            self._pass_on(data, component)
        if source is not None:
            self._watch_sockets()

    def _source_of(self, data: bytes) -> _Source | None:
        """Return the unread source of a packet, None for everything that must not be dropped."""
        source = self.sources.get(data[8:12])
        if source is not None and 127 < data[0] < 192 and not 191 < data[1] < 224:
            return source  # RTCP has its types where RTP has the marker and the payload type (RFC 5761 section 4)
        return None

    def _watch_sockets(self) -> None:
        """See datagrams before aioice tries to parse each as STUN."""
        for protocol in self._connection._protocols:
            if protocol not in self._watched:
                self._watched.append(protocol)
                protocol.datagram_received = self._before(protocol, protocol.datagram_received)

    def _before(self, protocol: Any, receive: Callable[[bytes, Any], None]) -> Callable[[bytes, Any], None]:
        def look(data: bytes, address: Any) -> None:
            source = self._source_of(data)
            if source is None:
                receive(data, address)
            elif not source.drops(data):
                self._pass_on(data, protocol.local_candidate.component)

        return look


def _datagram_gate_of(receiver: Any) -> _DatagramGate:
    """Return the gate of the connection, which all its receivers share."""
    connection = receiver.transport.transport._connection
    if not isinstance(connection.data_received, _DatagramGate):
        connection.data_received = _DatagramGate(connection)
    gate: _DatagramGate = connection.data_received
    return gate
