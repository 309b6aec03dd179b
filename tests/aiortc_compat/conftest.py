"""Peers over real UDP, and connections without a peer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiortc import RTCPeerConnection

from tests.support.peer_fixtures import no_socket_left_behind, room

__all__ = ["no_socket_left_behind", "pcs", "room"]


@pytest.fixture
async def pcs() -> AsyncIterator[list[RTCPeerConnection]]:
    """Connections that are closed in the end."""
    made: list[RTCPeerConnection] = []
    yield made
    await asyncio.gather(*(pc.close() for pc in made))
