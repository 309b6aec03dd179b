"""Encoded frames of a receiver, taken between its jitter buffer and its decoder.

aiortc decodes every track in a thread of its own and queues the frames without bound, read or not (aiortc#554,
aiortc#680).
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from aiortc.rtcrtpreceiver import RTCRtpReceiver
from aiortc.rtp import (
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
    RtpPacket,
)

from ..options import DEFAULT_TUNING, Tuning
from . import jitter_buffer
from .jitter_buffer import PromptPictures, Several
from .rtp_sources import NACK_GUARD, BoundedNacks, forget_source, keep_reporting
from .stats import count_packets
from .unread_gate import ReceiverGate, UnreadSink

LATE_SOUND = 4
"""Packets that wait behind a gap for the missing one: 80 ms. A packet that arrives later is dropped."""

NTP_SECOND = 1 << 32
"""Units of a report's time in a second."""

_RECEIVER = "_RTCRtpReceiver__"


class Sink(UnreadSink, Protocol):
    """Receives what a tapped receiver takes in, on the event loop."""

    def take(self, codec: Any, data: bytes, timestamp: int) -> None:
        """Handle an encoded frame with its 32-bit RTP timestamp."""

    def reported(self, source: int, clock: float, timestamp: int) -> None:
        """Handle a sender report (RFC 3550 section 6.4.1) of the source whose media arrives: the 32-bit RTP timestamp
        that corresponds to a time of the sender's clock, in seconds."""

    def picture_lost(self) -> None:
        """Handle the loss of a picture, for which aiortc would request a key frame."""

    def ended(self) -> None:
        """Handle the end of the receiver."""


class Tap:
    """Controls a tapped receiver."""

    def __init__(self, receiver: Any, gate: ReceiverGate, reports: _LossReports) -> None:
        self._receiver = receiver
        self._gate = gate
        self._reports = reports

    def set_wanted(self, wanted: bool) -> None:
        """Set whether frames are wanted. While they are not, packets are counted and dropped."""
        if wanted:
            self._gate.open()
        else:
            self._gate.close()

    def request_key_frame(self) -> bool:
        """Send a PLI (RFC 4585 section 6.3.1) to the most recent source. Return False if there was none yet."""
        source = _source_of(self._receiver)
        if source is not None:
            self._reports.send(source)
        return source is not None


def tap_receiver(receiver: RTCRtpReceiver, sink: Sink, tuning: Tuning = DEFAULT_TUNING) -> Tap:
    """Pass encoded frames to `sink` while they are wanted, and none to a decoder.

    Call it before the receiver starts. It ignores RTCP BYE: browsers send one when they pause a sender, and aiortc
    would end the track for good. The direction in the SDP says when a track ends.
    """
    tapped: Any = receiver
    tapped._track._queue = _Nowhere()
    setattr(tapped, f"{_RECEIVER}decoder_queue", _EncodedTap(sink))
    setattr(tapped, f"{_RECEIVER}timestamp_mapper", _RawTimestamps())
    buffer = getattr(tapped, f"{_RECEIVER}jitter_buffer")
    if tuning.prompt_audio and jitter_buffer.GUARD.holds() and receiver.track.kind == "audio":
        _PromptSound(buffer)
    if receiver.track.kind == "video" and NACK_GUARD.holds():
        setattr(tapped, f"{_RECEIVER}nack_generator", BoundedNacks())
    gate = tapped._handle_rtp_packet = ReceiverGate(receiver, sink)
    count_packets(receiver)
    _forget_when_silent(receiver, gate)
    keep_reporting(receiver)
    reports = tapped._send_rtcp_pli = _LossReports(receiver, sink)
    _report_before_feedback(receiver)
    if tuning.prompt_video and jitter_buffer.GUARD.holds() and receiver.track.kind == "video":
        PromptPictures(buffer, getattr(tapped, f"{_RECEIVER}codecs"), sink.picture_lost, _Requests(receiver))
    handle = receiver._handle_rtcp_packet

    async def handle_rtcp(packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket):
            _pass_report(packet, receiver, sink)
        if not isinstance(packet, RtcpByePacket):
            await handle(packet)

    tapped._handle_rtcp_packet = handle_rtcp
    return Tap(receiver, gate, reports)


def _report_before_feedback(receiver: Any) -> None:
    """Send feedback in compound packets that begin with a report (RFC 3550 section 6.1).

    aiortc sends it alone, which has to be negotiated (RFC 5506). Janus drops such feedback where a section that does
    not send names no source: only by the report it finds whom it concerns.
    """
    send = receiver._send_rtcp

    async def send_rtcp(packet: Any) -> None:
        report = _report_for(receiver, packet) if isinstance(packet, RtcpPsfbPacket | RtcpRtpfbPacket) else None
        await send(packet if report is None else _Compound(report, packet))

    receiver._send_rtcp = send_rtcp


