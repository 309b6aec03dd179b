"""Who nominates: this end, where the other has ICE-lite and only answers checks (RFC 8445 sections 2.5 and 6.1.1)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aioice.ice import CandidatePair
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from metered_realtime import NoopLogger
from metered_realtime.aiortc_compat.transports import ice_transport
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.remote_description import admit
from metered_realtime.connection.sections import Outgoing
from metered_realtime.media.sending.fanout import TrackFanout
from tests.connection.test_odd_descriptions import Observer
from tests.support.peers import GreyTrack, eventually, fresh_frames, shows


class LiteEnd:
    """A bare connection that sends no checks, and takes the pair that the other end nominates."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self.pc.addTrack(GreyTrack(60))
        transport: Any = self.pc.getTransceivers()[0].sender.transport.transport
        transport._role_set = True
        self.ice = transport._connection
        self.ice.ice_controlling = False
        self.ice.check_start_task = lambda pair: None
        self._take_check, self.ice.check_incoming = self.ice.check_incoming, self._check_incoming
        self._nominating: set[bytes] = set()

    def _check_incoming(self, message: Any, address: Any, protocol: Any) -> None:
        if "USE-CANDIDATE" in message.attributes:
            self._nominating.add(message.transaction_id)
        self._take_check(message, address, protocol)
        for pair in self.ice._check_list:
            if pair.remote_nominated and not pair.nominated:
                pair.nominated = True
                self.ice.check_state(pair, CandidatePair.State.SUCCEEDED)
                self.ice.check_complete(pair)

    @property
    def nominations(self) -> int:
        """How many times a pair was nominated."""
        return len(self._nominating)

    @property
    def sdp(self) -> str:
        """Its local description."""
        return str(self.pc.localDescription.sdp).replace("\r\nm=", "\r\na=ice-lite\r\nm=", 1)


class Meeting:
    """An end with ICE-lite, and one of this project."""

    def __init__(self) -> None:
        self.theirs = LiteEnd()
        self.observer = Observer()
        self.ours = PeerConnection(self.observer, NoopLogger())

    async def offer(self, text: str | None = None) -> str:
        """Have the lite end offer. Return the answer."""
        if text is None:
            await self.theirs.pc.setLocalDescription(await self.theirs.pc.createOffer())
        answer, _ = await self.ours.answer(admit("offer", text or self.theirs.sdp), {})
        if text is None:
            await self.theirs.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        return answer

    async def up(self) -> None:
        """Wait for the connection and its media."""
        await eventually(lambda: self.theirs.pc.connectionState == self.ours.pc.connectionState == "connected")
        await shows(self.observer.added[0].track, 60)


@pytest.fixture
async def meeting() -> AsyncIterator[Meeting]:
    meeting = Meeting()
    yield meeting
    await meeting.ours.close()
    await meeting.theirs.pc.close()


def controls(ours: PeerConnection) -> bool:
    """Return whether an end has the controlling role."""
    return bool(ice_transport(ours.pc)._connection.ice_controlling)


async def test_this_end_nominates_when_the_lite_end_offers(meeting: Meeting) -> None:
    await meeting.offer()
    await meeting.up()
    assert (controls(meeting.ours), meeting.theirs.nominations) == (True, 1)


async def test_this_end_nominates_when_it_offers(meeting: Meeting) -> None:
    ours, theirs = meeting.ours, meeting.theirs
    await ours.gather_host()
    theirs.pc.getTransceivers()[0]._bundled = True  # else aiortc stops the transport that it has in common with data
    fanout = TrackFanout(GreyTrack(), NoopLogger())
    wanted = {1: Outgoing("video", "track", None, fanout)}
    plan = ours.plan(wanted)
    text = ours.offer_text(plan)
    await theirs.pc.setRemoteDescription(RTCSessionDescription(text, "offer"))
    await theirs.pc.setLocalDescription(await theirs.pc.createAnswer())
    await ours.commit(plan, text, admit("answer", theirs.sdp, plan.mids), wanted)
    await eventually(lambda: ours.pc.connectionState == "connected")
    assert (controls(ours), theirs.nominations) == (True, 1)
    await fanout.close()


async def test_this_end_nominates_when_the_lite_end_restarts_ice(meeting: Meeting) -> None:
    ours, ice = meeting.ours, meeting.theirs.ice
    await meeting.offer()
    await meeting.up()
    ice._valid_username = lambda name: name.startswith("restarted:")  # checks may come before the answer
    former, ice._local_username, ice._local_password = ice.local_username, "restarted", "r" * 24
    offer = meeting.theirs.sdp.replace(f"a=ice-ufrag:{former}", "a=ice-ufrag:restarted")
    offer = "".join(
        f"a=ice-pwd:{'r' * 24}\r\n" if line.startswith("a=ice-pwd") else line
        for line in offer.splitlines(keepends=True)
    )
    restarted = await meeting.offer(offer)
    words = dict(line[2:].split(":", 1) for line in restarted.splitlines() if line.startswith("a=ice-"))
    ice.remote_username, ice.remote_password = words["ice-ufrag"], words["ice-pwd"]
    await eventually(lambda: meeting.theirs.nominations == 2)
    await eventually(lambda: ice_transport(ours.pc).state == "completed")
    await fresh_frames(meeting.observer.added[0].track)
    assert controls(ours)
