"""A virtual connection refuses what a real connection refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from metered_realtime.connection.remote_description import admit
from metered_realtime.connection.sections import Incoming, Outgoing
from metered_realtime.core.negotiation.sdp import Description, sections
from metered_realtime.core.negotiation.sharing import Sharing
from metered_realtime.log import NoopLogger
from metered_realtime.media.sending.fanout import TrackFanout
from metered_realtime.testing import VirtualTrack, VirtualWorld
from metered_realtime.testing.virtual_network import Process
from metered_realtime.testing.virtual_peer_connection import VirtualPeerConnection, VirtualRefusalError


class Observer:
    """Collects the events of a connection."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.added: list[str] = []
        self.removed: list[str] = []

    def peer_connection_state_changed(self, peer_connection: Any, state: str) -> None:
        self.states.append(state)

    def tracks_changed(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        self.removed.extend(incoming.track_id for incoming in removed)
        self.added.extend(incoming.track_id for incoming in added)

    def channel_opened(self, channel: Any) -> None: ...


def outgoing(track_id: str, kind: str = "video") -> Outgoing:
    track: Any = VirtualTrack(kind, track_id)
    return Outgoing(kind, track_id, "stream", TrackFanout(track, NoopLogger()))


class Pair:
    """Two connections that are negotiated by hand."""

    def __init__(self) -> None:
        self.world = VirtualWorld("pair")
        self.observers = Observer(), Observer()
        self.a, self.b = (
            VirtualPeerConnection(self.world.media, Process(host, 1), observer, asks_servers=False)
            for host, observer in zip("ab", self.observers, strict=True)
        )

    async def offer_from_a(self, **wanted: Outgoing) -> tuple[Any, Description]:
        await self.a.gather_host()
        plan = self.a.plan(wanted)
        return plan, Description.parse("offer", self.a.offer_text(plan))

    async def exchange(self, **wanted: Outgoing) -> None:
        plan, offer = await self.offer_from_a(**wanted)
        text, _ = await self.b.answer(offer, {})
        await self.a.commit(plan, offer.sdp, Description.parse("answer", text), wanted)

    async def close(self) -> None:
        await asyncio.gather(self.a.close(), self.b.close())


@pytest.fixture
def pair() -> Pair:
    return Pair()


def run(pair: Pair, program: Any) -> None:
    async def complete() -> None:
        await program
        await pair.close()

    pair.world.run(complete())
    pair.world.close()


def test_an_exchange_connects_both_ends_and_reports_the_tracks(pair: Pair) -> None:
    async def program() -> None:
        kept = outgoing("t2", "audio")
        await pair.exchange(one=outgoing("t1"), two=kept)
        await asyncio.sleep(1)
        assert pair.observers[0].states == pair.observers[1].states == ["connecting", "connected"]
        assert pair.observers[1].added == ["t1", "t2"]
        await pair.exchange(two=kept)
        assert pair.observers[1].removed == ["t1"]

    run(pair, program())


def test_tracks_go_into_sections_that_the_other_end_offers(pair: Pair) -> None:
    async def program() -> None:
        ours, theirs = outgoing("t1"), outgoing("t2")
        await pair.a.gather_host()
        plan = pair.a.plan({1: ours}, sharing=Sharing.ALL)
        offer = Description.parse("offer", pair.a.offer_text(plan))
        assert [it.direction for it in sections(offer.sdp)][1:] == ["sendrecv"]
        text, more = await pair.b.answer(offer, {2: theirs}, sharing=Sharing.ALL)
        assert [(it.direction, it.track_id) for it in sections(text)][1:] == [("sendrecv", "t2")]
        assert not more
        assert not await pair.a.commit(plan, offer.sdp, Description.parse("answer", text), {1: ours})
        assert (pair.observers[0].added, pair.observers[1].added) == (["t2"], ["t1"])

    run(pair, program())


def test_virtual_descriptions_are_accepted_by_the_real_parsers(pair: Pair) -> None:
    async def program() -> None:
        _, offer = await pair.offer_from_a(one=outgoing("t1"))
        assert admit("offer", offer.sdp).declined == {}
        data, video = sections(offer.sdp)
        assert (data.kind, data.mid) == ("application", "0")
        assert (video.kind, video.direction) == ("video", "sendonly")
        assert (video.stream_ids, video.track_id) == (("stream",), "t1")

    run(pair, program())


def test_an_answer_with_another_list_of_sections_is_refused(pair: Pair) -> None:
    async def program() -> None:
        plan, offer = await pair.offer_from_a(one=outgoing("t1"))
        text, _ = await pair.b.answer(offer, {})
        shorter = Description.parse("answer", text[: text.index("m=video")])
        with pytest.raises(VirtualRefusalError, match="sections"):
            await pair.a.commit(plan, offer.sdp, shorter, {})

    run(pair, program())


def test_an_offer_that_drops_sections_is_refused(pair: Pair) -> None:
    async def program() -> None:
        await pair.exchange(one=outgoing("t1"))
        _, offer = await pair.offer_from_a(one=outgoing("t1"))
        shorter = Description.parse("offer", offer.sdp[: offer.sdp.index("m=video")])
        with pytest.raises(VirtualRefusalError, match="sections"):
            await pair.b.answer(shorter, {})

    run(pair, program())


def test_a_simulated_connection_has_no_measured_values(pair: Pair) -> None:
    async def program() -> None:
        await pair.exchange(one=outgoing("t1"))
        assert pair.a.stats() == pair.a.totals() == {}
        assert pair.a.data_counters() is None

    run(pair, program())


def test_another_ice_user_fragment_is_refused(pair: Pair) -> None:
    async def program() -> None:
        await pair.exchange(one=outgoing("t1"))
        _, offer = await pair.offer_from_a(one=outgoing("t1"))
        other = Description.parse("offer", offer.sdp.replace(f"a=ice-ufrag:{offer.ufrag}", "a=ice-ufrag:other"))
        with pytest.raises(VirtualRefusalError, match="ICE restart"):
            await pair.b.answer(other, {})

    run(pair, program())


def test_two_operations_at_a_time_are_refused(pair: Pair) -> None:
    async def program() -> None:
        _, offer = await pair.offer_from_a(one=outgoing("t1"))
        first = asyncio.ensure_future(pair.b.answer(offer, {}))
        await asyncio.sleep(0)
        with pytest.raises(VirtualRefusalError, match="under way"):
            await pair.b.answer(offer, {})
        await first

    run(pair, program())


def test_a_silent_end_is_noticed_after_six_seconds(pair: Pair) -> None:
    async def program() -> None:
        await pair.exchange(one=outgoing("t1"))
        await asyncio.sleep(1)
        pair.world.network.cut("a", "b")
        await asyncio.sleep(4)
        assert pair.b.pc.connectionState == "connected"
        await asyncio.sleep(3)
        assert pair.b.pc.connectionState == "closed"

    run(pair, program())


def test_a_close_is_noticed_at_once(pair: Pair) -> None:
    async def program() -> None:
        await pair.exchange(one=outgoing("t1"))
        await asyncio.sleep(1)
        await pair.a.close()
        await asyncio.sleep(0.1)
        assert pair.b.pc.connectionState == "closed"

    run(pair, program())
