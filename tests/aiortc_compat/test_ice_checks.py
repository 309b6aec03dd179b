"""Connectivity checks: when they are started, and that nothing waits longer than it has to."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aioice
import aioice.ice
import pytest

from metered_realtime.aiortc_compat import ice_checks as checks
from tests.support.patience import PATIENCE
from tests.support.peers import eventually

Pair = tuple[aioice.Connection, aioice.Connection]

TOUCHED = {
    "_check_list": "test_late_candidates_are_checked_at_once",
    "_check_list_done": "test_nothing_is_checked_after_the_end",
    "_check_list_maybe_fail": "test_it_is_noticed_that_there_is_nothing_to_check",
    "_check_periodic": "test_connecting_does_not_sleep",
}
"""Every private name in aiortc_compat/ice_checks.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(checks.__file__).read_text(), flags=re.DOTALL)
    assert set(re.findall(r"(?<!\bself)\.(_[a-zA-Z]\w*)", source)) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class Checked:
    """A connection on its way whose checks are noted instead of being made. They go on until they are failed."""

    def __init__(self, connection: aioice.Connection) -> None:
        self.connection: Any = connection
        self.connection.remote_username, self.connection.remote_password = "user", "p" * 22
        self.connection.check_start = self._check
        self.started: list[tuple[str, float]] = []
        self._failed = asyncio.Event()

    async def _check(self, pair: aioice.ice.CandidatePair) -> None:
        self.started.append((pair.remote_candidate.host, asyncio.get_running_loop().time()))
        self.connection.check_state(pair, pair.State.IN_PROGRESS)
        await self._failed.wait()
        self.connection.check_state(pair, pair.State.FAILED)
        self.connection.check_complete(pair)

    async def add(self, *numbers: int) -> None:
        for number in numbers:
            line = f"{number} 1 udp {2130706431 - number} 192.0.2.{number} 9 typ host"
            await self.connection.add_remote_candidate(aioice.Candidate.from_sdp(line))

    def fail(self) -> None:
        self._failed.set()

    @property
    def hosts(self) -> list[str]:
        return [host for host, _ in self.started]

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for (_, earlier), (_, later) in itertools.pairwise(self.started)]


async def gathered(*, controlling: bool = True) -> aioice.Connection:
    """A connection that is ready to connect."""
    connection = aioice.Connection(ice_controlling=controlling)
    checks.pace_checks(connection)
    await connection.gather_candidates()
    return connection


@pytest.fixture
async def checked(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Checked]:
    """A connection with one local address."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1"])
    connection = await gathered()
    yield Checked(connection)
    await connection.close()


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    """Two connections that know each other's password, and no candidate yet."""
    one, other = await gathered(), await gathered(controlling=False)
    introduce(one, other)
    yield one, other
    await asyncio.gather(one.close(), other.close())


def introduce(one: aioice.Connection, other: aioice.Connection) -> None:
    """Tell two connections each other's name and password."""
    for connection, remote in ((one, other), (other, one)):
        connection.remote_username = remote.local_username
        connection.remote_password = remote.local_password


async def tell(connection: aioice.Connection, remote: aioice.Connection) -> None:
    """Tell a connection the candidates of the other."""
    for candidate in remote.local_candidates:
        await connection.add_remote_candidate(candidate)


@pytest.mark.alone
async def test_checks_begin_at_once_and_are_paced(checked: Checked) -> None:
    await checked.add(3, 1, 2)
    begun = asyncio.get_running_loop().time()
    connecting = asyncio.ensure_future(checked.connection.connect())
    await eventually(lambda: len(checked.started) == 3)
    assert checked.hosts == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert checked.started[0][1] - begun < checks.CHECK_INTERVAL
    assert min(checked.gaps) > checks.CHECK_INTERVAL - 0.002
    checked.fail()
    await checked.connection.add_remote_candidate(None)
    with pytest.raises(ConnectionError):
        await connecting


