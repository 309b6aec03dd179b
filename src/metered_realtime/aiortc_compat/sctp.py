"""An SCTP association that keeps up with the network: aiortc's, with its hot methods replaced.

aiortc sends each DATA chunk in a packet of its own, acknowledges each packet by itself, walks through all chunks in
flight whenever it sends or is acknowledged, and starts a task for each message. Here chunks share packets (RFC 9260
section 6.10), packets that are read at once share acknowledgements, channels take turns, and nothing takes longer for
what is in flight. Setting up, tearing down, resetting streams (RFC 6525) and opening channels (RFC 8832) stay
aiortc's. On the wire it is SCTP as anybody speaks it: docs/data_path.md says what differs and why it may.

What is known of aiortc's and aioice's insides is checked when it is first needed: where the source has changed, aiortc
goes its own way. tests/aiortc_compat/test_sctp.py fails when a release moves something underneath.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from struct import Struct
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection
from aiortc.rtcsctptransport import (
    CHUNK_TYPES,
    RECONFIG_MAX_STREAMS,
    SCTP_MAX_PACKET_LENGTH,
    USERDATA_MAX_LENGTH,
    WEBRTC_BINARY,
    WEBRTC_BINARY_EMPTY,
    WEBRTC_DCEP,
    WEBRTC_STRING,
    WEBRTC_STRING_EMPTY,
    RTCSctpTransport,
)
from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

from ..core.sctp.control import MAX_CONTROL_CHUNKS, is_sound, is_sound_packet
from ..core.sctp.inbound import FARTHEST, HALF, MAX_HELD_CHUNKS, TSN_MASK, Reassembly, ReceivedTsns
from ..core.sctp.outbound import Acknowledged, FairQueue, Limits, Outbound, acknowledged_now
from .dcep import open_message
from .digests import insides_are_known
from .dtls import DONE, FastDtlsTransport

MAX_BURST = 4
"""Full packets that may go out at once beyond those that were acknowledged (Max.Burst, RFC 9260 section 16)."""

RTO_INITIAL = 1.0
"""Seconds before anything is known of the path (RFC 9260 section 16; aiortc has 3 from RFC 4960)."""

RTO_MIN = 0.2
"""Seconds after which the last packet of a burst is sent again at the earliest. RFC 9260 recommends 1 and leaves it to
the implementation; TCP in Linux has 0.2, Chromium's SCTP 0.12. Less would mistake delayed acknowledgements for loss."""

RTO_MAX = 3.0
"""Seconds between attempts on a silent path. Consent (RFC 7675) ends it after 6: longer ones would never come."""

MIN_FLIGHT = 160 * USERDATA_MAX_LENGTH
"""Bytes in flight that are allowed on any path. As full packets they fit the 512 KiB that aioice has a socket hold."""

MAX_RATE = 50_000_000
"""Bytes per second that one core carries: on a long path there may be as much in flight as fills it at this rate. More
would only stand in queues, and delay media."""

ACKNOWLEDGE_EVERY = 4
"""Packets with data that share an acknowledgement in a steady flow, if they are read at once. RFC 9260 section 6.2
recommends two, and each costs as much to handle as a packet of data."""

PROMPT_ANSWERS = 128
"""Packets after a pause, or a sign of loss, that are acknowledged one by one: a window opens by acknowledgements
(section 7.2.1), not by what they cover. So many open it as far as `MIN_FLIGHT`."""

PAUSE = 0.005
"""Seconds without data that count as a pause. A sender whose window does not fill the path makes one each
round trip."""

RECEIVE_WINDOW = 1024 * 1024
"""Bytes that may wait for what is missing: aiortc's figure, which is also announced."""

HEADER = 12
"""Bytes of the common header of a packet (RFC 9260 section 3.1)."""

PACKET_ROOM = SCTP_MAX_PACKET_LENGTH - HEADER

_log = logging.getLogger("metered_realtime")
_LE32 = Struct("<L")
_HEADER = Struct("!HHL")
_CHUNK = Struct("!BBH")
_DATA = Struct("!LLHHL")
DATA, SACK = 0, 3
_EMPTY: dict[int, str | bytes] = {WEBRTC_STRING_EMPTY: "", WEBRTC_BINARY_EMPTY: b""}
_SACK = Struct("!4xLLHH")
_PAIR = Struct("!HH")
_NO_CHECKSUM = bytes(4)
_ABORT_NO_ROOM = bytes((6, 0, 0, 8, 0, 4, 0, 4))
"""ABORT with the cause Out of Resource (RFC 9260 section 3.3.10.4)."""


