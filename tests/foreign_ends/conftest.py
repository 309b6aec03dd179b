"""Each test of this folder runs with every foreign end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metered_realtime import PeerJoined
from tests.foreign_ends.meeting import Meeting
from tests.support.foreign_ends import IMPLEMENTATIONS, LIMITS, Implementation, foreign_end
from tests.support.peer_fixtures import no_socket_left_behind, room  # noqa: F401 - fixtures
from tests.support.peers import EventLog, Room


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Do not run what an implementation cannot do: most of it hangs, or ends the program."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.name in LIMITS:
            item.add_marker(pytest.mark.xfail(reason=LIMITS[item.name], run=False))


@pytest.fixture(params=IMPLEMENTATIONS, ids=lambda it: it.name)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    """A foreign implementation."""
    it = request.param
    assert isinstance(it, Implementation)
    return it


@pytest.fixture
def peer_id() -> str:
    """The id of the foreign end: it is impolite, unless a test says otherwise."""
    return "z"


@pytest.fixture
async def meeting(implementation: Implementation, peer_id: str, room: Room) -> AsyncIterator[Meeting]:  # noqa: F811
    """Both in the channel, and nothing offered."""
    native = room.peer("m")
    log = EventLog(native)
    await native.join("room")
    async with foreign_end(implementation, room.server, peer_id, to="m") as foreign:
        yield Meeting(native, (await log.until(PeerJoined)).peer, foreign)
