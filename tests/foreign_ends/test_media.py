"""Sound and pictures between Python and a foreign end."""

from __future__ import annotations

from tests.foreign_ends.meeting import BOTH, Meeting


async def test_media_flows_both_ways_when_python_offers_first(meeting: Meeting) -> None:
    foreign = meeting.foreign
    await meeting.other_sends(*BOTH)
    meeting.python_sends()
    await foreign.receives(*BOTH)
    if not foreign.sends(*BOTH):
        await foreign.command("offer")
    await meeting.media_flows(*BOTH)
    meeting.assert_undisturbed()


async def test_media_flows_both_ways_when_the_other_end_offers_first(meeting: Meeting) -> None:
    await meeting.other_sends(*BOTH)
    await meeting.foreign.command("offer")
    await meeting.python_receives(*BOTH)
    meeting.python_sends()
    await meeting.media_flows(*BOTH)
    meeting.assert_undisturbed()


async def test_an_end_that_offers_once_is_sent_what_it_asks_for(meeting: Meeting) -> None:
    foreign = meeting.foreign
    for kind in BOTH:
        await foreign.command("receiveOnly", kind=kind)
    with foreign.signals_held():
        await foreign.command("offer")
        meeting.python_sends()
    await foreign.receives(*BOTH)
    assert [it["type"] for it in foreign.descriptions] == ["offer"]
    meeting.assert_undisturbed()
