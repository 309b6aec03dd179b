"""A faster SCTP association: aiortc's, with its hot methods replaced.

aiortc sends each DATA chunk in a packet of its own, acknowledges each packet by itself, walks through all chunks in
flight whenever it sends or is acknowledged, and starts a task for each message. Here chunks share packets (RFC 9260
section 6.10), packets that are read at once share acknowledgements, channels take turns, and no step takes longer for
the number of chunks in flight. Setting up, tearing down, resetting streams (RFC 6525) and opening channels (RFC 8832)
stay aiortc's. On the wire it is ordinary SCTP: docs/data_path.md lists the differences and what allows them.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from struct import Struct
from typing import Any

from aioice.ice import Connection, StunProtocol
from aiortc import RTCDataChannel, RTCPeerConnection
from aiortc.rtcdtlstransport import RTCDtlsTransport
from aiortc.rtcicetransport import RTCIceTransport
from aiortc.rtcsctptransport import (
    CHUNK_TYPES,
    SCTP_MAX_PACKET_LENGTH,
    RTCSctpTransport,
)

from ..core.sctp.acknowledging import AcknowledgementPolicy
from ..core.sctp.congestion import CHUNK_SIZE, RECEIVE_WINDOW, CongestionControl
from ..core.sctp.control import MAX_CONTROL_CHUNKS, is_sound, is_sound_packet
from ..core.sctp.inbound import FARTHEST, HALF, MAX_HELD_CHUNKS, TSN_MASK, ChunkReassembly, ReceivedTsns
from ..core.sctp.outbound import Outbound, acknowledged_now
from ..core.sctp.packets import COMMON_HEADER, PacketFormat
from .dtls import FastDtlsTransport
from .sctp_channels import SctpDataChannels, run_now
from .timer import PostponedTimer
from .version import Guard, KnownPart

PACKET_ROOM = SCTP_MAX_PACKET_LENGTH - COMMON_HEADER
"""Bytes of chunks in a packet."""

_log = logging.getLogger("metered_realtime")
_CHUNK = Struct("!BBH")
_DATA = Struct("!LLHHL")
DATA, SACK = 0, 3
_SACK = Struct("!4xLLHH")
_PAIR = Struct("!HH")
_ABORT_NO_ROOM = bytes((6, 0, 0, 8, 0, 4, 0, 4))
"""ABORT with the cause Out of Resource (RFC 9260 section 3.3.10.4)."""


GUARD = Guard(
    "using aiortc's own, slower data channels",
    KnownPart(RTCSctpTransport, "ea2322c8aa980c46"),
    KnownPart(RTCDataChannel, "0bdc32681c7b000c"),
    KnownPart(
        RTCDtlsTransport,
        "b2106a99fdd8a2b8",
        "__init__",
        "_do_handshake",
        "__run",
        "_handle_rtcp_data",
        "_handle_rtp_data",
        "_recv_next",
        "_send_data",
        "_send_rtp",
        "_write_ssl",
        "stop",
    ),
    KnownPart(RTCIceTransport, "d3d11f6af7e5f7dd"),
    KnownPart(
        Connection,
        "b35851e19d9154e0",
        "recv",
        "recvfrom",
        "send",
        "sendto",
        "data_received",
        "protocol_lost",
        "close",
    ),
    KnownPart(StunProtocol, "9d5873dfff69a1a6"),
)


class FastSctpTransport(SctpDataChannels):
    """An SCTP transport that bundles chunks and acknowledges packets in batches."""

    def quicken(self) -> None:
        """Initialise the attributes that aiortc's transport does not have. Call it before the transport starts."""
        self._event_loop = asyncio.get_running_loop()
        self._outbound = Outbound(self._local_tsn)
        self._reassembly = ChunkReassembly()
        self._received: ReceivedTsns | None = None
        self._initial_tsn: int | None = None
        inside: Any = self  # attributes that aiortc's remaining methods use
        inside._forward_tsn_streams = self._outbound.skipped_streams
        inside._inbound_streams = self._reassembly
        self.quicken_channels()
        self._congestion = CongestionControl()
        self._acknowledgements = AcknowledgementPolicy()
        self._format: PacketFormat | None = None
        self._timer = PostponedTimer(self._t3_expired)
        self._peer_window: int | None = None
        self._has_data = self._skip_due = self._send_due = False
        self.chunks_refused = 0
        self.packets_corrupt = 0
        self.packets_sent = 0

    def _set_state(self, state: RTCSctpTransport.State) -> None:
        """Handle a change of aiortc's state. The verification tags are known once it is established.

        After a repeated COOKIE ECHO (RFC 9260 section 5.2.4) aiortc would visit every channel again.
        """
        if state == self._association_state == self.State.ESTABLISHED:
            self._know_headers()
            return
        super()._set_state(state)
        if state == self.State.ESTABLISHED:
            self._know_headers()
            self._take_turns()
        elif state == self.State.CLOSED and self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None

    def _know_headers(self) -> None:
        """Prepare the common headers once the ports and verification tags of both ends are known."""
        if self._remote_port is not None and self._remote_verification_tag:
            self._format = PacketFormat(
                self._local_port, self._local_verification_tag, self._remote_port, self._remote_verification_tag
            )

    # --- attributes that aiortc's remaining methods use

    @property
    def _rto(self) -> float:  # type: ignore[override]  # aiortc sets it in `_update_rto` alone, which is not called
        """The timeout in seconds with which aiortc sets up, tears down and resets streams."""
        return self._congestion.timeout

    @property
    def _ssthresh(self) -> int:
        """The slow-start threshold. aiortc sets it to the window that the remote announces during set-up."""
        return self._congestion.threshold

    @_ssthresh.setter
    def _ssthresh(self, window: int) -> None:
        self._congestion.threshold = window

    # --- packets received

    async def _handle_data(self, data: bytes) -> None:
        """Handle one packet: called by aiortc's own DTLS transport."""
        self.begin_batch()
        self.receive_packet(data)
        self.end_batch()

    def begin_batch(self) -> None:
        """Begin a batch of packets that were read at once."""
        self._acknowledgements.begin_batch(self._event_loop.time())

    def receive_packet(self, data: bytes) -> None:
        """Handle a packet. The answer is sent now unless it can wait for `end_batch`."""
        if self._association_state == self.State.CLOSED:
            return
        try:
            self._take_packet(data)
        except ConnectionError:
            raise
        except Exception as error:  # aiortc's parser may raise anything for a malformed chunk
            self._malformed(error)
        if self._has_data:
            self._has_data = False
            received = self._received
            shows_loss = received is not None and bool(received.blocks or received.duplicates)
            self._acknowledgements.count_packet(shows_loss=shows_loss)
        if self._reconfig_deferred is not None:
            run_now(self._reset_deferred_streams())
        if self._acknowledgements.is_due or self._send_due:
            self._send_all()

    def _take_packet(self, data: bytes) -> None:
        packets = self._format
        if packets is None or not packets.is_inbound(data):
            if is_sound_packet(data):
                run_now(super()._handle_data(data))  # not established, or not of this association
            else:
                self._malformed()
        elif packets.is_intact(data):
            self._take_chunks(data)
        else:
            self.packets_corrupt += 1

    def end_batch(self) -> None:
        """End a batch: acknowledge its packets, together with what handlers have sent meanwhile."""
        self._acknowledgements.end_batch()
        if self._acknowledgements.is_due or self._flush_handle is not None:
            self._send_all()

    def _take_chunks(self, data: bytes) -> None:
        """Handle all chunks of a packet in order (RFC 9260 section 6.10). aiortc makes an object for each one."""
        position, end, controls = COMMON_HEADER, len(data), 0
        while position + 4 <= end:
            kind, flags, length = _CHUNK.unpack_from(data, position)
            stop = position + length
            if length < 4 or stop > end:
                return
            if kind == DATA:
                if length > 16:
                    _, tsn, stream_id, sequence, protocol = _DATA.unpack_from(data, position)
                    self._take_data(tsn, flags, stream_id, sequence, protocol, data[position + 16 : stop])
            else:
                controls += 1
                if controls > MAX_CONTROL_CHUNKS:
                    self._malformed()
                    return
                self._take_control(kind, flags, data, position, length)
            position = (stop + 3) & ~3

    def _take_control(self, kind: int, flags: int, data: bytes, position: int, length: int) -> None:
        if kind == SACK:
            if length >= 16:
                self._take_sack(data, position, length)
        elif (known := CHUNK_TYPES.get(kind)) is not None:
            body = data[position + 4 : position + length]
            if is_sound(kind, body):
                run_now(self._receive_chunk(known(flags=flags, body=body)))
            else:
                self._malformed()

    # --- data received

    def _take_data(self, tsn: int, flags: int, stream_id: int, sequence: int, protocol: int, data: bytes) -> None:
        """Handle a DATA chunk. aiortc scans everything out of order for each one."""
        received = self._received
        if received is None:
            return
        self._has_data = True
        reassembly = self._reassembly
        ahead = (tsn - received.cumulative) & TSN_MASK
        holds_much = reassembly.held_bytes > RECEIVE_WINDOW or reassembly.held_chunks > MAX_HELD_CHUNKS
        if (ahead != 1 or holds_much) and not self._has_room(ahead, len(data)):
            return
        place = received.add(tsn)
        if place is not None:
            for message in reassembly.take(place, stream_id, flags, sequence, protocol, data):
                self._deliver(*message)

    def _has_room(self, ahead: int, size: int) -> bool:
        """Return whether the announced window (RFC 9260 section 6.2) has room: refused chunks are sent again.

        The next chunk in order is accepted, as others may wait for it. If the window or the number of chunks is still
        exceeded twofold, the remote sends an endless message, or begins more and more of them: abort.
        """
        held, chunks = self._reassembly.held_bytes + size, self._reassembly.held_chunks
        if ahead == 0 or ahead >= HALF:
            return True  # a duplicate
        if ahead == 1:
            is_too_much = held > 2 * RECEIVE_WINDOW or chunks >= 2 * MAX_HELD_CHUNKS
            if is_too_much:
                self._refuse_association()
            return not is_too_much
        if held <= RECEIVE_WINDOW and chunks < MAX_HELD_CHUNKS and ahead <= FARTHEST:
            return True
        self.chunks_refused += 1
        return False

    def _refuse_association(self) -> None:
        _log.warning("SCTP association aborted: the remote fills the receive buffer with messages that never end")
        self._send_packet([_ABORT_NO_ROOM])
        self._set_state(self.State.CLOSED)

    async def _receive_data_chunk(self, chunk: Any) -> None:
        """Handle a chunk that aiortc has parsed: one in the packet that establishes the association."""
        self._take_data(chunk.tsn, chunk.flags, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data)

    async def _receive_forward_tsn_chunk(self, chunk: Any) -> None:
        """Skip what the remote has given up (RFC 3758 section 3.6)."""
        received = self._received
        if received is None:
            return
        self._has_data = self._acknowledgements.is_due = True
        if received.skip_to(chunk.cumulative_tsn):
            for message in self._reassembly.skip(received.cumulative, chunk.streams):
                self._deliver(*message)

    @property
    def _last_received_tsn(self) -> int | None:
        """The cumulative TSN as on the wire. aiortc sets it at each INIT; a repeated INIT changes nothing here."""
        return None if self._received is None else self._received.cumulative & TSN_MASK

    @_last_received_tsn.setter
    def _last_received_tsn(self, tsn: int | None) -> None:
        if tsn is not None and tsn != self._initial_tsn:
            self._initial_tsn = tsn
            self._received = ReceivedTsns(tsn)

    # --- acknowledgements received

    def _take_sack(self, data: bytes, position: int, length: int) -> None:
        cumulative, window, blocks, _ = _SACK.unpack_from(data, position)
        gaps: list[tuple[int, int]] = []
        if blocks and 16 + 4 * blocks <= length:
            start = position + 16
            gaps = list(_PAIR.iter_unpack(data[start : start + 4 * blocks]))
        self._acknowledge(cumulative, window, gaps)

    async def _receive_sack_chunk(self, chunk: Any) -> None:
        """Handle a SACK that aiortc has parsed."""
        self._acknowledge(chunk.cumulative_tsn, chunk.advertised_rwnd, chunk.gaps)

    def _acknowledge(self, cumulative: int, window: int, gaps: list[tuple[int, int]]) -> None:
        """Handle an acknowledgement (RFC 9260 section 6.2.1). aiortc walks through all chunks in flight for it."""
        outbound = self._outbound
        now = self._event_loop.time()
        was_full = self._congestion.is_full(outbound.flight)
        result = outbound.acknowledge(cumulative, gaps, now)
        if result is None:
            return
        self._peer_window = window
        if result.sent_at is not None:
            self._congestion.measure(now - result.sent_at)
        self._congestion.acknowledge(
            result, was_full=was_full, sacked=outbound.sacked, highest_sent=outbound.highest_sent
        )
        if not outbound.outstanding:
            self._timer.pause()
        elif result.advanced:
            self._timer.start(self._congestion.timeout)
        self._skip_due = outbound.skipped > outbound.sacked
        self._send_due = True

    # --- sending

    async def _transmit(self) -> None:
        """Send what is due: called by aiortc."""
        self._send_all()

    async def _send_sack(self) -> None:
        """Acknowledge: called by aiortc."""
        self._acknowledgements.is_due = True
        self._send_all()

    def _send_all(self) -> None:
        """Send everything that is due and allowed, in as few packets as possible."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._send_due = False
        if self._association_state == self.State.CLOSED:
            return
        with suppress(ConnectionError):  # the path is lost, as the connection state shows
            self._send_packets()
        if not self._timer.is_running and self._outbound.outstanding:
            self._timer.start(self._congestion.timeout)
        self._local_tsn = self._outbound.next_tsn & TSN_MASK
        if self._freed:
            self._tell_freed()
        if self._reconfig_queue and not self._reconfig_request:
            run_now(self._transmit_reconfig())

    def _send_packets(self) -> None:
        """Fill packets: acknowledgement, then lost chunks, then new ones (RFC 9260 sections 6.1 and 6.10)."""
        outbound = self._outbound
        chunks, room = self._control_chunks()
        limit = self._congestion.allowance(outbound.flight)
        now = self._event_loop.time()
        if outbound.next_lost() is not None:
            room, limit = self._add_lost(chunks, room, limit, now)
        peer = self._congestion.threshold if self._peer_window is None else self._peer_window
        queue = outbound.queue
        while (queue or self._take_message()) and outbound.flight < limit:
            chunk = queue[0]
            if (
                outbound.flight + chunk.size > peer and outbound.flight
            ):  # one chunk may always be sent, to probe a closed window
                break
            wire = chunk.wire
            if len(wire) > room:
                self._send_packet(chunks)
                chunks, room = [], PACKET_ROOM
            chunks.append(wire)
            room -= len(wire)
            outbound.launch(now)
        else:
            if not queue and chunks and chunks[-1][0] == DATA:
                chunks[-1] = acknowledged_now(chunks[-1])  # nothing follows, so the acknowledgement must not be delayed
        if chunks:
            self._send_packet(chunks)

    def _control_chunks(self) -> tuple[list[bytes], int]:
        """Return the control chunks that are due, and the bytes that they leave in their packet."""
        chunks: list[bytes] = []
        if self._acknowledgements.is_due and self._received is not None:
            window = max(0, RECEIVE_WINDOW - self._reassembly.held_bytes)
            chunks.append(self._received.acknowledgement(window))
            self._acknowledgements.answered()
        if self._skip_due:
            self._skip_due = False
            skip = self._outbound.skip_chunk()
            if skip is not None:
                chunks.append(skip)
        room = PACKET_ROOM - sum(map(len, chunks))
        if room < 0:
            self._send_packet(chunks[:1])
            return chunks[1:], PACKET_ROOM - len(chunks[1])
        return chunks, room

    def _add_lost(self, chunks: list[bytes], room: int, limit: int, now: float) -> tuple[int, int]:
        """Send lost chunks again. Return the room left and the limit, 0 if some are still waiting."""
        outbound = self._outbound
        if self._congestion.retransmits_at_once:
            self._congestion.retransmits_at_once = False
            limit = max(limit, outbound.flight + CHUNK_SIZE)
        while (chunk := outbound.next_lost()) is not None:
            if outbound.flight >= limit:
                return room, 0
            if chunk.tsn == outbound.sacked + 1:
                self._timer.start(self._congestion.timeout)
            if len(chunk.wire) > room:
                self._send_packet(chunks)
                chunks.clear()
                room = PACKET_ROOM
            chunks.append(chunk.wire)
            room -= len(chunk.wire)
            outbound.launch_again(chunk, now)
        return room, limit

    def _send_packet(self, chunks: list[bytes]) -> None:
        if self._format is None:
            self._know_headers()
        assert self._format is not None, "the other end has sent a chunk, or aiortc would not be established"
        transport: Any = self.transport
        self.packets_sent += 1
        transport.send_now(self._format.packet(chunks))

    async def _send_chunk(self, chunk: Any) -> None:
        """Send a control chunk: called by aiortc, from its timers in tasks whose exceptions nobody retrieves.

        Without a path the chunk is lost like any packet: the timers send it again, and give up after some attempts.
        """
        with suppress(ConnectionError):  # the path is lost, as the connection state shows
            await super()._send_chunk(chunk)

    # --- the retransmission timer (RFC 9260 section 6.3)

    def _t3_cancel(self) -> None:
        """Stop the timer: called by aiortc."""
        self._timer.stop()

    def _t3_expired(self) -> None:
        """Send everything in flight again, with a longer timeout (RFC 9260 sections 6.3.3 and 7.2.3)."""
        self._congestion.expire()
        self._outbound.expire(self._event_loop.time())
        self._skip_due = self._outbound.skipped > self._outbound.sacked
        self._send_all()


def speed_up_data(pc: RTCPeerConnection) -> None:
    """Let a new connection carry its data in this way. Call it before gathering and before `count_traffic`."""
    if not GUARD.holds():
        return
    association: Any = pc.sctp
    transport: Any = association.transport
    transport.__class__ = FastDtlsTransport
    transport.quicken()
    association.__class__ = FastSctpTransport
    association.quicken()
