"""A bridge on a channel of a server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.bridge.support import Endpoints
from tests.support.peer_fixtures import no_socket_left_behind, room
from tests.support.peers import Room

__all__ = ["endpoints", "no_socket_left_behind", "room"]


@pytest.fixture
async def endpoints(room: Room) -> AsyncIterator[Endpoints]:
    async with Endpoints(room) as endpoints:
        yield endpoints
