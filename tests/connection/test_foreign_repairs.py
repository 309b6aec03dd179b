"""A foreign end that restarts, replaces itself all the time, or cannot roll back: real aiortc at both ends."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from metered_realtime import ConnectionReset, Data, MediaStream, MeteredPeer, PeerJoined, RemotePeer, Track
from metered_realtime.core.negotiation import negotiator
from metered_realtime.core.negotiation.ladder import LADDER
from tests.support.foreign import ForeignPeer, bare_connection
from tests.support.peers import EventLog, GreyTrack, Room, eventually, fresh_frames, shows

REWRITTEN = itertools.count(1)


def another_session(sdp: str) -> str:
    """Return a description with a session id of its own (werift writes one into each, against RFC 8829 5.2.1)."""
    return re.sub(r"(?m)^o=- \d+ \d+", f"o=- {4000 + next(REWRITTEN)} 0", sdp)


def another_end(sdp: str) -> str:
    """Return a description as of another connection with another certificate."""
    number = next(REWRITTEN)
    sdp = re.sub(r"a=ice-ufrag:\S+", f"a=ice-ufrag:new{number}", another_session(sdp))
    return re.sub(r"(a=fingerprint:\S+ )..:..", rf"\g<1>{number // 256:02X}:{number % 256:02X}", sdp)


class Meeting:
    """This project's peer `m`, which is the impolite one, and the other."""

    def __init__(self, ours: MeteredPeer, remote: RemotePeer, theirs: ForeignPeer) -> None:
        self.ours, self.remote, self.theirs = ours, remote, theirs
        self.log, self.peer_log = EventLog(remote), EventLog(ours)

    async def connect(self) -> Track:
        """Let the other end offer a picture."""
        self.theirs.pc.addTrack(GreyTrack(60))
        await self.theirs.offer("m", another_session)
        told = await self.log.until(Track)
        await shows(told.track, 60)
        await eventually(lambda: self.theirs.pc.connectionState == "connected")
        return told


@pytest.fixture
async def meeting(room: Room) -> AsyncIterator[Meeting]:
    ours = room.peer("m")
    log = EventLog(ours)
    await ours.join("room")
    theirs = await ForeignPeer.join(room.server, "a")
    yield Meeting(ours, (await log.until(PeerJoined)).peer, theirs)
    await theirs.close()


async def test_an_ice_restart_with_another_session_id_keeps_the_connection(meeting: Meeting) -> None:
    told, theirs = await meeting.connect(), meeting.theirs
    for number in range(1, 4):
        restarted = restart(theirs.pc, f"again{number}")
        await theirs.offer("m", lambda sdp, to=restarted: to(another_session(sdp)))  # type: ignore[misc]
        await eventually(lambda count=number: len(theirs.descriptions) == count + 1)  # type: ignore[misc]
        await fresh_frames(told.track)
    assert meeting.remote.stats().generation == 1
    assert meeting.log.of(ConnectionReset) == []


def restart(pc: Any, ufrag: str) -> Callable[[str], str]:
    """Give aiortc another ICE user fragment, and return what puts it into a description."""
    connection = pc.getTransceivers()[0].receiver.transport.transport._connection
    former, connection._local_username = connection._local_username, ufrag
    return lambda sdp: sdp.replace(f"a=ice-ufrag:{former}", f"a=ice-ufrag:{ufrag}")


async def be_another_end(meeting: Meeting, times: int) -> None:
    """Let the other end offer as another connection with another certificate each time."""
    text = meeting.theirs.pc.localDescription.sdp
    for _ in range(times):
        description = {"type": "offer", "sdp": another_end(text)}
        await meeting.theirs.request(type="send", to="m", data={"type": "rtc-description", "description": description})
    await meeting.theirs.request(type="send", to="m", data="done")
    await meeting.peer_log.until(Data)


async def test_an_end_that_is_another_one_in_each_offer_resets_the_connection_at_the_pace_of_the_ladder(
    meeting: Meeting,
) -> None:
    await meeting.connect()
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    await be_another_end(meeting, 40)
    allowed = [it for it in itertools.accumulate(LADDER) if it <= loop.time() - started_at]
    assert 1 <= len(meeting.log.of(ConnectionReset)) <= len(allowed)


async def test_the_last_one_of_many_replaced_ends_is_answered(meeting: Meeting) -> None:
    await meeting.connect()
    await be_another_end(meeting, 3)
    former, meeting.theirs.pc = meeting.theirs.pc, bare_connection()
    await former.close()
    meeting.theirs.pc.addTrack(GreyTrack(200))
    await meeting.theirs.offer("m")
    await eventually(lambda: meeting.theirs.pc.connectionState == "connected")
    await shows(meeting.log.of(Track)[-1].track, 200)


async def test_offers_that_collide_with_an_end_that_cannot_roll_back_are_both_answered_in_the_end(
    meeting: Meeting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 0.5)
    await meeting.connect()
    theirs, ours = meeting.theirs, GreyTrack(120)
    theirs.pc.addTrack(GreyTrack(200))
    await theirs.pc.setLocalDescription(await theirs.pc.createOffer())
    seen = len(theirs.descriptions)
    meeting.ours.add_track(ours, MediaStream([ours]))
    await eventually(lambda: "offer" in theirs.descriptions[seen:])
    await theirs.offer("m")
    await shows((await meeting.log.until(Track, 2)).track, 200)
    await eventually(lambda: len(theirs.tracks) > 0)
    await shows(theirs.tracks[-1], 120)
    assert meeting.remote.stats().generation == 1
