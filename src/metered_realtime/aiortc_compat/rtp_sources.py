"""What is kept of the sources that a remote sends from, and reports that go on: private attributes of aiortc.

aiortc keeps state of every source (SSRC) that it hears, for ever. Its report of more than 31 of them raises, which ends
its reporting without a word, and `stop()` waits for that end for ever. tests/aiortc_compat/test_rtp_sources.py fails
when a release moves something underneath.
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
    """Stands in for the routing of RTP: what comes from one source too many goes nowhere."""

    def __init__(self, router: Any, clock: Callable[[], float] = monotonic) -> None:
        self.refused = 0
        self._router = router
        self._clock = clock
        self._tables: WeakKeyDictionary[Any, SourceTable] = WeakKeyDictionary()
        if ROUTER_GUARD.holds():
            self._route: Callable[[RtpPacket], Any] = router.route_rtp
            router.route_rtp = self

    def __call__(self, packet: RtpPacket) -> Any:
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
        return receiver

    def _refuse(self, source: int) -> None:
        self._router.ssrc_table.pop(source, None)
        self.refused += 1
        if self.refused == 1:
            _log.warning("media of the remote dropped: more than %d sources in one section", MAX_SOURCES)

    def _forget(self, receiver: Any, source: int) -> None:
        self._router.ssrc_table.pop(source, None)
        forget: Callable[[int], None] | None = getattr(receiver, "forget_source", None)
        if forget is not None:
            forget(source)


def bound_sources(transport: RTCDtlsTransport) -> SourceGate:
    """Have each section of a new connection take `MAX_SOURCES` sources at the most."""
    return SourceGate(transport._rtp_router)


def route_sources(pc: RTCPeerConnection, description: SessionDescription) -> None:
    """Tell the router and the receivers the SSRCs of a remote description.

    aiortc learns them only when a receiver starts. Without this a source that appears later in a running section is
    dropped, or lands in another section with the same payload type. Those of an earlier description that are not in
    this one are forgotten.
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
    """Have a receiver forget a source that is silent."""
    for name in ("active_ssrc", "remote_streams", "lsr", "lsr_time"):
        getattr(receiver, f"{_RECEIVER}{name}").pop(source, None)
    estimator = getattr(receiver, f"{_RECEIVER}remote_bitrate_estimator")
    if estimator is not None:
        estimator.ssrcs.pop(source, None)


class BoundedNacks(NackGenerator):
    """Tells which packets are missing, among those that a sender still has: a step over more is not walked through."""

    def add(self, packet: RtpPacket) -> bool:
        """Note a packet. Return whether some before it are missing."""
        if self.max_seq is not None:
            step = (packet.sequence_number - self.max_seq) & 0xFFFF
            if RTP_HISTORY_SIZE < step < 0x8000:
                self.max_seq = (packet.sequence_number - RTP_HISTORY_SIZE - 1) & 0xFFFF
        return super().add(packet)


def keep_reporting(owner: RTCRtpReceiver | RTCRtpSender) -> None:
    """Have the reports of a new receiver or sender go on after one that fails, and its `stop` return in any case."""
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
                except Exception as error:  # whatever it is, the next report may be fine
                    if not is_told:
                        is_told = True
                        _log.warning("RTCP report failed", exc_info=error)
                    if _is_cancelled():  # aiortc has taken the cancellation for itself
                        return
        finally:
            exited.set()

    patched._run_rtcp = run_on


def _base_of(owner: object) -> type:
    return RTCRtpReceiver if isinstance(owner, RTCRtpReceiver) else RTCRtpSender


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
