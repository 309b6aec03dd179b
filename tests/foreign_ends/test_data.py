"""Data channels between Python and a foreign end, alone and beside media."""

from __future__ import annotations

import pytest

from tests.foreign_ends.meeting import BOTH, LONG_TEXT, Meeting

FIRST = pytest.mark.parametrize("first", ["python", "other"])
"""Who offers first."""


@FIRST
async def test_data_goes_both_ways(meeting: Meeting, first: str) -> None:
    foreign = meeting.foreign
    if first == "other":
        await foreign.command("open", label="other's")
        await foreign.command("offer")
        await foreign.says("other's", LONG_TEXT)
    await meeting.opens_a_channel()
    if first == "python":
        await foreign.command("open", label="other's")
        await foreign.says("other's", LONG_TEXT)
    meeting.assert_undisturbed()


@FIRST
async def test_media_is_added_to_data(meeting: Meeting, first: str) -> None:
    foreign = meeting.foreign
    if first == "other":
        await foreign.command("open", label="other's")
        await foreign.command("offer")
        await foreign.says("other's", "hello")
        channel = await meeting.opens_a_channel()
        await meeting.other_sends(*BOTH)
        await foreign.command("offer")
        await meeting.python_receives(*BOTH)
        meeting.python_sends()
    else:
        channel = await meeting.opens_a_channel()
        meeting.python_sends()
        await foreign.receives(*BOTH)
        await meeting.other_sends(*BOTH)
        await foreign.command("offer")
    await meeting.media_flows(*BOTH)
    await meeting.is_answered(channel)
    meeting.assert_undisturbed()


@FIRST
async def test_data_is_added_to_media(meeting: Meeting, first: str) -> None:
    foreign = meeting.foreign
    await meeting.other_sends(*BOTH)
    if first == "other":
        await foreign.command("offer")
        await meeting.python_receives(*BOTH)
        await foreign.command("open", label="other's")
        await foreign.command("offer")
        await foreign.says("other's", LONG_TEXT)
    else:
        meeting.python_sends()
        await foreign.receives(*BOTH)
    await meeting.opens_a_channel()
    if first == "other":
        await meeting.python_receives(*BOTH)
    else:
        await foreign.receives(*BOTH)
    meeting.assert_undisturbed()
