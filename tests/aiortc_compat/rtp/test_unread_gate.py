"""The insides of aiortc and aioice that what nobody reads passes: each test fails if a release moves them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCPeerConnection, rtcrtpsender
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcrtpreceiver import RTCRtpReceiver

from metered_realtime.aiortc_compat import peer_connection, stats
from metered_realtime.aiortc_compat import unread_gate as unread
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.rtp_receiver import Tap, tap_receiver
from metered_realtime.aiortc_compat.stats import receiver_stats
from metered_realtime.aiortc_compat.transceivers import receiver_of
from metered_realtime.aiortc_compat.transports import ice_transport, path_is_alive
from metered_realtime.media.sources.testsource import ToneTrack
from tests.support.patience import PATIENCE
from tests.support.peers import GreyTrack, eventually

TOUCHED = {
    "__codecs": "test_what_is_not_wanted_is_counted_and_dropped",
    "__jitter_buffer": "test_what_was_dropped_is_not_missed",
    "__nack_generator": "test_what_was_dropped_is_not_missed",
    "__remote_bitrate_estimator": "test_what_was_dropped_is_not_missed",
    "__remote_streams": "test_the_stats_are_those_of_a_receiver_that_takes_everything",
    "__rx_bytes": "test_the_stats_are_those_of_a_receiver_that_takes_everything",
    "__rx_packets": "test_the_stats_are_those_of_a_receiver_that_takes_everything",
    "_connection": "test_packets_are_dropped_before_they_are_decrypted",
    "_handle_rtp_packet": "test_what_is_not_wanted_is_counted_and_dropped",
    "_origin": "test_what_was_dropped_is_not_missed",
    "_protocols": "test_packets_are_dropped_before_they_are_decrypted",
}
"""Every private name of aiortc and aioice in aiortc_compat/unread_gate.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(unread.__file__).read_text(), flags=re.DOTALL)
    names = set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source))
    names |= {"__" + name for name in re.findall(r"{_RECEIVER}([a-z]\w+)", source)}
    names |= {"__nack_generator", "__remote_bitrate_estimator"}  # by a loop
    assert {re.sub("^_RTC[A-Za-z]+?__", "__", name) for name in names} == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class Notes:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.skipped_frames = 0
        self.codecs: list[str] = []
        self.reports = 0

    def take(self, codec: Any, data: bytes, timestamp: int) -> None:
        self.frames.append(data)

    def skipped(self, frames: int) -> None:
        self.skipped_frames += frames

    def passed(self, codec: Any, timestamp: int) -> None:
        self.codecs.append(codec.mimeType)

    def reported(self, source: int, clock: float, timestamp: int) -> None:
        self.reports += 1

    def picture_lost(self) -> None:
        """Nothing is asked for."""

    def ended(self) -> None:
        """Nobody waits."""


