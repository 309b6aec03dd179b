"""Peers and a server in network namespaces, while the network between them, or one of them, fails."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from metered_realtime.aiortc_compat.ice_consent import CONSENT_TIMEOUT
from metered_realtime.server.limits import Limits
from tests.network.scenario import at_once
from tests.network.segment import Peer, Segment, needs_namespaces

pytestmark = [needs_namespaces, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

NOTICED_WITHIN = 7.0
"""Seconds after which a dead link has to show in the state of the remote."""

OUTAGE = 20.0
"""Seconds that a cut, or a suspension, lasts."""

RECOVERY = 30.0
"""Seconds after which media has to flow again by itself: to notice that signalling is dead as well, to come back to the
server, and for a new connection, with a repetition or two."""

STALL = 5.0
"""Seconds that a picture may stand still on a bad line, until a key frame has come through."""

SCHEDULING = 1.0
"""Seconds that a busy machine may add to a bound."""

RETURN_TIME = Limits().return_time
GHOST_TIME = Limits().ping_interval + Limits().pong_timeout + RETURN_TIME
"""Seconds after which the server drops a peer that vanished without a word, and tells the others."""

logger = logging.getLogger(__name__)


class Clock:
    """Runs from now on, and logs what took how long."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def note(self, what: str, at: float) -> float:
        """Return the seconds from the start to a time."""
        logger.info("%s after %.2f s", what, at - self.start)
        return at - self.start

    async def sleep(self, seconds: float) -> None:
        """Let this time pass since the start."""
        await asyncio.sleep(self.start + seconds - time.monotonic())


async def notice(clock: Clock, *pairs: tuple[Peer, Peer]) -> None:
    """See that each first one of a pair notices in time that the link to the other one is dead."""
    for one, other in pairs:
        at = await one.sees(other.name, "reconnecting", after=clock.start)
        assert clock.note(f"{one.name} noticed", at) < NOTICED_WITHIN


async def recover(clock: Clock, a: Peer, b: Peer) -> None:
    """See that after a time media flows again, both ways, and that a new data channel carries messages."""
    for one, other in ((a, b), (b, a)):
        connected = await one.sees(other.name, "connected", after=clock.start, within=RECOVERY)
        clock.note(f"{one.name} connected again", connected)
        clock.note(f"{one.name} received again", await one.flows(other.name, after=connected))
    await a.talks_to(b, "again")


def assert_kept(a: Peer, b: Peer) -> None:
    """Check that each is the same remote to the other as at the beginning."""
    for one, other in ((a, b), (b, a)):
        assert one.of("left") == []
        assert len(one.of("met")) == 1
        assert one.states(other.name)[-3:] == ["connected", "reconnecting", "connected"]


def assert_undisturbed(a: Peer, b: Peer, clock: Clock) -> None:
    """Check that media went on, on the same connection."""
    for one, other in ((a, b), (b, a)):
        assert one.longest_gap(other.name, clock.start, time.monotonic()) < SCHEDULING
        assert one.of("reset") == []
        assert len(one.of("met")) == 1


# --- the network


@at_once
async def test_over_a_line_that_loses_a_tenth_and_takes_80_ms_everything_arrives(net: Segment) -> None:
    await net.impair(loss=0.1, delay=0.08)
    _, a, b = await net.start_call("audio", "video")
    clock = Clock()
    await asyncio.gather(a.talks_to(b, "there"), b.talks_to(a, "back"))
    clock.note("messages arrived", time.monotonic())
    await clock.sleep(15)
    for one, other in ((a, b), (b, a)):
        assert one.longest_gap(other.name, clock.start, time.monotonic()) < STALL
        assert one.of("frame", after=time.monotonic() - STALL, peer=other.name, kind="audio")
        assert one.of("reset") == one.of("left") == []


@at_once
async def test_pictures_arrive_over_a_path_of_1280_bytes_that_loses_fragments(net: Segment) -> None:
    await net.narrow(1280)
    _, a, b = await net.start_call("noise")
    await a.talks_to(b, "there")


@at_once
async def test_joining_takes_no_harm_from_loss(net: Segment) -> None:
    await net.impair(loss=0.1)
    await net.start_server()
    clock = Clock()
    peers = [net.start_peer(name) for name in "abc"]
    for one in peers:
        for other in peers:
            if one is not other:
                await one.until("met", peer=other.name)
    clock.note("everybody joined", time.monotonic())
    assert [one.of("left") for one in peers] == [[], [], []]


