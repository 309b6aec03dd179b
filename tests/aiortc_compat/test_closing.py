"""A connection closes its sockets, whatever its parts wait for."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from metered_realtime.aiortc_compat import closing as closing
from tests.support.patience import PATIENCE
from tests.support.peers import Room

TOUCHED = {
    "_RTCPeerConnection__isClosed": "test_a_receiver_that_does_not_stop_keeps_no_socket_and_no_task",
    "_RTCRtpReceiver__rtcp_task": "test_a_receiver_that_does_not_stop_keeps_no_socket_and_no_task",
    "_RTCRtpSender__rtcp_task": "test_a_receiver_that_does_not_stop_keeps_no_socket_and_no_task",
    "_RTCRtpSender__rtp_task": "test_a_receiver_that_does_not_stop_keeps_no_socket_and_no_task",
}
"""Every private name of aiortc in aiortc_compat/closing.py, and the test that watches it."""


def test_every_private_name_is_watched() -> None:
    source = re.sub(r'""".*?"""', "", Path(closing.__file__).read_text(), flags=re.DOTALL)
    assert set(re.findall(r'"(_RTC\w+)"', source)) == set(TOUCHED)
    assert set(TOUCHED.values()) <= set(globals())


async def test_a_receiver_that_does_not_stop_keeps_no_socket_and_no_task(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That every socket is closed is what `no_socket_left_behind` looks at."""
    monkeypatch.setattr(closing, "POLITE_CLOSE", 0.05)
    pair = await room.pair()
    await pair.media_to_b()
    await pair.media_to_a(90)

    async def never() -> None:
        await asyncio.get_running_loop().create_future()

    pc: Any = pair.to_a.pc
    senders = [it.sender for it in pc.getTransceivers()]
    receivers = [it.receiver for it in pc.getTransceivers()]
    tasks = [getattr(it, f"_RTCRtpSender__{name}") for it in senders for name in ("rtp_task", "rtcp_task")]
    tasks += [it._RTCRtpReceiver__rtcp_task for it in receivers]
    ice = pc.sctp.transport.transport
    stops = [it.stop for it in receivers]
    for receiver in receivers:
        receiver.stop = never
    await pair.b.close()
    assert ice.state == "closed"
    assert ice._connection._protocols == []
    started = [task for task in tasks if task is not None]
    assert started
    await asyncio.wait(started, timeout=PATIENCE)
    assert all(task.done() for task in started)
    await asyncio.wait_for(pc.close(), PATIENCE)
    await asyncio.gather(*(stop() for stop in stops))


async def test_a_close_that_is_cut_off_while_it_closes_the_sockets_leaves_none(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closing, "POLITE_CLOSE", 0.05)
    pair = await room.pair()
    await pair.media_to_b()
    ice: Any = pair.to_a.pc.sctp.transport.transport
    close, calls = ice._connection.close, 0

    async def slow_at_first() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.get_running_loop().create_future()
        await close()

    ice._connection.close = slow_at_first
    monitor = ice._RTCIceTransport__monitor_task
    await pair.b.close()
    assert calls == 2
    assert ice._connection._protocols == []
    await asyncio.wait_for(monitor, PATIENCE)
