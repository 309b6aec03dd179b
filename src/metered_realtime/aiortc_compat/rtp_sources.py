"""Bounds for the sources (SSRCs) of a remote, and reports that go on.

aiortc keeps state of every source for ever. A report about more than 31 of them raises, which silently ends reporting,
and `stop()` then waits for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

from aiortc import RTCDtlsTransport, RTCPeerConnection
from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtcrtpreceiver import NackGenerator, RTCRtpReceiver
from aiortc.rtcrtpsender import RTCRtpSender
from aiortc.rtp import RTP_HISTORY_SIZE, RtpPacket
from aiortc.sdp import SessionDescription

from ..core.media.layers import ReceivedLayer
from ..core.media.source_table import MAX_SOURCES, SourceTable
from .transports import dtls_transport
from .version import Guard, KnownPart

_log = logging.getLogger("metered_realtime")

_RECEIVER = "_RTCRtpReceiver__"


ROUTER_GUARD = Guard(
    "using aiortc's own routing: sources are not bounded, and late ones may be dropped",
    KnownPart(RtpRouter, "6f5fe1c4cc16aead"),
)

NACK_GUARD = Guard("using aiortc's own requests for lost packets", KnownPart(NackGenerator, "2237747a158c44d6"))

REPORT_GUARD = Guard(
    "using aiortc's own reports, which end with one that fails",
    KnownPart(RTCRtpReceiver, "9683670802892700", "_run_rtcp", "receive", "stop"),
    KnownPart(RTCRtpSender, "8ec10249c276c12b", "_run_rtcp", "send", "stop"),
)


class SourceGate:
    """Replaces the routing of RTP: drops packets of sources beyond `MAX_SOURCES` in one section.

    A source that no description names is routed by the mid in its packets (RFC 8843 section 9.2). Of simulcast it takes
    one layer.
    """

    def __init__(self, router: Any, clock: Callable[[], float] = monotonic) -> None:
        self.refused = 0
        self._router = router
        self._clock = clock
        self._tables: WeakKeyDictionary[Any, SourceTable] = WeakKeyDictionary()
        self._layers: WeakKeyDictionary[Any, ReceivedLayer] = WeakKeyDictionary()
        if ROUTER_GUARD.holds():
            self._route: Callable[[RtpPacket], Any] = router.route_rtp
            router.route_rtp = self

    def __call__(self, packet: RtpPacket) -> Any:
        if packet.extensions.mid is not None and packet.ssrc not in self._router.ssrc_table:
            self._route_by_mid(packet)
        receiver = self._route(packet)
        if receiver is None:
            return None
        table = self._tables.get(receiver)
        if table is None:
            table = self._tables[receiver] = SourceTable()
        is_taken, gone = table.hear(packet.ssrc, self._clock())
        if gone is not None:
            self._forget(receiver, gone)
        if not is_taken:
            self._refuse(packet.ssrc)
            return None
        layer = self._layers.get(receiver)
        return receiver if layer is None or self._is_of(layer, receiver, packet) else None

    def select_layer(self, receiver: RTCRtpReceiver, rid: str | None) -> None:
        """Take one layer of a section with simulcast, or None for everything."""
        layer = self._layers.get(receiver)
        if rid is None:
            self._layers.pop(receiver, None)
        elif layer is None or layer.rid != rid:
            self._layers[receiver] = ReceivedLayer(rid)

    def _route_by_mid(self, packet: RtpPacket) -> None:
        receiver = self._router.mid_table.get(packet.extensions.mid)
        if receiver in self._router.payload_type_table.get(packet.payload_type, ()):
            self._router.ssrc_table[packet.ssrc] = receiver

    def _is_of(self, layer: ReceivedLayer, receiver: Any, packet: RtpPacket) -> bool:
        """Return whether a packet is to be received, and let the receiver know of what it is a retransmission."""
        ids = packet.extensions
        if not layer.takes(packet.ssrc, ids.rtp_stream_id, ids.repaired_rtp_stream_id, self._clock()):
            return False
        original = layer.repaired_by(packet.ssrc) if ids.repaired_rtp_stream_id is not None else None
        if original is not None:
            receiver._RTCRtpReceiver__rtx_ssrc[packet.ssrc] = original
        return True

    def _refuse(self, source: int) -> None:
        self._router.ssrc_table.pop(source, None)
        self.refused += 1
        if self.refused == 1:
            _log.warning("media of the remote dropped: more than %d sources in one section", MAX_SOURCES)

    def _forget(self, receiver: Any, source: int) -> None:
        self._router.ssrc_table.pop(source, None)
        receiver_layer = self._layers.get(receiver)
        if receiver_layer is not None:
            receiver_layer.forget(source)
        forget: Callable[[int], None] | None = getattr(receiver, "forget_source", None)
        if forget is not None:
            forget(source)


def bound_sources(transport: RTCDtlsTransport) -> SourceGate:
    """Limit each section of a new connection to `MAX_SOURCES` sources."""
    return SourceGate(transport._rtp_router)


def route_sources(pc: RTCPeerConnection, description: SessionDescription) -> None:
    """Route the SSRCs of a remote description to their receivers, and forget those of earlier descriptions.

    aiortc learns SSRCs only when a receiver starts. A source that appears later in a running section would be dropped,
    or routed to another section with the same payload type.
    """
    if not ROUTER_GUARD.holds():
        return
    router = dtls_transport(pc)._rtp_router
    for media in description.media:
        transceiver = next((t for t in pc.getTransceivers() if t.mid == media.rtp.muxId), None)
        if transceiver is None or transceiver.receiver not in router.receivers or not media.ssrc:
            continue
        receiver: Any = transceiver.receiver
        described = frozenset(source.ssrc for source in media.ssrc)
        for former in _described_sources.get(receiver, frozenset()) - described:
            receiver._RTCRtpReceiver__rtx_ssrc.pop(former, None)
            if router.ssrc_table.get(former) is receiver:
                del router.ssrc_table[former]
        _described_sources[receiver] = described
        router.ssrc_table.update(dict.fromkeys(described, receiver))
        for group in media.ssrc_group:
            if group.semantic == "FID" and len(group.items) == 2:
                receiver._RTCRtpReceiver__rtx_ssrc[group.items[1]] = group.items[0]


_described_sources: WeakKeyDictionary[RTCRtpReceiver, frozenset[int]] = WeakKeyDictionary()


def forget_source(receiver: RTCRtpReceiver, source: int) -> None:
    """Remove a source from the state of a receiver."""
    for name in ("active_ssrc", "remote_streams", "lsr", "lsr_time"):
        getattr(receiver, f"{_RECEIVER}{name}").pop(source, None)
    estimator = getattr(receiver, f"{_RECEIVER}remote_bitrate_estimator")
    if estimator is not None:
        estimator.ssrcs.pop(source, None)


class BoundedNacks(NackGenerator):
    """Finds missing packets, but only those that a sender still has: a jump over more costs no more."""

    def add(self, packet: RtpPacket) -> bool:
        """Add a packet. Return whether earlier ones are missing."""
        if self.max_seq is not None:
            step = (packet.sequence_number - self.max_seq) & 0xFFFF
            if RTP_HISTORY_SIZE < step < 0x8000:
                self.max_seq = (packet.sequence_number - RTP_HISTORY_SIZE - 1) & 0xFFFF
        return super().add(packet)


def keep_reporting(owner: RTCRtpReceiver | RTCRtpSender) -> None:
    """Let a new receiver or sender go on reporting after a report that fails, and `stop()` return in any case."""
    if not REPORT_GUARD.holds():
        return
    patched: Any = owner
    run = patched._run_rtcp
    exited: asyncio.Event = getattr(patched, f"_{_base_of(owner).__name__}__rtcp_exited")

    async def run_on() -> None:
        is_told = False
        try:
            while True:
                try:
                    await run()
                    return
                except Exception as error:  # the next report may succeed
                    if not is_told:
                        is_told = True
                        _log.warning("RTCP report failed", exc_info=error)
                    if _is_cancelled():  # aiortc has swallowed the cancellation
                        return
        finally:
            exited.set()

    patched._run_rtcp = run_on


def _base_of(owner: object) -> type:
    return RTCRtpReceiver if isinstance(owner, RTCRtpReceiver) else RTCRtpSender


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
