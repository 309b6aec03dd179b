"""Each test of this folder runs with every foreign end."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from metered_realtime import PeerJoined
from tests.foreign_ends.meeting import Meeting
from tests.support.foreign_ends import IMPLEMENTATIONS, Implementation, foreign_end
from tests.support.peer_fixtures import no_socket_left_behind, room  # noqa: F401 - fixtures
from tests.support.peers import EventLog, Room


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
