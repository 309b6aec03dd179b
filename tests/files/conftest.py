"""Peers over real UDP, a file, and a directory for what arrives."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.files import SIZE
from tests.support.patience import PATIENCE
from tests.support.peer_fixtures import no_socket_left_behind, room
from tests.support.peers import Pair, Room

__all__ = ["inbox", "no_socket_left_behind", "pair", "path", "patience", "room"]


@pytest.fixture(autouse=True)
async def patience() -> AsyncIterator[None]:
    """Fail instead of hanging."""
    async with asyncio.timeout(PATIENCE):
        yield


@pytest.fixture
async def pair(room: Room) -> Pair:
    return await room.pair()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Return a directory that does not exist yet."""
    return tmp_path / "inbox"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file of random content."""
    path = tmp_path / "holiday.jpeg"
    path.write_bytes(os.urandom(SIZE))
    return path