@at_once
async def test_who_was_cut_off_for_20_s_comes_back(net: Segment) -> None:
    _, a, b = await net.start_call()
    clock = Clock()
    await net.cut_off("a")
    await notice(clock, (a, b), (b, a))
    await clock.sleep(OUTAGE)
    await net.mend()
    await recover(Clock(), a, b)
    assert_kept(a, b)


@at_once
async def test_media_that_was_cut_off_for_20_s_comes_back(net: Segment) -> None:
    _, a, b = await net.start_call()
    clock = Clock()
    await net.cut("a-b")
    await notice(clock, (a, b), (b, a))
    await clock.sleep(OUTAGE)
    await net.mend()
    await recover(Clock(), a, b)
    assert_kept(a, b)


@at_once
async def test_a_server_that_is_cut_off_for_20_s_is_not_missed(net: Segment) -> None:
    _, a, b = await net.start_call()
    clock = Clock()
    await net.cut_off("server")
    await clock.sleep(OUTAGE)
    await net.mend()
    await a.talks_to(b, "afterwards")
    assert_undisturbed(a, b, clock)


@at_once
async def test_who_gets_another_address_in_mid_call_comes_back(net: Segment) -> None:
    _, a, b = await net.start_call()
    clock = Clock()
    net.change_address("a", "10.80.0.111")
    await notice(clock, (a, b), (b, a))
    await recover(clock, a, b)
    assert_kept(a, b)


# --- the server


@at_once
async def test_a_server_that_is_killed_and_comes_back_does_not_disturb_media(net: Segment) -> None:
    server, a, b = await net.start_call()
    clock = Clock()
    await server.kill()
    for one, other in ((a, b), (b, a)):
        clock.note(f"{one.name} noticed", await one.sees(other.name, "reconnecting", after=clock.start))
    await clock.sleep(3)
    await net.start_server()
    clock.note("the server was back", time.monotonic())
    for one, other in ((a, b), (b, a)):
        clock.note(f"{one.name} connected again", await one.sees(other.name, "connected", after=clock.start))
    await a.talks_to(b, "afterwards")
    assert_undisturbed(a, b, clock)
    assert_kept(a, b)


@at_once
async def test_who_finds_the_server_again_much_later_than_the_others_keeps_his_media(net: Segment) -> None:
    """Waits between attempts grow with the time that the server is away, and with them how far apart clients return."""
    server, a, b = await net.start_call()
    clock = Clock()
    await server.kill()
    await a.sees("b", "reconnecting")
    await net.cut("a-server")
    await net.start_server()
    await b.until("own_state", to="joined", after=clock.start)
    back = Clock()
    await back.sleep(10)
    await net.mend()
    await a.until("own_state", to="joined", after=back.start)
    await b.sees("a", "connected", after=clock.start)
    await a.talks_to(b, "afterwards")
    assert_undisturbed(a, b, clock)
    assert_kept(a, b)


# --- a peer


@at_once
async def test_a_peer_that_is_killed_has_left_when_it_is_too_late_to_return(net: Segment) -> None:
    """The kernel closes its connection to the server. The others wait until its media path is known to be dead."""
    _, a, b = await net.start_call()
    clock = Clock()
    await a.kill()
    left = await b.until("left", peer="a")
    assert clock.note("b was told", left["at"]) < RETURN_TIME + CONSENT_TIMEOUT + SCHEDULING


@at_once
async def test_a_peer_that_vanishes_has_left_within_the_ghost_time(net: Segment) -> None:
    """Nothing tells the server that the peer has gone, but that it does not answer pings."""
    _, a, b = await net.start_call()
    clock = Clock()
    await net.cut_off("a")
    await a.kill()
    await notice(clock, (b, a))
    left = await b.until("left", peer="a", within=GHOST_TIME + SCHEDULING)
    clock.note("b was told", left["at"])


@at_once
async def test_a_peer_that_was_suspended_for_20_s_comes_back(net: Segment) -> None:
    _, a, b = await net.start_call()
    clock = Clock()
    a.suspend()
    await notice(clock, (b, a))
    await clock.sleep(OUTAGE)
    a.resume()
    await recover(Clock(), a, b)
    assert_kept(a, b)
