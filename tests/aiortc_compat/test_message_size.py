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
from tests.aiortc_compat.support.bare_connections import make, plain
from tests.aiortc_compat.support.private_names import private_names
from tests.support.peers import eventually

TOUCHED = {"_remote_max_message_size": "test_a_remote_that_names_no_size_gets_less_than_64_kilobytes"}
"""Every private name in aiortc_compat/message_size.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    """Without the one that there is every remote takes what RFC 8841 says, less a byte."""
    assert private_names(message_size) == set(TOUCHED)
    assert max_message_size(object()) == DEFAULT_MAX_MESSAGE_SIZE == 65_535


async def test_a_remote_that_names_no_size_gets_less_than_64_kilobytes(pcs: list[RTCPeerConnection]) -> None:
    """pion closes a channel on a message of exactly 65,536 bytes."""
    one, other = make(pcs), plain(pcs)
    channel = one.createDataChannel("x")
    received: list[bytes] = []
    other.on("datachannel", lambda theirs: theirs.on("message", received.append))
    await gather_host_candidates(one)
    await one.setLocalDescription(await one.createOffer())
    await other.setRemoteDescription(one.localDescription)
    await other.setLocalDescription(await other.createAnswer())
    answer = re.sub(r"a=max-message-size:\d+\r\n", "", other.localDescription.sdp)
    await one.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await connect(one)
    await eventually(lambda: channel.readyState == "open")
    assert max_message_size(channel) == 65_535
    with pytest.raises(ValueError, match="65535"):
        channel.send(bytes(65_536))
    channel.send(bytes(65_535))
    await eventually(lambda: [len(it) for it in received] == [65_535])


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
