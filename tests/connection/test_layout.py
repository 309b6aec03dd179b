"""The order of sections, when the remote takes an offer back that was answered, and when a connection is replaced."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from metered_realtime import NoopLogger
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.connection.remote_description import admit
from metered_realtime.connection.sections import Incoming
from metered_realtime.core.negotiation.sdp import SdpError
from metered_realtime.media.sources.testsource import ToneTrack
from tests.connection.test_odd_descriptions import Observer
from tests.support.peers import GreyTrack, eventually, fresh_frames, shows


class Listener(Observer):
    """Also takes the tracks that end."""

    def __init__(self) -> None:
        super().__init__()
        self.removed: list[Incoming] = []

    def tracks_changed(self, removed: Any, added: Any) -> None:
        super().tracks_changed(removed, added)
        self.removed.extend(removed)


class Session:
    """A bare connection whose offers may be taken back, and one of this project."""

    def __init__(self) -> None:
        self.theirs = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self.listener = Listener()
        self.ours = PeerConnection(self.listener, NoopLogger())

    async def offer(self, **mids: str) -> None:
        """Have them offer. `mids` are those that they use in the place of aiortc's, as `m2="7"`."""
        await self.theirs.setLocalDescription(await self.theirs.createOffer())
        answer = await self._answer(self.theirs.localDescription.sdp, mids)
        for mid, used in mids.items():
            answer = answer.replace(f"a=mid:{used}\r", f"a=mid:{mid[1:]}\r")
        await self.theirs.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def offer_and_take_back(self) -> None:
        """Have them offer and forget it, although it is answered."""
        await self._answer((await self.theirs.createOffer()).sdp, {})

    async def _answer(self, offer: str, mids: dict[str, str]) -> str:
        for mid, used in mids.items():
            offer = offer.replace(f"a=mid:{mid[1:]}\r", f"a=mid:{used}\r")
            offer = re.sub(rf"(?m)^(a=group:BUNDLE.*) {mid[1:]}(?= |\r)", rf"\1 {used}", offer)
        answer, _ = await self.ours.answer(admit("offer", offer), {})
        return answer


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    session = Session()
    session.theirs.addTrack(GreyTrack(60))
    session.theirs.createDataChannel("data")
    yield session
    await session.ours.close()
    await session.theirs.close()


async def test_sections_of_an_answered_offer_that_is_taken_back_are_replaced(session: Session) -> None:
    """A browser that gives way rolls its offer back, and opens its sections again under other mids."""
    listener = session.listener
    await session.offer()
    await shows(listener.added[0].track, 60)
    session.theirs.addTrack(ToneTrack())
    await session.offer_and_take_back()
    assert [it.mid for it in listener.added] == ["0", "2"]
    await session.offer(m2="7")
    assert session.ours.mids == ("0", "1", "7")
    assert ([it.mid for it in listener.removed], [it.mid for it in listener.added]) == (["2"], ["0", "2", "7"])
    await fresh_frames(listener.added[2].track)
    await fresh_frames(listener.added[0].track)


async def test_fewer_sections_than_in_an_offer_that_was_taken_back(session: Session) -> None:
    listener = session.listener
    await session.offer()
    await eventually(lambda: session.theirs.connectionState == "connected")
    session.theirs.addTrack(ToneTrack())
    before = session.theirs.getTransceivers()[:-1]
    await session.offer_and_take_back()
    inside: Any = session.theirs
    inside._RTCPeerConnection__transceivers[:] = before
    await session.offer()
    assert session.ours.mids == ("0", "1")
    assert [it.mid for it in listener.removed] == ["2"]
    await fresh_frames(listener.added[0].track)


async def test_sections_that_both_ends_know_are_not_replaced(session: Session) -> None:
    await session.offer()
    await eventually(lambda: session.theirs.connectionState == "connected")
    plan = session.ours.plan({})
    text = session.ours.offer_text(plan)
    await session.theirs.setRemoteDescription(RTCSessionDescription(text, "offer"))
    await session.theirs.setLocalDescription(await session.theirs.createAnswer())
    await session.ours.commit(plan, text, admit("answer", session.theirs.localDescription.sdp, plan.mids), {})
    with pytest.raises(SdpError, match=r"the offer has sections \('7 video', '1 application'\), in use are"):
        await session.offer(m0="7")