@pytest.mark.alone
async def test_late_candidates_are_checked_at_once(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    connecting = asyncio.ensure_future(checked.connection.connect())
    await asyncio.sleep(2 * checks.CHECK_INTERVAL)
    assert not connecting.done(), "an empty list is no failure while candidates may come"
    monkeypatch.setattr(checks, "CHECK_INTERVAL", 0.2)
    added = asyncio.get_running_loop().time()
    await checked.add(1)
    await eventually(lambda: len(checked.started) == 1)
    assert checked.started[0][1] - added < 0.1
    await checked.add(2)
    await eventually(lambda: len(checked.started) == 2)
    assert checked.gaps[0] > 0.19, "an interval that has begun is kept"
    connecting.cancel()


@pytest.mark.parametrize("end_first", [True, False])
async def test_it_is_noticed_that_there_is_nothing_to_check(checked: Checked, end_first: bool) -> None:
    if end_first:
        await checked.connection.add_remote_candidate(None)
    connecting = asyncio.ensure_future(checked.connection.connect())
    await asyncio.sleep(0)
    if not end_first:
        await checked.connection.add_remote_candidate(None)
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(connecting, PATIENCE)


async def test_nothing_is_checked_after_the_end(checked: Checked) -> None:
    await checked.add(1, 2, 3)
    connecting = asyncio.ensure_future(checked.connection.connect())
    await eventually(lambda: bool(checked.started))
    await checked.connection.close()
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(connecting, PATIENCE)
    count = len(checked.started)
    await asyncio.sleep(3 * checks.CHECK_INTERVAL)
    assert len(checked.started) == count


@pytest.mark.parametrize("event_driven", [True, False])
async def test_connecting_does_not_sleep(monkeypatch: pytest.MonkeyPatch, event_driven: bool) -> None:
    """aioice's own way is still there, and still sleeps: otherwise there would be nothing to replace."""
    if not event_driven:
        monkeypatch.setattr(checks, "pace_checks", lambda connection: None)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float, result: Any = None) -> Any:
        slept.append(delay)
        return await sleep(delay, result)

    one, other = await gathered(), await gathered(controlling=False)
    introduce(one, other)
    await tell(one, other)
    await tell(other, one)
    monkeypatch.setattr(asyncio, "sleep", note)
    await asyncio.gather(one.connect(), other.connect())
    assert (0.02 in slept) is not event_driven
    await asyncio.gather(one.close(), other.close())


async def test_checks_of_the_other_end_are_enough(pair: Pair) -> None:
    """A browser's checks may come before its candidates: the address that they come from is one."""
    one, other = pair
    await tell(one, other)
    await asyncio.wait_for(asyncio.gather(other.connect(), one.connect()), PATIENCE)


async def test_candidates_may_come_to_both_ends_late(pair: Pair) -> None:
    one, other = pair
    connecting = asyncio.gather(one.connect(), other.connect())
    await asyncio.sleep(2 * checks.CHECK_INTERVAL)
    await tell(one, other)
    await tell(other, one)
    await asyncio.wait_for(connecting, PATIENCE)


@pytest.mark.parametrize("names_one", [True, False])
async def test_both_ends_use_the_same_pair(monkeypatch: pytest.MonkeyPatch, names_one: bool) -> None:
    """Four pairs work, and are checked at the same time. aioice's way of naming them all shows why one is named."""
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: ["127.0.0.1", "127.0.0.2"])
    monkeypatch.setattr(checks, "CHECK_INTERVAL", 0.0)
    if not names_one:
        monkeypatch.setattr(checks, "_nominate_one_pair", lambda connection: None)
    agreed = 0
    for _ in range(20):
        one, other = await gathered(), await gathered(controlling=False)
        introduce(one, other)
        await tell(one, other)
        await tell(other, one)
        answering = asyncio.ensure_future(other.connect())  # who answers begins before its answer is there
        await asyncio.sleep(0.002)
        await asyncio.gather(one.connect(), answering)
        await asyncio.sleep(0.01)
        mine, theirs = one._nominated[1], other._nominated[1]
        agreed += (mine.local_addr, mine.remote_addr) == (theirs.remote_addr, theirs.local_addr)
        await asyncio.gather(one.close(), other.close())
    assert (agreed == 20) is names_one
