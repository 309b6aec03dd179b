"""Tracks that pass the packets of a remote on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpparameters import RTCRtpCodecParameters

from metered_realtime import NoopLogger
from metered_realtime.media.codecs.encoded import EncodedFrame
from metered_realtime.media.codecs.encoders import SendCodec
from metered_realtime.media.receiving.remote_track import RemoteTrack
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sending.forward_track import ForwardTrack
from metered_realtime.media.sending.relayed_track import RelayedTrack
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

VP8 = RTCRtpCodecParameters(mimeType="video/VP8", clockRate=90_000, payloadType=96)


class Source:
    """A remote that sends pictures when it is told to, and counts the requests for key frames."""

    def __init__(self) -> None:
        self.requests = 0
        self.track = RemoteTrack("video", "camera", upstream=self)
        self._number = 0

    def request_key_frame(self) -> bool:
        self.requests += 1
        return True

    def set_wanted(self, wanted: bool) -> None: ...

    def send(self, *kinds: str) -> None:
        for kind in kinds:
            head = b"\0\0\0\x9d\x01\x2a\x40\0\x40\0" if kind == "key" else b"\x01" + bytes(9)
            data = head + self._number.to_bytes(2, "big")
            self.track.push_frame(EncodedFrame(VP8, data, self._number * 3_000, kind == "key"))
            self._number += 1


def number_of(packet: Any) -> int:
    return int.from_bytes(bytes(packet)[-2:], "big")


@pytest.fixture
async def relayed() -> AsyncIterator[RelayedTrack]:
    track = RelayedTrack("video", "relayed", reads_ahead=True)
    yield track
    track.stop()


async def next_numbers(reader: Any, count: int) -> list[int]:
    async with asyncio.timeout(PATIENCE):
        return [number_of(await reader.recv()) for _ in range(count)]


async def test_packets_of_the_source_are_passed_on_as_they_are(relayed: RelayedTrack) -> None:
    source = Source()
    relayed.switch(source.track)
    reader = relayed.encoded()
    waiting = asyncio.ensure_future(next_numbers(reader, 3))
    await eventually(lambda: source.requests)  # it reads by now
    source.send("key", "delta", "delta")
    assert await waiting == [0, 1, 2]
    assert reader.codec == "video/VP8"
    reader.stop()


async def test_another_source_continues_and_none_is_waited_for(relayed: RelayedTrack) -> None:
    first, second = Source(), Source()
    reader = relayed.encoded()
    waiting = asyncio.ensure_future(next_numbers(reader, 2))
    relayed.switch(first.track)
    await eventually(lambda: first.requests)
    first.send("key")
    await asyncio.sleep(0)
    first.track.stop()
    relayed.switch(second.track)
    await eventually(lambda: second.requests)
    second.send("delta", "key")
    assert await waiting == [0, 1], "the delta cannot be decoded"
    reader.stop()


async def test_readers_end_with_the_track(relayed: RelayedTrack) -> None:
    reader = relayed.encoded()
    waiting = asyncio.ensure_future(reader.recv())
    await asyncio.sleep(0)
    relayed.stop()
    with pytest.raises(MediaStreamError):
        await waiting
    with pytest.raises(MediaStreamError):
        await relayed.encoded().recv()


async def test_a_receiver_that_comes_late_gets_the_pictures_since_the_last_key_frame(relayed: RelayedTrack) -> None:
    source = Source()
    relayed.switch(source.track)
    fanout = TrackFanout(relayed, NoopLogger())
    await eventually(lambda: source.requests)
    source.send("key", "delta", "delta")  # another key frame would show that it answers requests
    for _ in range(20):
        await asyncio.sleep(0)  # the fan-out takes what waits
    requests = source.requests
    forward = ForwardTrack("video")
    forward.negotiated(SendCodec("video/vp8", 90_000))
    forward.switch(fanout)
    assert await next_numbers(forward, 3) == [0, 1, 2]
    assert source.requests == requests, "nothing had to be asked for"
    forward.stop()
    await fanout.close()


async def test_the_codec_is_the_expected_one_before_the_first_packet() -> None:
    track = RelayedTrack("video", "relayed", expected="video/H264")
    assert track.codec == "video/H264"
    source = Source()
    track.switch(source.track)
    assert track.codec == "video/H264"
    source.send("key")
    assert track.codec == "video/VP8"
    track.stop()
