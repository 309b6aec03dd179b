"""Two programs of one person, each in a channel of its own: one peer id, two connections to the server."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metered_realtime import ConnectionReset, Data, MediaStream, MeteredPeer, NegotiationError, PeerJoined, Track
from metered_realtime.core.negotiation.signals import CandidateSignal, DescriptionSignal, MetadataSignal, parse_signal
from tests.support.foreign import ForeignPeer
from tests.support.inside import signalling_client
from tests.support.peers import EventLog, GreyTrack, Room, eventually, fresh_frames, shows

LEVELS = {("a", "red"): 40, ("a", "blue"): 90, ("b", "red"): 140, ("b", "blue"): 200}


class Programs:
    """Persons `a` and `b` in the channels `red` and `blue`, and how each program sees the other of its channel."""

    def __init__(self, room: Room) -> None:
        self.peers = {key: room.peer(key[0]) for key in LEVELS}
        self.logs: dict[tuple[str, str], EventLog] = {}

    async def meet(self) -> None:
        seen = {key: EventLog(peer) for key, peer in self.peers.items()}
        for (_, channel), peer in self.peers.items():
            await peer.join(channel)
        for key, log in seen.items():
            self.logs[key] = EventLog((await log.until(PeerJoined)).peer)

    def other(self, key: tuple[str, str]) -> tuple[str, str]:
        return ("b" if key[0] == "a" else "a"), key[1]


@pytest.fixture
async def programs(room: Room) -> Programs:
    programs = Programs(room)
    await programs.meet()
    return programs


async def test_calls_in_both_channels_flow_and_stay(programs: Programs) -> None:
    for key, peer in programs.peers.items():
        track = GreyTrack(LEVELS[key])
        peer.add_stream(MediaStream([track]), {"level": LEVELS[key]})
    received = {}
    for key, level in LEVELS.items():
        event = await programs.logs[programs.other(key)].until(Track)
        assert event.metadata == {"level": level}
        received[key] = event.track
        await shows(event.track, level)
    for key, track in received.items():
        await fresh_frames(track)
        assert programs.logs[key].of(ConnectionReset) == programs.logs[key].of(NegotiationError) == []
        assert len(programs.logs[key].of(Track)) == 1
    assert all(peer.stats().signals_ignored > 0 for peer in programs.peers.values())


async def test_calls_through_the_server_reach_the_program_in_their_channel(programs: Programs) -> None:
    for (name, channel), peer in programs.peers.items():
        peer.register_rpc_method("who", lambda call, it=f"{name} in {channel}": it)
    for (name, channel), peer in programs.peers.items():
        answers = [
            await peer.remote_peers[0].rpc.using(via="server").perform("who", "", 10.0),
            await peer.remote_peers[0].rpc.using(via="server").perform("who", "", 10.0),
        ]
        assert answers == [f"{'b' if name == 'a' else 'a'} in {channel}"] * 2


async def test_messages_of_a_program_go_to_every_connection_whatever_they_look_like(programs: Programs) -> None:
    logs = [EventLog(programs.peers["b", channel]) for channel in ("red", "blue")]
    await programs.peers["a", "red"].send_to("b", {"channel": "red", "text": "hello"})
    for log in logs:
        assert (await log.until(Data)).data == {"channel": "red", "text": "hello"}


async def test_every_signal_names_its_channel_and_one_of_another_implementation_need_not(room: Room) -> None:
    ours, track = room.peer("m"), GreyTrack()
    sent = noted(ours)
    ours.add_track(track, MediaStream([track]), {"title": "x"})
    await ours.join("room")
    theirs = await ForeignPeer.join(room.server, "z")  # knows no channel in signals
    await eventually(lambda: theirs.pc.connectionState == "connected")
    assert {type(parse_signal(data)) for data in sent} >= {DescriptionSignal, MetadataSignal}
    assert {data.get("channel") for data in sent} == {"room"}
    await theirs.close()


@pytest.mark.parametrize("signal", [DescriptionSignal("offer", "v=0"), CandidateSignal(None), MetadataSignal("t", {})])
async def test_what_is_for_another_channel_changes_nothing_and_is_counted(room: Room, signal: Any) -> None:
    ours = room.peer("n")
    log = EventLog(ours)
    await ours.join("room")
    theirs = await ForeignPeer.join(room.server, "z")
    remote = (await log.until(PeerJoined)).peer
    for count in (1, 2):
        await theirs.request(type="send", to="n", data={**signal.payload(), "channel": "elsewhere"})
        await eventually(lambda count=count: ours.stats().signals_ignored == count)
    assert remote.state == "idle"
    assert log.of(Data) == []
    await theirs.close()


def noted(peer: MeteredPeer) -> list[dict[str, Any]]:
    """Return what a peer sends to others through the server, as it grows."""
    send, sent = signalling_client(peer)._send_raw, []

    async def note(to: str, payload: Any) -> None:
        sent.append(json.loads(bytes(payload)))
        await send(to, payload)

    signalling_client(peer)._send_raw = note  # type: ignore[method-assign]
    return sent
