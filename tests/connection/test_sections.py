"""What a receiving section makes of sender reports: the sender's clock over the time of its track."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiortc import RTCPeerConnection
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.connection.sections import ReceivingSection
from metered_realtime.media.codecs.encoded import MAX_LEAP, RtpTimeline
from tests.support.peers import GreyTrack

VP8 = RTCRtpCodecParameters("video/VP8", 90_000, payloadType=97)
START = (1 << 32) - 3_000
PICTURE = b"\x11"
SOURCE, OTHER = 7, 8

exactly = pytest.approx


@pytest.fixture
async def section() -> AsyncIterator[ReceivingSection]:
    """The section of a track of which nothing has come yet."""
    one, other = RTCPeerConnection(), RTCPeerConnection()
    one.addTrack(GreyTrack())
    await other.setRemoteDescription(await one.createOffer())
    (receiver,) = other.getReceivers()
    section = ReceivingSection("0", receiver)
    section.update((("s",), "t"))
    yield section
    section.end()
    await asyncio.gather(one.close(), other.close())


def clock_of(section: ReceivingSection) -> Any:
    assert section._incoming is not None
    return section._incoming.track.sender_clock


async def test_a_report_is_put_on_the_time_of_the_track(section: ReceivingSection) -> None:
    section.take(VP8, PICTURE, START)
    section.reported(SOURCE, 100.0, START)
    assert clock_of(section).offset == exactly(100.0)
    section.take(VP8, PICTURE, 6_000)  # 0.1 s later: it has wrapped
    section.reported(SOURCE, 99.5, 96_000)
    assert clock_of(section).offset == exactly(99.5 - 1.1)
    section.reported(SOURCE, 97.5, 15_000 - 90_000 & 0xFFFFFFFF)
    assert clock_of(section).offset == exactly(97.5 + 0.8)
    assert clock_of(section).count == 3


async def test_it_does_not_move_that(section: ReceivingSection) -> None:
    told = SimpleNamespace(frames=[], push_frame=lambda frame: told.frames.append(frame.timestamp))
    section.take(VP8, PICTURE, 0)
    assert section._incoming is not None
    section._incoming = SimpleNamespace(track=told)  # type: ignore[assignment]
    for step in range(1, 4):
        section.reported(SOURCE, 5.0, 400_000 * step)
        section.take(VP8, PICTURE, 3_000 * step)
    assert told.frames == [3_000, 6_000, 9_000]
    section._incoming = None


async def test_a_report_that_comes_before_the_first_frame_waits_for_it(section: ReceivingSection) -> None:
    section.reported(SOURCE, 100.0, 90_000)
    assert (clock_of(section).offset, clock_of(section).count) == (None, 0)
    section.passed(VP8, 0)
    assert (clock_of(section).offset, clock_of(section).count) == (exactly(99.0), 1)


async def test_it_is_of_the_section_and_goes_on_with_another_track(section: ReceivingSection) -> None:
    section.take(VP8, PICTURE, 0)
    section.reported(SOURCE, 100.0, 0)
    section.update((("s",), "another"))
    assert clock_of(section).offset == exactly(100.0)


async def test_what_another_source_reports_begins_anew(section: ReceivingSection) -> None:
    section.take(VP8, PICTURE, 0)
    section.reported(SOURCE, 100.0, 0)
    far = round(2 * MAX_LEAP * 90_000)
    section.reported(OTHER, 200.0, far)
    assert clock_of(section).offset == exactly(100.0), "before its first frame nobody knows where that is"
    section.take(VP8, PICTURE, far)
    assert clock_of(section).offset == exactly(200.0, abs=0.5)
    section.reported(SOURCE, 100.0, 0)
    section.take(VP8, PICTURE, far + 3_000)
    assert clock_of(section).offset == exactly(200.0, abs=0.5), "the first one is not heard any more"


async def test_a_source_whose_times_begin_anew_is_heard_anew(section: ReceivingSection) -> None:
    section.take(VP8, PICTURE, 0)
    section.reported(SOURCE, 100.0, 0)
    far = round(2 * MAX_LEAP * 90_000)
    section.take(VP8, PICTURE, far)
    section.reported(SOURCE, 100.3, far)
    assert clock_of(section).offset == exactly(100.3, abs=0.1), "and not the least of both"


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFFFFFF), st.floats(0, 20), st.booleans()), max_size=50),
    st.sampled_from([8_000, 48_000, 90_000]),
)
def test_no_timestamps_make_a_time_line_raise_and_what_is_asked_changes_nothing(
    events: list[tuple[int, float, bool]], rate: int
) -> None:
    now = 0.0
    line, other = RtpTimeline(lambda: now), RtpTimeline(lambda: now)
    for timestamp, pause, is_frame in events:
        now += pause
        if is_frame:
            place = line.place_frame(timestamp, rate)
            assert place == other.place_frame(timestamp, rate)
            assert line.second_of(timestamp) == place / rate
        else:
            second = line.second_of(timestamp)
            assert second is None or abs(second) < 1e6
