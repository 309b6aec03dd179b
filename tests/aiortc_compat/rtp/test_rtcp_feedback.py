"""What receivers tell a sender of packets, over real UDP: each test fails if a release of aiortc moves something."""

from __future__ import annotations

import asyncio
import re
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCPeerConnection, RTCRtpSender
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    pack_remb_fci,
)

from metered_realtime.aiortc_compat import rtcp_feedback as senders
from metered_realtime.aiortc_compat.stats import count_frames, sender_stats
from metered_realtime.media.codecs.encoders import SendCodec, make_encoder
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.peers import GreyTrack, eventually

TOUCHED = {
    "_RTCRtpSender__octet_count": "test_a_request_for_lost_packets_is_answered_once_in_a_round_trip",
    "_RTCRtpSender__rtp_history": "test_a_request_for_lost_packets_is_answered_once_in_a_round_trip",
    "_RTCRtpSender__rtt": "test_a_request_for_lost_packets_is_answered_once_in_a_round_trip",
    "_handle_rtcp_packet": "test_requests_and_estimates_are_heard_and_handed_on",
    "_next_encoded_frame": "test_the_level_of_sound_goes_out_with_its_packets",
    "_rtp_router": "test_a_full_intra_request_reaches_the_senders_that_it_names",
    "_ssrc": "test_requests_and_estimates_are_heard_and_handed_on",
}
"""Every private name in aiortc_compat/rtcp_feedback.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(senders.__file__).read_text(), flags=re.DOTALL)
    assert set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source)) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class Heard:
    """Notes what a sender is told."""

    def __init__(self) -> None:
        self.requests = 0
        self.estimates: list[int] = []

    def request_key_frame(self) -> None:
        self.requests += 1

    def take_estimate(self, bitrate: int) -> None:
        self.estimates.append(bitrate)


@pytest.fixture
async def pcs() -> AsyncIterator[tuple[RTCPeerConnection, RTCPeerConnection]]:
    """Two connections that are closed in the end."""
    pair = RTCPeerConnection(), RTCPeerConnection()
    yield pair
    await asyncio.gather(*(pc.close() for pc in pair))


async def negotiate(one: RTCPeerConnection, other: RTCPeerConnection) -> None:
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    await one.setRemoteDescription(other.localDescription)


async def say(pc: RTCPeerConnection, **fields: Any) -> None:
    """Send feedback as a receiver would."""
    (receiver,) = pc.getReceivers()
    transport: Any = receiver.transport
    await transport._send_rtp(bytes(RtcpPsfbPacket(ssrc=1, **fields)))


async def test_requests_and_estimates_are_heard_and_handed_on(
    pcs: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    one, other = pcs
    sender: Any = one.addTrack(GreyTrack())
    heard, handed_on = Heard(), []
    handle = sender._handle_rtcp_packet

    async def note(packet: Any) -> None:
        handed_on.append(packet)
        await handle(packet)

    sender._handle_rtcp_packet = note
    senders.listen_to_feedback(sender, heard)
    await negotiate(one, other)
    await eventually(lambda: other.connectionState == one.connectionState == "connected")
    before = heard.requests
    for fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
        await say(other, fmt=fmt, media_ssrc=sender._ssrc)
    await eventually(lambda: heard.requests >= before + 2)
    await say(other, fmt=RTCP_PSFB_APP, media_ssrc=0, fci=pack_remb_fci(262_144, [sender._ssrc]))
    await eventually(lambda: 262_144 in heard.estimates)
    await say(other, fmt=RTCP_PSFB_APP, media_ssrc=0, fci=pack_remb_fci(131_072, [sender._ssrc ^ 1]))
    await say(other, fmt=RTCP_PSFB_APP, media_ssrc=sender._ssrc, fci=b"something else!!")
    await say(other, fmt=RTCP_PSFB_PLI, media_ssrc=sender._ssrc)
    await eventually(lambda: heard.requests >= before + 3)
    assert 131_072 not in heard.estimates
    feedback = [packet for packet in handed_on if isinstance(packet, RtcpPsfbPacket)]
    assert len(feedback) >= 5
    assert sender._RTCRtpSender__force_keyframe in (True, False)


async def test_an_estimate_for_several_senders_is_shared_out(
    pcs: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    one, other = pcs
    both: list[Any] = [one.addTrack(GreyTrack()) for _ in range(2)]
    heard = Heard(), Heard()
    for sender, ears in zip(both, heard, strict=True):
        senders.listen_to_feedback(sender, ears)
    await negotiate(one, other)
    await eventually(lambda: other.connectionState == one.connectionState == "connected")
    sources = [both[0]._ssrc, both[0]._rtx_ssrc, both[1]._ssrc]
    transport: Any = other.getReceivers()[0].transport
    message = RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=pack_remb_fci(262_144, sources))
    await transport._send_rtp(bytes(message))
    await eventually(lambda: all(131_072 in ears.estimates for ears in heard))


async def test_a_full_intra_request_reaches_the_senders_that_it_names(
    pcs: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    """Its header names nobody (RFC 5104 section 4.3.1.2)."""
    one, other = pcs
    both: list[Any] = [one.addTrack(GreyTrack()) for _ in range(2)]
    heard = Heard(), Heard()
    senders.route_full_intra_requests(both[0].transport)
    for sender, ears in zip(both, heard, strict=True):
        senders.listen_to_feedback(sender, ears)
    await negotiate(one, other)
    await eventually(lambda: other.connectionState == one.connectionState == "connected")
    before = heard[0].requests, heard[1].requests
    transport: Any = other.getReceivers()[0].transport
    stranger = struct.pack(">II", both[0]._ssrc ^ both[1]._ssrc, 0)
    entry = struct.pack(">IB3x", both[1]._ssrc, 7)
    for fci in (b"", stranger, entry[:4], stranger + entry + b"\0\0\0\0"):
        await transport._send_rtp(bytes(RtcpPsfbPacket(fmt=RTCP_PSFB_FIR, ssrc=1, media_ssrc=0, fci=fci)))
    await eventually(lambda: heard[1].requests == before[1] + 1)
    assert heard[0].requests == before[0]


class Packets(MediaStreamTrack):
    """Sound, encoded."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.level: int | None = None
        self._tone = ToneTrack()
        self._encoder = make_encoder(SendCodec("audio/opus", 48_000))
        self._waiting: list[Any] = []

    async def recv(self) -> Any:
        while not self._waiting:
            frame = await self._tone.recv()
            at = frame.pts * frame.time_base
            self._waiting = self._encoder.encode(frame, at, 0, key_frame=False)
        packet = self._waiting.pop(0)
        self.level = packet.opaque
        return packet