def _report_for(receiver: Any, feedback: RtcpPsfbPacket | RtcpRtpfbPacket) -> RtcpRrPacket | None:
    """Return a report on the source of a feedback, or on any if it is on none. None before its first packet."""
    streams: dict[int, Any] = getattr(receiver, f"{_RECEIVER}remote_streams")
    source = feedback.media_ssrc or next(iter(streams), 0)
    if source not in streams:
        return None
    stream = streams[source]
    block = RtcpReceiverInfo(
        ssrc=source,
        fraction_lost=stream.fraction_lost,
        packets_lost=stream.packets_lost,
        highest_sequence=stream.max_seq,
        jitter=stream.jitter,
        lsr=0,
        dlsr=0,
    )
    return RtcpRrPacket(ssrc=feedback.ssrc, reports=[block])


class _Compound:
    """RTCP packets that are sent as one."""

    def __init__(self, *packets: Any) -> None:
        self._packets = packets

    def __bytes__(self) -> bytes:
        return b"".join(bytes(packet) for packet in self._packets)


def _forget_when_silent(receiver: RTCRtpReceiver, gate: ReceiverGate) -> None:
    """Let the receiver forget sources that `SourceGate` replaces by others."""
    tapped: Any = receiver
    counter = tapped._handle_rtp_packet

    def forget(source: int) -> None:
        gate.forget(source)
        counter.sources.pop(source, None)
        forget_source(receiver, source)

    tapped.forget_source = forget


def _pass_report(packet: RtcpSrPacket, receiver: RTCRtpReceiver, sink: Sink) -> None:
    """Pass on a sender report. Without a clock, or before the first packet (as from aiortc), its time is 0."""
    told = packet.sender_info
    if told.ntp_timestamp and packet.ssrc == _source_of(receiver):
        sink.reported(packet.ssrc, told.ntp_timestamp / NTP_SECOND, told.rtp_timestamp)


def _source_of(receiver: Any) -> int | None:
    """Return the source of the most recent media packet."""
    sources: dict[int, None] = receiver._handle_rtp_packet.sources
    return next(reversed(sources), None)


class _EncodedTap:
    """Replaces the queue between the jitter buffer and aiortc's decoder thread, which ends as soon as it starts."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def put(self, item: tuple[Any, Any] | None) -> None:
        if item is None:
            self._sink.ended()
        else:
            codec, frame = item
            for each in (frame, *getattr(frame, "more", ())):
                self._sink.take(codec, each.data, each.timestamp)

    def get(self) -> None:
        """Return None, which ends the decoder thread."""


class _Nowhere:
    """Replaces the queue of aiortc's own track, which is not read."""

    async def put(self, frame: Any) -> None:
        """Drop the end marker of the decoder thread."""


class _RawTimestamps:
    """Replaces aiortc's mapper, which takes every step backwards for a wrap, even one to another source."""

    def map(self, timestamp: int) -> int:
        return timestamp


class _LossReports:
    """Replaces the method that sends a PLI: the sink decides whether a key frame is needed."""

    def __init__(self, receiver: RTCRtpReceiver, sink: Sink) -> None:
        self._send = receiver._send_rtcp_pli
        self._sink = sink
        self._tasks: set[asyncio.Task[None]] = set()

    async def __call__(self, media_ssrc: int) -> None:
        self._sink.picture_lost()

    def send(self, media_ssrc: int) -> None:
        task = asyncio.ensure_future(self._send(media_ssrc))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Requests:
    """Requests packets again (RFC 4585 section 6.2.1)."""

    def __init__(self, receiver: RTCRtpReceiver) -> None:
        self._send = receiver._send_rtcp_nack
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, media_ssrc: int, missing: list[int]) -> None:
        task = asyncio.ensure_future(self._send(media_ssrc, missing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _PromptSound:
    """Releases sound in order and at once; at a gap it waits for `LATE_SOUND` packets and then skips it.

    aiortc's jitter buffer holds four packets back, and releases the one behind a gap only when the next four have
    arrived: with a tenth of the packets lost, half of those that arrive are never played.
    """

    def __init__(self, buffer: JitterBuffer) -> None:
        self._buffer = buffer
        patched: Any = buffer
        patched._remove_frame = self._remove

    def _remove(self, sequence_number: int) -> JitterFrame | None:
        """Return the packets that are ready: replaces what the buffer calls after each packet."""
        packets: list[Any] = []
        while True:
            packet = self._first()
            if packet is not None:
                packets.append(packet)
            elif sum(it is not None for it in self._buffer._packets) < LATE_SOUND:
                break
            self._buffer.remove(1)
        packets = [packet for packet in packets if packet._data]
        return Several([JitterFrame(it._data, it.timestamp) for it in packets]) if packets else None

    def _first(self) -> RtpPacket | None:
        origin = self._buffer._origin
        assert origin is not None, "the buffer has had a packet"
        return self._buffer._packets[origin % self._buffer.capacity]
