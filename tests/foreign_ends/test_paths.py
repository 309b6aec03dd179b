"""Other paths under a connection of Python with a foreign end, and other programs in its place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from metered_realtime import PeerJoined, StateChange
from metered_realtime.aiortc_compat import ice_consent
from tests.foreign_ends.meeting import BOTH, Meeting
from tests.support.cut_path import cut
from tests.support.foreign_ends import Implementation, foreign_end
from tests.support.peers import EventLog, Room


@pytest.fixture
def impatient_consent() -> Iterator[None]:
    """Let a lost path be noticed soon."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ice_consent, "CONSENT_INTERVAL", 0.3)
        patch.setattr(ice_consent, "CONSENT_TIMEOUT", 1.5)
        patch.setattr(ice_consent, "SILENCE", 1.5)
        yield


async def test_the_other_end_restarts_ice(meeting: Meeting) -> None:
    foreign = meeting.foreign
    channel = await meeting.opens_a_channel()
    meeting.python_sends()
    await foreign.receives(*BOTH)
    await foreign.command("offer", restart=True)
    assert len(foreign.ufrags) == 2
    await foreign.until(lambda: len(foreign.ufrags_received) == 2)
    await foreign.receives(*BOTH)
    await meeting.is_answered(channel)
    assert meeting.log.of(StateChange)[-1].to == "connected"
    meeting.assert_undisturbed()


@pytest.mark.usefixtures("impatient_consent")
async def test_python_restarts_ice_when_the_path_is_lost(meeting: Meeting) -> None:
    foreign = meeting.foreign
    channel = await meeting.opens_a_channel()
    meeting.python_sends()
    await foreign.receives(*BOTH)
    with cut(meeting.remote.pc):
        await meeting.log.until(StateChange, to="reconnecting")
    await meeting.log.until(StateChange, 2, to="connected")
    await foreign.receives(*BOTH)
    await meeting.is_answered(channel)
    meeting.assert_undisturbed()


async def test_another_program_takes_the_place_of_one_that_was_killed(
    meeting: Meeting, implementation: Implementation, room: Room
) -> None:
    meeting.python_sends()
    await meeting.foreign.receives(*BOTH)
    log = EventLog(meeting.native)
    await meeting.foreign.kill()
    async with foreign_end(implementation, room.server, meeting.remote.id, to="m") as another:
        await another.receives(*BOTH)
        remote = log.of(PeerJoined)[-1].peer if log.of(PeerJoined) else meeting.remote
        assert remote.state == "connected"
