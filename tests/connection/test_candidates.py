"""Candidates that come after their description, and end markers that belong to another one."""

from __future__ import annotations

from typing import Any

from aiortc import RTCPeerConnection, RTCSessionDescription

from metered_realtime import ConnectionReset, DataChannel, DCOpen, NoopLogger, RemotePeer
from metered_realtime.connection.peer_connection import PeerConnection
from metered_realtime.core.negotiation.sdp import Description, ice_ufrag
from metered_realtime.core.negotiation.signals import CandidateSignal, DescriptionSignal, Signal
from tests.connection.test_descriptions import Observer
from tests.support.inside import receive_signal
from tests.support.peers import Room, eventually, next_event


def without_candidates(sdp: str) -> tuple[str, list[str]]:
    """Return a description as browsers send it, and the candidates that were in it."""
    lines = sdp.splitlines()
    bare = [line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
    candidates = dict.fromkeys(line[2:] for line in lines if line.startswith("a=candidate:"))
    return "\r\n".join(bare) + "\r\n", list(candidates)


def trickle(remote: RemotePeer) -> None:
    """Make this end signal as browsers do: a bare description, its candidates one by one, the end."""
    signaller: Any = remote._connect()._delivery._signaller
    send = signaller.send_signal

    async def send_in_pieces(signal: Signal) -> None:
        if not isinstance(signal, DescriptionSignal):
            await send(signal)
            return
        bare, candidates = without_candidates(signal.sdp)
        await send(DescriptionSignal(signal.kind, bare))
        for candidate in candidates:
            await send(CandidateSignal(candidate, "0", 0, ice_ufrag(signal.sdp)))
        await send(CandidateSignal(None))

    signaller.send_signal = send_in_pieces


async def test_candidates_may_come_after_their_description(room: Room) -> None:
    pair = await room.pair()
    trickle(pair.to_b)
    trickle(pair.to_a)
    channel = DataChannel(pair.to_a.create_data_channel("trickled"))
    await next_event(channel, DCOpen)


async def test_an_end_marker_of_a_connection_that_was_given_up_does_not_end_the_next_one(room: Room) -> None:
    """A browser that gives way on a fresh connection has sent the end marker of the first one before."""
    pair = await room.pair()
    trickle(pair.to_b)
    receive_signal(pair.to_a, CandidateSignal(None))
    channel = DataChannel(pair.to_b.create_data_channel("late"))
    await next_event(channel, DCOpen)
    assert not pair.log_b.of(ConnectionReset)


async def test_an_end_marker_does_not_overtake_candidates_that_came_before_their_description() -> None:
    other, peer_connection = RTCPeerConnection(), PeerConnection(Observer(), NoopLogger())
    other.createDataChannel("x")
    await other.setLocalDescription(await other.createOffer())
    bare, candidates = without_candidates(other.localDescription.sdp)
    for candidate in candidates:
        await peer_connection.add_candidate(candidate, ice_ufrag(bare))
    answer, _ = await peer_connection.answer(Description.parse("offer", bare), {})
    await peer_connection.add_candidate(
        "candidate:9 1 tcp 1518214911 127.0.0.1 9 typ host tcptype active", ice_ufrag(bare)
    )
    await peer_connection.add_candidate(None, ice_ufrag(bare))
    await other.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await eventually(lambda: other.connectionState == peer_connection.pc.connectionState == "connected")
    await peer_connection.close()
    await other.close()
