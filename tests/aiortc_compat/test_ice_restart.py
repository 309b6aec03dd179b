"""ICE restarts in place: what is up stays up, whichever end begins, with a path or without."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiortc import RTCDataChannel

from metered_realtime.aiortc_compat import ice_consent as consent
from metered_realtime.aiortc_compat import ice_restart as restart
from metered_realtime.aiortc_compat import peer_connection
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.ice_restart import IceRestarts
from metered_realtime.aiortc_compat.peer_connection import create_peer_connection
from metered_realtime.aiortc_compat.stats import transport_counter
from metered_realtime.aiortc_compat.transports import dtls_transport, ice_transport, path_is_alive, selected_pair
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

TOUCHED = {
    "__setState": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_check_list": "test_a_restart_may_begin_while_another_one_is_under_way",
    "_check_list_done": "test_a_restart_may_begin_while_another_one_is_under_way",
    "_check_list_state": "test_a_restart_may_begin_while_another_one_is_under_way",
    "_closing": "test_nothing_is_restarted_that_is_not_up",
    "_components": "test_a_restart_that_finds_nothing_is_one_more_failure",
    "_connection": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_early_checks": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_early_checks_done": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_local_candidates": "test_addresses_that_the_host_has_got_since_are_taken",
    "_local_password": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_local_username": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_nominated": "test_until_there_is_a_new_path_the_former_one_is_used",
    "_nominating": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_protocols": "test_addresses_that_the_host_has_got_since_are_taken",
    "_query_consent_task": "test_a_lost_path_ends_nothing_and_sends_nothing",
    "_remote_candidates": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_remote_candidates_end": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_tie_breaker": "test_a_restart_keeps_everything_and_changes_the_credentials",
    "_transport_policy": "test_addresses_that_the_host_has_got_since_are_taken",
    "_use_ipv4": "test_addresses_that_the_host_has_got_since_are_taken",
    "_use_ipv6": "test_addresses_that_the_host_has_got_since_are_taken",
}
"""Every private name in aiortc_compat/ice_restart.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(restart.__file__).read_text(), flags=re.DOTALL)
    names = set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source))
    assert {re.sub("^_RTC[A-Za-z]+?__", "__", name) for name in names} == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class End:
    """One end of a connection over which numbers are sent without a pause."""

    def __init__(self) -> None:
        self.pc = create_peer_connection()
        self.ice: Any = ice_transport(self.pc)
        self.restarts = IceRestarts(self.pc)
        self.received: list[str] = []
        self.channel: RTCDataChannel | None = None

    def listen(self, channel: RTCDataChannel) -> None:
        self.channel = channel
        channel.on("message", self.received.append)

    @property
    def ufrag(self) -> str:
        ufrag = self.ice.iceGatherer.getLocalParameters().usernameFragment
        assert isinstance(ufrag, str)
        return ufrag

    async def run(self, other: End, *, controlling: bool) -> None:
        self.restarts.take_role(controlling=controlling)
        for candidate in other.ice.iceGatherer.getLocalCandidates():
            await self.ice.addRemoteCandidate(candidate)
        await self.ice.addRemoteCandidate(None)
        await self.restarts.run(other.ice.iceGatherer.getLocalParameters())


class Both:
    def __init__(self) -> None:
        self.a, self.b = End(), End()

    async def connect(self) -> None:
        a, b = self.a, self.b
        b.pc.on("datachannel", b.listen)
        a.listen(a.pc.createDataChannel("numbers"))
        await gather_host_candidates(a.pc)
        await a.pc.setLocalDescription(await a.pc.createOffer())
        await b.pc.setRemoteDescription(a.pc.localDescription)
        await gather_host_candidates(b.pc)
        await b.pc.setLocalDescription(await b.pc.createAnswer())
        await a.pc.setRemoteDescription(b.pc.localDescription)
        await asyncio.gather(peer_connection.connect(a.pc), peer_connection.connect(b.pc))
        await eventually(lambda: b.channel is not None and a.channel is not None and a.channel.readyState == "open")

    async def restart(self) -> None:
        await asyncio.gather(self.a.restarts.renew(), self.b.restarts.renew())
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(self.a.run(self.b, controlling=True), self.b.run(self.a, controlling=False))

    def send(self, text: str) -> None:
        for end in (self.a, self.b):
            assert end.channel is not None
            end.channel.send(text)

    async def have(self, *texts: str) -> None:
        """Wait until both ends have received these, in this order and nothing else."""
        await eventually(lambda: len(self.a.received) >= len(texts) <= len(self.b.received))
        assert self.a.received == self.b.received == list(texts)