class Pair:
    """A bare sender, and a receiver that is tapped."""

    def __init__(self) -> None:
        self.one, self.other = RTCPeerConnection(), create_peer_connection()
        self.notes = Notes()
        self.receiver: Any = None
        self.tap: Tap
        self.other.on("track", self._tap)

    def _tap(self, track: Any) -> None:
        self.receiver = receiver_of(self.other, track)
        self.tap = tap_receiver(self.receiver, self.notes)

    async def connect(self, track: MediaStreamTrack) -> None:
        self.sender: Any = self.one.addTrack(track)
        await gather_host_candidates(self.other)
        await self.one.setLocalDescription(await self.one.createOffer())
        await self.other.setRemoteDescription(self.one.localDescription)
        await self.other.setLocalDescription(await self.other.createAnswer())
        await self.one.setRemoteDescription(self.other.localDescription)
        await peer_connection.connect(self.other)

    async def skips(self, more: int) -> None:
        wanted = self.notes.skipped_frames + more
        await eventually(lambda: self.notes.skipped_frames >= wanted)

    async def flows(self, more: int) -> None:
        wanted = len(self.notes.frames) + more
        await eventually(lambda: len(self.notes.frames) >= wanted)

    @property
    def decrypted(self) -> int:
        """How many packets have reached the receiver."""
        return len(self.notes.codecs)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two connections that are closed in the end."""
    pair = Pair()
    yield pair
    await asyncio.gather(pair.one.close(), pair.other.close())


@pytest.mark.parametrize(("track", "codec"), [(GreyTrack, "video/VP8"), (ToneTrack, "audio/opus")])
async def test_what_is_not_wanted_is_counted_and_dropped(pair: Pair, track: Any, codec: str) -> None:
    await pair.connect(track())
    await pair.skips(30)
    assert (pair.notes.frames, pair.notes.codecs) == ([], [codec])
    before = pair.notes.skipped_frames
    pair.tap.set_wanted(True)
    rest = pair.notes.skipped_frames
    await pair.flows(5)
    assert rest - before < unread.BATCH
    assert pair.notes.skipped_frames == rest
    pair.tap.set_wanted(False)
    count = len(pair.notes.frames)
    await pair.skips(10)
    assert len(pair.notes.frames) <= count + 1


async def test_reports_are_heard_though_media_is_not(pair: Pair) -> None:
    await pair.connect(ToneTrack())
    await eventually(lambda: pair.notes.reports)
    assert pair.notes.frames == []


async def test_packets_are_dropped_before_they_are_decrypted(pair: Pair) -> None:
    await pair.connect(GreyTrack())
    await pair.skips(20)
    assert pair.decrypted == 1
    connection: Any = ice_transport(pair.other)._connection
    gate = connection.data_received
    assert isinstance(gate, unread._DatagramGate)
    assert list(gate._watched) == list(connection._protocols)
    assert all(protocol.datagram_received.__name__ == "look" for protocol in connection._protocols)
    assert await path_is_alive(pair.other), "STUN still passes"
    pair.tap.set_wanted(True)
    assert gate.sources == {}


async def test_srtp_keeps_up_with_the_sequence_numbers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "PASS_EVERY", 10)
    await pair.connect(ToneTrack())
    await pair.skips(60)
    assert 5 <= pair.decrypted <= 8


async def test_the_sequence_numbers_may_wrap_unread(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unread, "PASS_EVERY", 20)
    monkeypatch.setattr(rtcrtpsender, "random_sequence_number", lambda: 65_506)
    await pair.connect(ToneTrack())
    await pair.skips(60)
    pair.tap.set_wanted(True)
    await pair.flows(10)
    statistics = pair.receiver._RTCRtpReceiver__remote_streams[pair.sender._ssrc]
    assert (statistics.base_seq, statistics.cycles) == (65_506, 1 << 16)
    assert receiver_stats(pair.receiver).packets_lost <= unread.BATCH


async def test_the_stats_are_those_of_a_receiver_that_takes_everything(pair: Pair) -> None:
    await pair.connect(ToneTrack())
    await pair.skips(100)
    counted = receiver_stats(pair.receiver)
    (sent,) = [it for it in (await pair.sender.getStats()).values() if it.type == "outbound-rtp"]
    assert sent.packetsSent - unread.BATCH - 1 <= counted.packets <= sent.packetsSent
    assert 0.85 * sent.bytesSent < counted.bytes < 1.15 * sent.bytesSent
    assert abs(counted.packets_lost) <= unread.BATCH
    assert 0 <= counted.jitter < 48_000 / 10
    assert pair.receiver._RTCRtpReceiver__remote_streams.keys() == {pair.sender._ssrc}
    received_bytes, received_packets = stats.received(pair.other)
    assert counted.packets <= received_packets <= counted.packets + 40
    assert counted.bytes < received_bytes


async def test_the_other_end_hears_reports(pair: Pair) -> None:
    await pair.connect(ToneTrack())
    async with asyncio.timeout(PATIENCE):
        while True:
            reports = [it for it in (await pair.sender.getStats()).values() if it.type == "remote-inbound-rtp"]
            if reports:
                break
            await asyncio.sleep(0.1)
    assert reports[0].packetsLost <= unread.BATCH
    assert pair.notes.frames == []


async def test_losses_are_seen_unread(pair: Pair) -> None:
    await pair.connect(ToneTrack())
    await pair.skips(20)
    before, number = receiver_stats(pair.receiver).packets_lost, 0
    protocols = ice_transport(pair.other)._connection._protocols  # whichever pair is in use by now
    passed = {protocol: protocol.datagram_received for protocol in protocols}

    def lose(data: bytes, address: Any, *, receive: Any) -> None:
        nonlocal number
        number += 1
        if number % 2:
            receive(data, address)

    for protocol, receive in passed.items():
        protocol.datagram_received = partial(lose, receive=receive)
    await pair.skips(40)
    for protocol, receive in passed.items():
        protocol.datagram_received = receive
    assert receiver_stats(pair.receiver).packets_lost - before > 25


async def test_what_was_dropped_is_not_missed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def note(self: Any, media_ssrc: int, lost: list[int]) -> None:
        asked.extend(lost)

    monkeypatch.setattr(RTCRtpReceiver, "_send_rtcp_nack", note)
    await pair.connect(GreyTrack())
    inside = pair.receiver
    for _ in range(3):
        pair.tap.set_wanted(True)
        assert inside._RTCRtpReceiver__jitter_buffer._origin is None
        estimator = inside._RTCRtpReceiver__remote_bitrate_estimator
        assert inside._RTCRtpReceiver__nack_generator.max_seq is None
        await pair.flows(5)
        assert inside._RTCRtpReceiver__nack_generator.max_seq is not None
        assert inside._RTCRtpReceiver__jitter_buffer._origin is not None
        pair.tap.set_wanted(False)
        await pair.skips(10)
        pair.tap.set_wanted(True)
        assert inside._RTCRtpReceiver__remote_bitrate_estimator is not estimator
        pair.tap.set_wanted(False)
    assert asked == []


async def test_other_datagrams_pass() -> None:
    passed: list[bytes] = []

    class Connection:
        _protocols: tuple[Any, ...] = ()

        def data_received(self, data: bytes, component: int) -> None:
            passed.append(data)

    class Hungry:
        def drops(self, data: bytes) -> bool:
            return True

    gate = unread._DatagramGate(Connection())
    gate.sources[b"\0\0\0\7"] = Hungry()  # type: ignore[assignment]
    rest = b"\0\1\0\0\0\0\0\0\0\7payload"
    rtcp, dtls, short, media = b"\x80\xc8" + rest, b"\x16\x00" + rest, b"\x80", b"\x80\x61" + rest
    other = b"\x80\x61\0\1\0\0\0\0\0\0\0\x08payload"
    for data in (rtcp, dtls, short, b"", other, media, b"\x80\xe1" + rest):
        gate(data, 1)
    assert passed == [rtcp, dtls, short, b"", other]
