"""How large a message the other end takes."""

from __future__ import annotations

import asyncio
import re

import pytest
from aiortc import RTCPeerConnection, RTCSessionDescription

from metered_realtime.aiortc_compat import message_size
from metered_realtime.aiortc_compat.gathering import gather_host_candidates
from metered_realtime.aiortc_compat.message_size import DEFAULT_MAX_MESSAGE_SIZE, UNLIMITED, max_message_size
from metered_realtime.aiortc_compat.peer_connection import connect
from tests.aiortc_compat.support.bare_connections import make
from tests.aiortc_compat.support.private_names import private_names


def test_no_private_attribute_is_relied_on() -> None:
    """The one that there is stands in a string: without it every remote takes what RFC 8841 says."""
    assert private_names(message_size) == set()
    assert max_message_size(object()) == DEFAULT_MAX_MESSAGE_SIZE


@pytest.mark.parametrize(("announced", "taken"), [(1_000, 1_000), (0, UNLIMITED)])
async def test_it_is_what_the_description_of_the_remote_says(
    pcs: list[RTCPeerConnection], announced: int, taken: int
) -> None:
    one, other = make(pcs), make(pcs)
    channel = one.createDataChannel("x")
    assert max_message_size(channel) == DEFAULT_MAX_MESSAGE_SIZE
    await gather_host_candidates(other)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    answer, changes = re.subn(r"max-message-size:\d+", f"max-message-size:{announced}", other.localDescription.sdp)
    assert changes == 1
    await one.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await asyncio.gather(connect(one), connect(other))
    assert max_message_size(channel) == taken
