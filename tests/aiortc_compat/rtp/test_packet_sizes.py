"""No datagram is longer than a path of 1,280 bytes carries, a relay included, whoever cut the picture in it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from fractions import Fraction
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamTrack
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from metered_realtime import Tuning
from metered_realtime.aiortc_compat import rtp_sender as rtp
from metered_realtime.aiortc_compat.stats import FrameCounter
from metered_realtime.aiortc_compat.transports import selected_pair
from metered_realtime.media.codecs.rtp_payload import IP_AND_UDP, MAX_DATAGRAM, MAX_PAYLOAD, PATH_MTU, RELAY
from metered_realtime.media.pacing import Pacer
from tests.aiortc_compat.rtp.test_rtp_sender import H264, VP8, packet_of
from tests.support.fanout_world import Receiver, World
from tests.support.peers import GreyTrack, eventually

HEAD_OF_A_KEY_FRAME = b"\x10\0\0\x9d\x01\x2a\x40\x01\xf0\0"
"""VP8, 320 by 240 (RFC 6386 section 9.1)."""


class ForeignPackets(MediaStreamTrack):
    """Packets as somebody else encoded them: large pictures, in NAL units of all sizes with H.264."""

    kind = "video"

    def __init__(self, codec: str) -> None:
        super().__init__()
        self.codec = codec
        self._pacer = Pacer(Fraction(1, 30))
        self._chance = random.Random(1)
        self._count = 0

    async def recv(self) -> Any:
        await self._pacer.wait()
        packet = packet_of(VP8 if self.codec == "video/VP8" else H264, self._content(), self._count * 3_000)
        self._count += 1
        return packet

    def _content(self) -> bytes:
        body = self._chance.randbytes(40_000).replace(b"\0", b"\1")
        if self.codec == "video/VP8":
            return HEAD_OF_A_KEY_FRAME + body
        units = [b"\x67" + bytes([7]) * 12, b"\x68\x07\x07"]
        sizes = [20_000, 1_299, MAX_PAYLOAD + 1, MAX_PAYLOAD, MAX_PAYLOAD - 3, 400, 300, 200]
        units += [b"\x65" + body[:size] for size in sizes]
        return b"".join(b"\0\0\0\1" + unit for unit in units)


class NoiseTrack(GreyTrack):
    """Pictures of which nothing can be left out."""

    async def recv(self) -> av.VideoFrame:
        frame = await super().recv()
        frame.planes[0].update(random.randbytes(frame.planes[0].buffer_size))
        return frame


@pytest.fixture
async def worlds() -> AsyncIterator[list[World]]:
    made: list[World] = []
    yield made
    await asyncio.gather(*(world.close() for world in made))


def note_sizes(receiver: Receiver) -> list[int]:
    """Return the sizes of the datagrams that leave from now on, as they leave."""
    sizes: list[int] = []
    transport = selected_pair(receiver.peer_connection.pc).protocol.transport
    send = transport.sendto

    def note(data: bytes, address: Any) -> None:
        sizes.append(len(data))
        send(data, address)

    transport.sendto = note
    return sizes


async def largest(receiver: Receiver) -> int:
    """Return the size of the largest datagram that carries a key frame of many packets, retransmissions included."""
    await eventually(lambda: receiver.connected_at)
    await eventually(lambda: selected_pair(receiver.peer_connection.pc) is not None)
    sizes = note_sizes(receiver)
    await receiver.request_key_frame()
    await eventually(lambda: sum(size > 1_000 for size in sizes) > 8)
    sender: Any = receiver._sending.transceiver.sender
    before = len(sizes)
    for number in range(65_536):
        await sender._retransmit(number)
    assert len(sizes) > before
    return max(sizes)


@pytest.mark.parametrize("shared", [True, False], ids=["shared payloads", "aiortc's own sender"])
@pytest.mark.parametrize("codec", ["video/VP8", "video/H264"])
@pytest.mark.parametrize("source", ["encoded", "passed on"])
async def test_no_datagram_is_longer_than_any_path_carries(
    source: str, codec: str, shared: bool, worlds: list[World]
) -> None:
    track = NoiseTrack(width=640, height=480) if source == "encoded" else ForeignPackets(codec)
    world = World(track, Tuning(shared_payloads=shared))
    worlds.append(world)
    receiver = await world.join(codec)
    assert isinstance(receiver._sending.transceiver.sender._next_encoded_frame, FrameCounter) is not shared
    assert 1_000 < await largest(receiver) <= MAX_DATAGRAM == PATH_MTU - IP_AND_UDP - RELAY


def test_an_empty_unit_of_h264_ends_nothing() -> None:
    packet = packet_of(H264, b"\0\0\1\0\0\1\x65abc\0\0\1", 0)
    assert rtp.cut_h264(packet) == [b"\x65abc"]
    codec: Any = RTCRtpCodecParameters("video/H264", 90_000)
    assert rtp._cutter(codec) is rtp.cut_h264
    assert isinstance(packet, av.Packet)
