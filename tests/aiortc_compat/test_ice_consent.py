"""Consent to send, on a network of virtual time: when a path counts as dead, and when it does not."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aioice
import pytest

from metered_realtime.aiortc_compat import ice_consent as consent
from tests.support.patience import PATIENCE
from tests.support.virtual_time import block, virtual_time

TOUCHED = {
    "_nominated": "test_consent_is_kept_on_the_pair_in_use",
    "_query_consent_task": "test_a_path_that_falls_silent_is_dead_after_six_seconds",
}
"""Every private name in aiortc_compat/ice_consent.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(consent.__file__).read_text(), flags=re.DOTALL)
    assert set(re.findall(r"\.(_[a-zA-Z]\w*)", source)) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


class Wire:
    """Two connections whose datagrams go through `passes`, and arrive `delay` seconds later."""

    def __init__(self, one: aioice.Connection, other: aioice.Connection, arrived: list[int]) -> None:
        self.arrived = arrived  # what counts the packets of both
        self.only_receive = False
        self.one = one
        self.other = other
        self.delay = 0.0
        self.passes: Callable[[], bool] = lambda: True
        for connection in (one, other):
            for protocol in connection._protocols:
                self._intercept(protocol)

    def _intercept(self, protocol: Any) -> None:
        send = protocol.send_stun

        def send_stun(message: Any, address: Any) -> None:
            block(1e-6)  # nothing is done in no time at all
            if self.passes():
                asyncio.get_running_loop().call_later(self.delay, send, message, address)

        protocol.send_stun = send_stun


@asynccontextmanager
async def wired() -> AsyncIterator[Wire]:
    """Two connections that are up, closed in the end."""
    one, other = aioice.Connection(ice_controlling=True), aioice.Connection(ice_controlling=False)
    arrived = [0]
    wire: Wire | None = None
    for connection in (one, other):
        consent.keep_consent(connection, lambda: arrived[0], lambda: wire is not None and wire.only_receive)
        await connection.gather_candidates()
    for connection, remote in ((one, other), (other, one)):
        for candidate in remote.local_candidates:
            await connection.add_remote_candidate(candidate)
        await connection.add_remote_candidate(None)
        connection.remote_username, connection.remote_password = remote.local_username, remote.local_password
    await asyncio.gather(one.connect(), other.connect())
    wire = Wire(one, other, arrived)
    try:
        yield wire
    finally:
        await asyncio.gather(one.close(), other.close())


@virtual_time
async def test_consent_is_kept_on_the_pair_in_use() -> None:
    async with wired() as wire:
        pair = wire.one._nominated[1]
        asked = asyncio.Event()
        request = pair.protocol.request

        async def note(*args: Any, **options: Any) -> Any:
            asked.set()
            return await request(*args, **options)

        pair.protocol.request = note  # type: ignore[method-assign]
        await asyncio.wait_for(asked.wait(), PATIENCE)


@virtual_time
async def test_a_path_that_falls_silent_is_dead_after_six_seconds() -> None:
    async with wired() as wire:
        loop = asyncio.get_running_loop()
        wire.passes = lambda: False
        started = loop.time()
        assert isinstance(await wire.one.get_event(), aioice.ConnectionClosed)
        assert 5.5 < loop.time() - started < 7
        assert wire.one._query_consent_task is None


@contextmanager
def packets(wire: Wire) -> Iterator[None]:
    """Let packets arrive at both ends all the time."""

    def come() -> None:
        nonlocal coming
        wire.arrived[0] += 1
        coming = loop.call_later(0.1, come)

    loop = asyncio.get_running_loop()
    coming = loop.call_soon(come)
    yield
    coming.cancel()


@virtual_time
async def test_a_path_on_which_something_comes_lives_as_long_as_the_rfc_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that is short of CPU time answers late; its media goes on."""
    async with wired() as wire:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(consent, "MAX_CONSENT", 10.0)
        wire.passes = lambda: False
        silent_since = loop.time()
        with packets(wire):
            events = await asyncio.gather(wire.one.get_event(), wire.other.get_event())
        assert [type(event) for event in events] == [aioice.ConnectionClosed] * 2
        assert 7.5 <= loop.time() - silent_since <= 10.5


@virtual_time
async def test_an_end_that_only_receives_keeps_a_path_whose_remote_never_answers_while_something_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with wired() as wire:
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(consent, "MAX_CONSENT", 10.0)
        wire.passes, wire.only_receive = (lambda: False), True
        with packets(wire):
            await asyncio.sleep(30)
            assert wire.one._query_consent_task is not None
        silent_since = loop.time()
        assert isinstance(await wire.one.get_event(), aioice.ConnectionClosed)
        assert loop.time() - silent_since < consent.SILENCE + 1.5 * consent.CONSENT_INTERVAL  # it looks as often


@virtual_time
async def test_a_slow_path_lives() -> None:
    """A round trip of 1.4 s is longer than aioice waits for an answer."""
    async with wired() as wire:
        wire.delay = 0.7
        await asyncio.sleep(18)  # three timeouts
        assert wire.one._query_consent_task is not None
        assert wire.other._query_consent_task is not None


@virtual_time
async def test_a_path_that_loses_a_third_in_each_direction_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    monkeypatch.setattr(consent, "random", chance)  # when a question is asked decides, too
    async with wired() as wire:
        wire.passes = lambda: chance.random() > 0.33
        await asyncio.sleep(30)  # five timeouts
        assert wire.one._query_consent_task is not None
        assert wire.other._query_consent_task is not None


@virtual_time
async def test_closing_ends_the_questions() -> None:
    async with wired() as wire:
        wire.passes = lambda: False
        task = wire.one._query_consent_task
        await wire.one.close()
        assert task is not None
        assert task.done()
