"""What changes while Python and a foreign end are connected."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime import MediaStream, Track, TrackEnded
from tests.foreign_ends.meeting import BOTH, Meeting
from tests.support.peers import GreyTrack


async def test_python_adds_and_removes_a_track(meeting: Meeting) -> None:
    foreign = meeting.foreign
    channel = await meeting.opens_a_channel()
    meeting.python_sends()
    await foreign.receives(*BOTH)
    for _ in range(2):
        track = GreyTrack(200)
        meeting.native.add_track(track, MediaStream([track]))
        await foreign.receives("video", tracks=2)
        offers = len(foreign.received)
        meeting.native.remove_track(track)
        await foreign.until(lambda count=offers: len(foreign.received) > count)
        await foreign.receives(*BOTH)
    await meeting.is_answered(channel)
    meeting.assert_undisturbed()


async def test_the_other_end_adds_and_removes_a_track(meeting: Meeting) -> None:
    foreign = meeting.foreign
    await foreign.command("open", label="other's")
    await meeting.other_sends(*BOTH)
    await foreign.command("offer")
    await meeting.python_receives(*BOTH)
    for count in (1, 2):
        await meeting.other_sends("video")
        await foreign.command("offer")
        await meeting.python_receives("video", tracks=2)
        await foreign.command("remove", kind="video")
        await foreign.command("offer")
        await meeting.log.until(TrackEnded, count)
        await meeting.python_receives(*BOTH)
    await foreign.says("other's", "hello")
    meeting.assert_undisturbed()


@pytest.mark.parametrize("peer_id", ["a", "z"], ids=["polite", "impolite"])
async def test_both_offer_at_once(meeting: Meeting) -> None:
    foreign = meeting.foreign
    channel = await meeting.opens_a_channel()
    await meeting.other_sends(*BOTH)
    offers, start = len(foreign.received), asyncio.Event()
    with foreign.signals_held():
        await foreign.command("offer")
        meeting.python_sends(start)
        await foreign.until(lambda: len(foreign.received) > offers)
    await meeting.python_receives(*BOTH)
    # webrtcbin loses a track for good whose packets overtake the description that has it.
    await foreign.until(lambda: foreign.is_idle and len(foreign.descriptions) >= 2)
    start.set()
    await meeting.media_flows(*BOTH)
    assert len(meeting.log.of(Track)) == 2
    await meeting.is_answered(channel)
    meeting.assert_undisturbed()