class FastSctpTransport(RTCSctpTransport):
    """An SCTP transport that bundles, acknowledges by batch, and does no work twice."""

    def quicken(self) -> None:
        """Set up what aiortc's transport does not have. Call it before the transport starts."""
        self._event_loop = asyncio.get_running_loop()
        self._outbound = Outbound(self._local_tsn)
        self._reassembly = Reassembly()
        self._received: ReceivedTsns | None = None
        self._initial_tsn: int | None = None
        inside: Any = self  # what stays aiortc's finds its own names
        inside._forward_tsn_streams = self._outbound.skipped_streams
        inside._inbound_streams = self._reassembly
        inside._data_channel_queue = FairQueue()
        self._ssthresh = RECEIVE_WINDOW
        self._peer_window: int | None = None
        self._recovery_until: int | None = None
        self._flight_bound = MIN_FLIGHT
        self._least_rtt = RTO_MAX
        self._rto = RTO_INITIAL
        self._t3_due: float | None = None
        self._flush_handle: asyncio.Handle | None = None
        self._freed: dict[RTCDataChannel, int] = {}
        self._has_data = self._answer_due = self._skip_due = self._send_due = False
        self._unanswered = 0
        self._prompt_answers = PROMPT_ANSWERS
        self._batch_at = 0.0
        self._burst = MAX_BURST * USERDATA_MAX_LENGTH
        self._header_in = self._header_out = b""
        self._seed_in = self._seed_out = 0
        self.chunks_refused = 0
        self.packets_malformed = 0
        self.packets_corrupt = 0
        self.packets_sent = 0

    def _set_state(self, state: RTCSctpTransport.State) -> None:
        """Follow aiortc's state. The verification tags are known once it is established.

        A COOKIE ECHO may come again (RFC 9260 section 5.2.4): that is no reason to visit every channel again.
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

    def _take_turns(self) -> None:
        """Queue what waits fairly again: aiortc makes a plain queue when a channel closes before this."""
        inside: Any = self
        if not isinstance(inside._data_channel_queue, FairQueue):
            inside._data_channel_queue, waiting = FairQueue(), inside._data_channel_queue
            for message in waiting:
                inside._data_channel_queue.append(message)

    def _know_headers(self) -> None:
        """Remember the common headers, and what the checksum is behind them: only what follows them changes."""
        if self._remote_port is None or not self._remote_verification_tag:
            return
        self._header_in = _HEADER.pack(self._remote_port, self._local_port, self._local_verification_tag)
        self._header_out = _HEADER.pack(self._local_port, self._remote_port, self._remote_verification_tag)
        self._seed_in = crc32c(self._header_in + _NO_CHECKSUM)
        self._seed_out = crc32c(self._header_out + _NO_CHECKSUM)

    # --- packets that arrive

    async def _handle_data(self, data: bytes) -> None:
        """Take one packet: what aiortc's own DTLS transport calls."""
        self.begin()
        self.take(data)
        self.finish()

    def begin(self) -> None:
        """Begin a batch of packets."""
        now = self._event_loop.time()
        if now - self._batch_at > PAUSE:
            self._prompt_answers = PROMPT_ANSWERS
        self._batch_at = now

    def take(self, data: bytes) -> None:
        """Take a packet. What it calls for is sent now if it should not wait for `finish`."""
        if self._association_state == self.State.CLOSED:
            return
        try:
            self._take_packet(data)
        except ConnectionError:
            raise
        except Exception as error:  # aiortc raises whatever a chunk makes it trip over: the others go on
            self._malformed(error)
        if self._has_data:
            self._has_data = False
            self._note_packet()
        if self._reconfig_deferred is not None:
            run_now(self._reset_deferred_streams())
        if self._answer_due or self._send_due:
            self._send_all()

    def _take_packet(self, data: bytes) -> None:
        if data[:8] != self._header_in or len(data) <= HEADER:
            if is_sound_packet(data):
                run_now(super()._handle_data(data))  # not established, or not of this association
            else:
                self._malformed()
        elif crc32c_extend(self._seed_in, data[HEADER:]) == _LE32.unpack_from(data, 8)[0]:
            self._take_chunks(data)
        else:
            self.packets_corrupt += 1

    def _malformed(self, error: Exception | None = None) -> None:
        """Count a packet with chunks that cannot be taken, and tell of the first one."""
        self.packets_malformed += 1
        if self.packets_malformed == 1:
            _log.warning("SCTP packets of the remote refused: malformed, or too many chunks", exc_info=error)

    def _note_packet(self) -> None:
        """Count a packet with data, and decide whether it is acknowledged by itself."""
        self._unanswered += 1
        received = self._received
        if received is not None and (received.blocks or received.duplicates):
            self._prompt_answers = PROMPT_ANSWERS
        if self._prompt_answers:
            self._prompt_answers -= 1
            self._answer_due = True
        elif self._unanswered >= ACKNOWLEDGE_EVERY:
            self._answer_due = True

    def finish(self) -> None:
        """End a batch of packets: acknowledge, and send along what handlers have sent meanwhile."""
        self._answer_due = self._unanswered > 0
        if self._answer_due or self._flush_handle is not None:
            self._send_all()

    def _take_chunks(self, data: bytes) -> None:
        """Take all chunks of a packet in their order (RFC 9260 section 6.10): replaces an object for each one."""
        position, end, controls = HEADER, len(data), 0
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

    # --- data that arrives

    def _take_data(self, tsn: int, flags: int, stream_id: int, sequence: int, protocol: int, data: bytes) -> None:
        """Take a DATA chunk: replaces a scan of everything out of order for each one."""
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
        """Keep to the window that was announced (RFC 9260 section 6.2): what is refused comes again.

        What comes next is never refused, it may be what the rest waits for. If it is not, and the window or the number
        of chunks has been exceeded twofold, the other end sends a message without an end, or begins ever new ones.
        """
        held, chunks = self._reassembly.held_bytes + size, self._reassembly.held_chunks
        if ahead == 0 or ahead >= HALF:
            return True  # known already
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
        _log.warning("SCTP association aborted: the remote fills the receive buffer with what never ends")
        self._send_packet([_ABORT_NO_ROOM])
        self._set_state(self.State.CLOSED)

    async def _receive_data_chunk(self, chunk: Any) -> None:
        """Take a chunk that aiortc has parsed: one in the packet that establishes the association."""
        self._take_data(chunk.tsn, chunk.flags, chunk.stream_id, chunk.stream_seq, chunk.protocol, chunk.user_data)

    async def _receive_forward_tsn_chunk(self, chunk: Any) -> None:
        """Give up what the other end has given up (RFC 3758 section 3.6)."""
        received = self._received
        if received is None:
            return
        self._has_data = self._answer_due = True
        if received.skip_to(chunk.cumulative_tsn):
            for message in self._reassembly.skip(received.cumulative, chunk.streams):
                self._deliver(*message)

    @property
    def _last_received_tsn(self) -> int | None:
        """The cumulative TSN as on the wire. aiortc sets it with an INIT, and with one that comes twice: not here."""
        return None if self._received is None else self._received.cumulative & TSN_MASK

    @_last_received_tsn.setter
    def _last_received_tsn(self, tsn: int | None) -> None:
        if tsn is not None and tsn != self._initial_tsn:
            self._initial_tsn = tsn
            self._received = ReceivedTsns(tsn)

    def _deliver(self, stream_id: int, protocol: int, data: bytes) -> None:
        work: Any = self._data_channel_receive(stream_id, protocol, data)
        if work is not DONE:
            run_now(work)

    def _data_channel_receive(self, stream_id: int, pp_id: int, data: bytes) -> Coroutine[Any, Any, None]:
        """Emit a message at once: replaces a coroutine. DCEP (RFC 8832) is left to aiortc.

        What is wrong with who listens goes to the event loop's exception handler, not to the DTLS transport, which
        would close. Text that is not UTF-8 is counted: the other end can send any number of it.
        """
        channel = self._data_channels.get(stream_id)
        if channel is None or pp_id == WEBRTC_DCEP:
            return super()._data_channel_receive(stream_id, pp_id, data)
        try:
            text = data.decode() if pp_id == WEBRTC_STRING else None
        except UnicodeDecodeError as error:
            self._malformed(error)
            return DONE
        try:
            if pp_id == WEBRTC_BINARY:
                channel.emit("message", data)
            elif text is not None:
                channel.emit("message", text)
            elif pp_id in _EMPTY:
                channel.emit("message", _EMPTY[pp_id])
        except Exception as error:
            self._report("a message of a data channel was not handled", error)
        return DONE

    def _report(self, what: str, error: Exception) -> None:
        self._event_loop.call_exception_handler({"message": what, "exception": error})

    # --- acknowledgements that arrive

    def _take_sack(self, data: bytes, position: int, length: int) -> None:
        cumulative, window, blocks, _ = _SACK.unpack_from(data, position)
        gaps: list[tuple[int, int]] = []
        if blocks and 16 + 4 * blocks <= length:
            start = position + 16
            gaps = list(_PAIR.iter_unpack(data[start : start + 4 * blocks]))
        self._acknowledge(cumulative, window, gaps)

    async def _receive_sack_chunk(self, chunk: Any) -> None:
        """Take a chunk that aiortc has parsed."""
        self._acknowledge(chunk.cumulative_tsn, chunk.advertised_rwnd, chunk.gaps)

    def _acknowledge(self, cumulative: int, window: int, gaps: list[tuple[int, int]]) -> None:
        """Take an acknowledgement (RFC 9260 section 6.2.1): replaces several walks through all that is in flight."""
        outbound = self._outbound
        now = self._event_loop.time()
        window_full = outbound.flight + USERDATA_MAX_LENGTH > self._cwnd
        result = outbound.acknowledge(cumulative, gaps, now)
        if result is None:
            return
        self._peer_window = window
        if result.sent_at is not None:
            self._update_rto(now - result.sent_at)
        self._adjust_window(result, window_full)
        self._burst += result.bytes
        if not outbound.outstanding:
            self._t3_due = None
        elif result.advanced:
            self._t3_start()
        self._skip_due = outbound.skipped > outbound.sacked
        self._send_due = True

    def _adjust_window(self, result: Acknowledged, window_full: bool) -> None:
        """Adjust the congestion window (RFC 9260 sections 7.2.1, 7.2.2 and 7.2.4), as aiortc does."""
        if self._recovery_until is not None:
            if self._outbound.sacked >= self._recovery_until:
                self._recovery_until = None
            return
        if result.advanced and window_full:
            if self._cwnd <= self._ssthresh:
                self._cwnd += min(result.bytes, USERDATA_MAX_LENGTH)
            else:
                self._partial_bytes_acked += result.bytes
                if self._partial_bytes_acked >= self._cwnd:
                    self._partial_bytes_acked -= self._cwnd
                    self._cwnd += USERDATA_MAX_LENGTH
        if result.lost:
            self._shrink_window()
            self._cwnd = self._ssthresh
            self._recovery_until = self._outbound.highest_sent
            self._fast_recovery_transmit = True

    def _shrink_window(self) -> None:
        self._ssthresh = max(self._cwnd // 2, 4 * USERDATA_MAX_LENGTH)
        self._partial_bytes_acked = 0

    def _update_rto(self, R: float) -> None:
        """Follow the round trip time (RFC 9260 section 6.3.1) within bounds of our own, and the bound of the flight."""
        super()._update_rto(R)
        inside: Any = self
        inside._rto = min(max(RTO_MIN, inside._srtt + 4 * inside._rttvar), RTO_MAX)
        if self._least_rtt > R:
            self._least_rtt = R
            self._flight_bound = max(MIN_FLIGHT, int(MAX_RATE * R))

    # --- sending

    def _data_channel_open(self, channel: RTCDataChannel) -> None:
        """Announce a channel: aiortc counts characters where `open_message` counts bytes."""
        if channel.id is not None:
            if channel.id in self._data_channels:
                raise ValueError(f"Data channel with ID {channel.id} already registered")
            self._data_channels[channel.id] = channel
        self._data_channel_queue.append((channel, WEBRTC_DCEP, open_message(channel)))
        if self._flush_handle is None:
            self._flush_handle = self._event_loop.call_soon(self._flush)

    def _data_channel_send(self, channel: RTCDataChannel, data: bytes | str) -> None:
        """Queue a message, and have all that were queued in this turn of the event loop sent: replaces a task each."""
        if isinstance(data, str):
            protocol, payload = (WEBRTC_STRING, data.encode()) if data else (WEBRTC_STRING_EMPTY, b"\0")
        else:
            protocol, payload = (WEBRTC_BINARY, data) if data else (WEBRTC_BINARY_EMPTY, b"\0")
        size = len(payload)
        if self._remote_max_message_size and size > self._remote_max_message_size:
            raise ValueError(
                f"Cannot send message of {size} bytes, the remote party only supports messages up to "
                f"{self._remote_max_message_size} bytes"
            )
        channel._addBufferedAmount(size)
        self._data_channel_queue.append((channel, protocol, payload))
        if self._flush_handle is None:
            self._flush_handle = self._event_loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_handle = None
        self._send_all()

    async def _data_channel_flush(self) -> None:
        """Send what is queued: aiortc's name for it."""
        self._send_all()

    async def _transmit(self) -> None:
        """Send what is queued: aiortc's name for it."""
        self._send_all()

    async def _transmit_reconfig(self) -> None:
        """Reset the streams that wait for it: replaces a walk through every message that is queued."""
        streams, queue = self._reconfig_queue[:RECONFIG_MAX_STREAMS], self._data_channel_queue
        if not streams or self._reconfig_request or not isinstance(queue, FairQueue):
            return
        if {channel.id for channel in queue.channels()}.intersection(streams):
            return
        inside: Any = self
        inside._data_channel_queue = ()  # nothing of it concerns these streams
        try:
            await super()._transmit_reconfig()
        finally:
            inside._data_channel_queue = queue

    async def _send_sack(self) -> None:
        """Acknowledge: aiortc's name for it."""
        self._answer_due = True
        self._send_all()

    async def _send_reconfig_param(self, param: Any) -> None:
        with suppress(ConnectionError):  # the path is gone; aiortc sends these in tasks that nobody awaits
            await super()._send_reconfig_param(param)

    def _send_all(self) -> None:
        """Send what is due and allowed, in as few packets as hold it."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._send_due = False
        if self._association_state == self.State.CLOSED:
            return
        with suppress(ConnectionError):  # the path is gone, which the state of the connection tells
            self._send_packets()
        if self._t3_due is None and self._outbound.outstanding:
            self._t3_start()
        self._local_tsn = self._outbound.next_tsn & TSN_MASK
        if self._freed:
            self._tell_freed()
        if self._reconfig_queue and not self._reconfig_request:
            run_now(self._transmit_reconfig())

    def _send_packets(self) -> None:
        """Fill packets: acknowledgement first, then what was lost, then what is new (RFC 9260 sections 6.1, 6.10)."""
        outbound = self._outbound
        chunks, room = self._control_chunks()
        limit = min(self._cwnd, self._flight_bound, outbound.flight + self._burst)
        self._burst = MAX_BURST * USERDATA_MAX_LENGTH
        now = self._event_loop.time()
        if outbound.next_lost() is not None:
            room, limit = self._add_lost(chunks, room, limit, now)
        peer = self._ssthresh if self._peer_window is None else self._peer_window
        queue = outbound.queue
        while (queue or self._take_message()) and outbound.flight < limit:
            chunk = queue[0]
            if outbound.flight + chunk.size > peer and outbound.flight:  # one may always go, to probe a closed window
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
                chunks[-1] = acknowledged_now(chunks[-1])  # nothing follows that an acknowledgement could wait for
        if chunks:
            self._send_packet(chunks)

    def _control_chunks(self) -> tuple[list[bytes], int]:
        """Return the control chunks that are due, and the room that they leave in their packet."""
        chunks: list[bytes] = []
        if self._answer_due and self._received is not None:
            window = max(0, RECEIVE_WINDOW - self._reassembly.held_bytes)
            chunks.append(self._received.acknowledgement(window))
            self._answer_due = False
            self._unanswered = 0
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
        """Send lost chunks again. Return the room that is left, and the limit: none if some are still waiting."""
        outbound = self._outbound
        if self._fast_recovery_transmit:  # the first packet after a loss goes whatever the window (section 7.2.4)
            self._fast_recovery_transmit = False
            limit = max(limit, outbound.flight + USERDATA_MAX_LENGTH)
        while (chunk := outbound.next_lost()) is not None:
            if outbound.flight >= limit:
                return room, 0
            if chunk.tsn == outbound.sacked + 1:
                self._t3_start()
            if len(chunk.wire) > room:
                self._send_packet(chunks)
                chunks.clear()
                room = PACKET_ROOM
            chunks.append(chunk.wire)
            room -= len(chunk.wire)
            outbound.launch_again(chunk, now)
        return room, limit

    def _send_packet(self, chunks: list[bytes]) -> None:
        if not self._header_out:
            self._know_headers()
        body = b"".join(chunks)
        checksum = crc32c_extend(self._seed_out, body)
        transport: Any = self.transport
        self.packets_sent += 1
        transport.send_now(self._header_out + _LE32.pack(checksum) + body)

    def _take_message(self) -> bool:
        """Make chunks of the next message that waits. False if there is none, or it is not the time yet."""
        if not self._data_channel_queue or self._association_state != self.State.ESTABLISHED:
            return False
        channel, protocol, data = self._data_channel_queue.popleft()
        stream_id = channel.id
        if stream_id is None:
            stream_id = self._announce(channel)
        if protocol == WEBRTC_DCEP:
            self._queue_chunks(stream_id, protocol, data)
            return True
        lifetime, retransmits = channel.maxPacketLifeTime, channel.maxRetransmits
        limits = None
        if lifetime or retransmits is not None:
            limits = Limits(retransmits, self._event_loop.time() + lifetime / 1000 if lifetime else None)
        self._queue_chunks(stream_id, protocol, data, limits, ordered=channel.ordered)
        self._freed[channel] = self._freed.get(channel, 0) + len(data)
        return True

    def _announce(self, channel: RTCDataChannel) -> int:
        """Give a channel its stream (RFC 8832 section 6), now that it is known which ids are ours. As in aiortc."""
        stream_id = self._data_channel_id
        assert stream_id is not None
        while stream_id in self._data_channels:
            stream_id += 2
        self._data_channels[stream_id] = channel
        channel._setId(stream_id)
        return stream_id

    def _queue_chunks(
        self, stream_id: int, protocol: int, data: bytes, limits: Limits | None = None, *, ordered: bool = True
    ) -> None:
        sequence = None
        if ordered:
            sequence = self._outbound_stream_seq.get(stream_id, 0)
            self._outbound_stream_seq[stream_id] = (sequence + 1) & 0xFFFF
        self._outbound.add(data, USERDATA_MAX_LENGTH, stream_id, sequence, protocol, limits)

    def _tell_freed(self) -> None:
        """Take what was handed on off the buffered amounts, once for each channel. Who is told may send more."""
        freed, self._freed = self._freed, {}
        for channel, amount in freed.items():
            try:
                channel._addBufferedAmount(-amount)
            except Exception as error:
                self._report("bufferedamountlow was not handled", error)

    # --- the retransmission timer (RFC 9260 section 6.3)

    def _t3_start(self) -> None:
        """Have the timer run out one RTO from now. A timer of the event loop that runs is left alone if it is earlier:
        replaces one that is cancelled and made anew with each acknowledgement."""
        self._t3_due = due = self._event_loop.time() + self._rto
        handle = self._t3_handle
        if handle is not None and handle.when() > due:
            handle.cancel()
            handle = None
        if handle is None:
            self._t3_handle = self._event_loop.call_at(due, self._t3_ring)

    def _t3_restart(self) -> None:
        self._t3_start()

    def _t3_cancel(self) -> None:
        self._t3_due = None
        super()._t3_cancel()

    def _t3_ring(self) -> None:
        self._t3_handle = None
        if self._t3_due is None:
            return
        if self._t3_due > self._event_loop.time():
            self._t3_handle = self._event_loop.call_at(self._t3_due, self._t3_ring)
        else:
            self._t3_expired()

    def _t3_expired(self) -> None:
        """Send again from the first chunk on, ever more slowly (RFC 9260 sections 6.3.3 and 7.2.3)."""
        self._t3_due = None
        self._rto = min(2 * self._rto, RTO_MAX)
        self._outbound.expire(self._event_loop.time())
        self._recovery_until = None
        self._shrink_window()
        self._cwnd = USERDATA_MAX_LENGTH
        self._skip_due = self._outbound.skipped > self._outbound.sacked
        self._send_all()


def run_now(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine of aiortc that does not suspend: what it waits for is sending, which is done at once."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError(f"{work!r} was expected not to suspend")


# --- the switch


def speed_up_data(pc: RTCPeerConnection) -> None:
    """Have a new connection carry data in this way. Call it before anything is gathered, and before `measure`."""
    if not insides_are_known():
        return
    association: Any = pc.sctp
    transport: Any = association.transport
    transport.__class__ = FastDtlsTransport
    transport.quicken()
    association.__class__ = FastSctpTransport
    association.quicken()