async def test_the_level_of_sound_goes_out_with_its_packets(
    pcs: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    one, other = pcs
    track = Packets()
    sender: RTCRtpSender = one.addTrack(track)
    count_frames(sender)
    senders.send_levels(sender, track)
    levels: list[Any] = []

    def watch(_: Any) -> None:
        (receiver,) = other.getReceivers()
        hooked: Any = receiver
        handle = hooked._handle_rtp_packet

        async def note(packet: Any, arrival_time_ms: int) -> None:
            levels.append(packet.extensions.audio_level)
            await handle(packet, arrival_time_ms=arrival_time_ms)

        hooked._handle_rtp_packet = note

    other.on("track", watch)
    await negotiate(one, other)
    await eventually(lambda: len(levels) > 3)
    assert all(level is not None and 5 <= abs(level[1]) <= 30 for level in levels), levels
    assert sender_stats(sender).frames >= len(levels)


async def test_a_request_for_lost_packets_is_answered_once_in_a_round_trip(
    pcs: tuple[RTCPeerConnection, RTCPeerConnection],
) -> None:
    """Also where aiortc sends in its own way."""
    one, other = pcs
    sender: Any = one.addTrack(GreyTrack())
    again: list[int] = []
    retransmit = sender._retransmit

    async def note(number: int) -> None:
        again.append(number)
        await retransmit(number)

    sender._retransmit = note
    retransmissions = senders.listen_to_feedback(sender, Heard())
    await negotiate(one, other)
    history = sender._RTCRtpSender__rtp_history
    await eventually(lambda: len(history) >= 3)
    assert sender._RTCRtpSender__rtt is None or sender._RTCRtpSender__rtt < 60
    assert sender._RTCRtpSender__octet_count > 0
    numbers = [packet.sequence_number for packet in history.values()][:2]
    request = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=sender._ssrc)
    request.lost = [*numbers * 2_000, (numbers[0] + 30_000) & 0xFFFF]
    before = len(again)
    await sender._handle_rtcp_packet(request)
    assert sorted(again[before:]) == sorted(numbers)
    request.lost = [*numbers]
    await sender._handle_rtcp_packet(request)
    assert retransmissions.sent + retransmissions.refused >= 4
    assert sender._RTCRtpSender__octet_count > 0


async def test_numbers_of_a_request_wrap(pcs: tuple[RTCPeerConnection, RTCPeerConnection]) -> None:
    """aiortc reads 65,536 where a bit mask goes on after 65,535."""
    sender: Any = pcs[0].addTrack(GreyTrack())
    asked: list[int] = []

    async def note(packet: Any) -> None:
        asked.extend(packet.lost)

    class Keeps:
        def kept(self, numbers: set[int]) -> list[tuple[int, int]]:
            return [(number, 1) for number in sorted(numbers)]

    sender._handle_rtcp_packet = note
    senders.listen_to_feedback(sender, Heard())
    sender._next_encoded_frame = Keeps()
    packet = RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=1, media_ssrc=sender._ssrc, lost=[65_535])
    (parsed,) = RtcpPacket.parse(bytes(packet)[:-2] + b"\0\3")
    await sender._handle_rtcp_packet(parsed)
    assert asked == [0, 1, 65_535]
