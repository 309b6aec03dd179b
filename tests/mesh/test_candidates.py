"""Candidates that come after their description, and end markers that belong to another one."""

from __future__ import annotations

from metered_realtime import ConnectionReset, DataChannel, DCOpen, RemotePeer
from metered_realtime.core.sdp import ice_ufrag
from metered_realtime.core.signals import CandidateSignal, DescriptionSignal, Signal
from tests.mesh.support import Room, next_event


def trickle(remote: RemotePeer) -> None:
    """Make this end signal as browsers do: a bare description, its candidates one by one, the end."""
    connection = remote._connect()
    send = connection._send_signal

    async def send_in_pieces(signal: Signal) -> None:
        if not isinstance(signal, DescriptionSignal):
            await send(signal)
            return
        lines = signal.sdp.splitlines()
        candidates = dict.fromkeys(line[2:] for line in lines if line.startswith("a=candidate:"))
        bare = [line for line in lines if not line.startswith(("a=candidate:", "a=end-of-candidates"))]
        await send(DescriptionSignal(signal.kind, "\r\n".join(bare) + "\r\n"))
        for candidate in candidates:
            await send(CandidateSignal(candidate, "0", 0, ice_ufrag(signal.sdp)))
        await send(CandidateSignal(None))

    connection._send_signal = send_in_pieces


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
    pair.to_a._receive_signal(CandidateSignal(None))
    channel = DataChannel(pair.to_b.create_data_channel("late"))
    await next_event(channel, DCOpen)
    assert not pair.log_b.of(ConnectionReset)