@pytest.fixture
async def both() -> AsyncIterator[Both]:
    both = Both()
    await both.connect()
    yield both
    await asyncio.gather(both.a.pc.close(), both.b.pc.close())


async def test_a_restart_keeps_everything_and_changes_the_credentials(both: Both) -> None:
    both.send("before")
    for turn in range(3):
        before = both.a.ufrag, both.b.ufrag
        await both.restart()
        assert {*before}.isdisjoint({both.a.ufrag, both.b.ufrag})
        assert both.a.pc.connectionState == both.b.pc.connectionState == "connected"
        both.send(str(turn))
    await both.have("before", "0", "1", "2")
    assert await path_is_alive(both.a.pc)


async def test_until_there_is_a_new_path_the_former_one_is_used(both: Both) -> None:
    await both.a.restarts.renew()
    assert selected_pair(both.a.pc) is None
    both.send("meanwhile")
    await both.have("meanwhile")
    await both.b.restarts.renew()
    both.send("and then")
    await both.have("meanwhile", "and then")
    await asyncio.gather(both.a.run(both.b, controlling=False), both.b.run(both.a, controlling=True))
    both.send("after")
    await both.have("meanwhile", "and then", "after")


async def test_a_lost_path_ends_nothing_and_sends_nothing(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consent, "CONSENT_INTERVAL", 0.02)
    monkeypatch.setattr(consent, "CONSENT_TIMEOUT", 0.2)
    for end in (both.a, both.b):
        end.restarts.survive_losses()
    await both.restart()  # from here on consent is asked for at this pace
    for protocol in both.a.ice._connection._protocols:
        monkeypatch.setattr(protocol, "send_stun", lambda message, address: None)
    await eventually(lambda: both.a.pc.connectionState == both.b.pc.connectionState == "failed")
    assert dtls_transport(both.a.pc).state == "connected"
    sent = transport_counter(both.a.pc).packets_sent
    both.send("held")
    await asyncio.sleep(0)
    assert transport_counter(both.a.pc).packets_sent == sent
    monkeypatch.undo()
    await both.restart()
    await both.have("held")


async def test_a_restart_may_begin_while_another_one_is_under_way(both: Both) -> None:
    await both.a.restarts.renew()
    waiting = asyncio.ensure_future(both.a.restarts.run(both.b.ice.iceGatherer.getLocalParameters()))
    await eventually(lambda: both.a.ice.state == "checking")
    await both.restart()
    await asyncio.wait_for(waiting, PATIENCE)
    assert both.a.ice.state == "completed"
    both.send("after")
    await both.have("after")


async def test_a_restart_that_finds_nothing_is_one_more_failure(both: Both) -> None:
    await both.a.restarts.renew()
    await both.a.ice.addRemoteCandidate(None)
    await both.a.restarts.run(both.b.ice.iceGatherer.getLocalParameters())
    assert both.a.pc.connectionState == "failed"
    assert both.a.restarts.is_possible
    await both.restart()
    assert both.a.pc.connectionState == "connected"


async def test_addresses_that_the_host_has_got_since_are_taken(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {it.ip for it in both.a.ice.iceGatherer.getLocalCandidates()}
    monkeypatch.setattr(restart.aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [*before, "127.0.0.77"])
    await both.a.restarts.renew()
    found = both.a.ice.iceGatherer.getLocalCandidates()
    assert [it.ip for it in found if it.ip not in before] == ["127.0.0.77"]


async def test_nothing_is_restarted_that_is_not_up() -> None:
    end = End()
    assert not end.restarts.is_possible
    await end.pc.close()
    both = Both()
    await both.connect()
    assert both.a.restarts.is_possible
    await asyncio.gather(both.a.pc.close(), both.b.pc.close())
    assert not both.a.restarts.is_possible
