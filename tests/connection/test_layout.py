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
from metered_realtime.connection.sections import Incoming, Outgoing
from metered_realtime.core.negotiation.sdp import SdpError, sections
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.media.sources.testsource import ToneTrack
from tests.connection.test_descriptions import numbers
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
        self._fanouts: list[TrackFanout] = []

    def outgoing(self, track: Any) -> Outgoing:
        """Return a track as sent to one remote."""
        self._fanouts.append(TrackFanout(track, NoopLogger()))
        return Outgoing(track.kind, track.id, None, self._fanouts[-1])

    async def close(self) -> None:
        """Close both ends."""
        await self.ours.close()
        await self.theirs.close()
        for fanout in self._fanouts:
            await fanout.close()

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
    await session.close()


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


def layout(sdp: str) -> list[tuple[str, str, bool]]:
    """Return the kind and the mid of each section, and whether it is declined."""
    return [(it.kind, it.mid, it.rejected) for it in sections(sdp)]


async def test_a_new_connection_offers_the_sections_of_the_former_one_first(session: Session) -> None:
    """The mids, the kinds and the numbers are theirs. The track of this end is sent in the section of its kind."""
    await session.offer()
    await eventually(lambda: session.theirs.connectionState == "connected")
    new, listener = PeerConnection(session.listener, NoopLogger()), session.listener
    new.inherit_layout(session.ours.layout)
    other = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    arrived: list[Any] = []
    other.on("track", arrived.append)
    outgoing = {kind: session.outgoing(track) for kind, track in (("audio", ToneTrack()), ("video", GreyTrack(200)))}
    await new.gather_host()
    plan = new.plan(outgoing)
    text = new.offer_text(plan)
    assert layout(text) == [("video", "0", False), ("application", "1", False), ("audio", "2", False)]
    theirs, ours = (numbers(it)["0"][0] for it in (session.ours.pc.remoteDescription.sdp, text))
    assert theirs.items() <= ours.items()
    await other.setRemoteDescription(RTCSessionDescription(text, "offer"))
    other.addTrack(GreyTrack(120))
    await other.setLocalDescription(await other.createAnswer())
    assert not await new.commit(plan, text, admit("answer", other.localDescription.sdp, plan.mids), outgoing)
    await shows(next(it for it in arrived if it.kind == "video"), 200)
    await shows(listener.added[-1].track, 120)
    await new.close()
    await other.close()


async def test_a_declined_section_stays_declined_on_a_new_connection(session: Session) -> None:
    await session.offer()
    await eventually(lambda: session.theirs.connectionState == "connected")
    declined = "m=video 9 UDP/TLS/RTP/SAVPF 99\r\na=rtpmap:99 AV1/90000\r\na=rtcp-mux\r\na=mid:2\r\n"
    offer = session.theirs.localDescription.sdp
    shared = "".join(re.findall(r"(?m)^a=(?:ice-ufrag|ice-pwd|fingerprint:sha-256|setup).*\r\n", offer)[:4])
    await session.ours.answer(admit("offer", f"{offer}{declined}{shared}"), {})
    assert session.listener.declined.keys() == {"2"}
    new = PeerConnection(session.listener, NoopLogger())
    new.inherit_layout(session.ours.layout)
    text = new.offer_text(new.plan({"video": session.outgoing(GreyTrack())}))
    assert layout(text) == [("video", "0", False), ("application", "1", False), ("video", "2", True)]
    await new.close()


async def test_an_offer_that_may_have_arrived_counts_for_the_layout(session: Session) -> None:
    await session.offer()
    await eventually(lambda: session.theirs.connectionState == "connected")
    session.ours.plan({"audio": session.outgoing(ToneTrack()), "video": session.outgoing(GreyTrack())})
    kinds = session.ours.layout.kinds
    assert kinds == {"0": "video", "1": "application", "2": "audio", "3": "video"}
