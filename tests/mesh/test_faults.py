"""What goes wrong between peers, and how they get over it."""

from __future__ import annotations

import asyncio
import sys
import textwrap
import threading
from typing import Any

import pytest

from metered_realtime import (
    ConnectionReset,
    Data,
    DataChannel,
    DataChannelOpened,
    DCClose,
    DCMessage,
    FatalError,
    IceCandidateError,
    IceRecoveryExhaustedError,
    MediaStream,
    MeteredPeer,
    MeteredRealtimeError,
    NegotiationError,
    PeerJoined,
    PeerLeft,
    Presence,
    ReconcileTimeoutError,
    ReconnectOptions,
    StateChange,
    Track,
)
from metered_realtime.core.negotiation import connection_recovery, ladder, negotiator
from metered_realtime.core.negotiation.signals import GREETING
from metered_realtime.errors import ServerRequestError
from metered_realtime.log import NoopLogger
from metered_realtime.mesh import snapshot_watch
from metered_realtime.mesh.snapshot_watch import RECONCILE_RETRIES, RECONCILE_TIMEOUT, SnapshotWatch
from metered_realtime.server import Limits
from metered_realtime.server.resume import ResumeTokens
from tests.support.inside import aioice_of, connection_of, fail_connection, is_quiet, signalling_client
from tests.support.patience import PATIENCE
from tests.support.peer_fixtures import open_room
from tests.support.peers import (
    EventLog,
    GreyTrack,
    Pair,
    Room,
    Wire,
    ended,
    eventually,
    frames,
    fresh_frames,
    shows,
    state_of,
)
from tests.support.virtual_time import now, virtual_time

QUICK = ReconnectOptions(initial_delay=0.01, max_delay=0.05, max_attempts=1000)


def states(log: EventLog) -> list[str]:
    return [event.to for event in log.of(StateChange)]


async def chat(pair: Pair) -> tuple[DataChannel, DataChannel]:
    """Open a data channel from a to b, and return both ends."""
    mine = DataChannel(pair.to_b.create_data_channel("chat"))
    theirs = DataChannel((await pair.log_b.until(DataChannelOpened)).channel)
    await eventually(lambda: mine.ready_state == "open")
    return mine, theirs


def lose(monkeypatch: pytest.MonkeyPatch, peer: MeteredPeer, kind: str, count: int = 1) -> list[Any]:
    """Lose the first descriptions of a kind that a peer sends. Return what was lost."""
    send, lost = signalling_client(peer)._send_raw, []

    async def lossy(to: str, payload: Any) -> None:
        if f'"type":"{kind}"'.encode() in bytes(payload) and len(lost) < count:
            lost.append(payload)
        else:
            await send(to, payload)

    monkeypatch.setattr(signalling_client(peer), "_send_raw", lossy)
    return lost


def resend_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have unanswered offers sent again soon, as often as it takes."""
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 0.3)
    monkeypatch.setattr(negotiator, "MAX_OFFER_RESENDS", 10_000)


@pytest.mark.parametrize("kind", ["offer", "answer"])
async def test_a_description_that_is_lost_is_sent_again(room: Room, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    resend_soon(monkeypatch)
    pair = await room.pair()
    lost = lose(monkeypatch, pair.a if kind == "offer" else pair.b, kind)
    await pair.media_to_b()
    assert len(lost) == 1
    for log in (pair.log_a, pair.log_b):
        assert log.of(ConnectionReset) == log.of(NegotiationError) == []


async def test_metadata_that_is_lost_with_its_offer_is_told_again(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    resend_soon(monkeypatch)
    pair = await room.pair()
    send, lost = signalling_client(pair.a)._send_raw, []

    async def lossy(to: str, payload: Any) -> None:
        if len(lost) < 2 and GREETING.track_id.encode() not in bytes(payload):
            lost.append(bytes(payload))
        else:
            await send(to, payload)

    monkeypatch.setattr(signalling_client(pair.a), "_send_raw", lossy)
    pair.a.add_track(GreyTrack(), metadata={"name": "camera"})
    assert (await pair.log_b.until(Track)).metadata == {"name": "camera"}
    assert b"__meteredTrackMeta" in lost[0]
    assert b'"offer"' in lost[1]


async def test_an_answer_that_is_lost_in_mid_call_disturbs_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    resend_soon(monkeypatch)
    pair = await room.pair()
    _, first = await pair.media_to_b(60)
    lost = lose(monkeypatch, pair.b, "answer")
    _, second = await pair.media_to_b(200)
    await shows(first, 60)
    await fresh_frames(first)
    await fresh_frames(second)
    assert len(lost) == 1
    assert pair.log_b.of(ConnectionReset) == []


async def test_an_end_that_never_answers_is_given_up_and_tried_afresh(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 0.1)
    pair = await room.pair()
    lost = lose(monkeypatch, pair.b, "answer", negotiator.MAX_OFFER_RESENDS + 1)
    pair.a.add_track(GreyTrack())
    await pair.log_a.until(ConnectionReset)
    await eventually(lambda: len(lost) == negotiator.MAX_OFFER_RESENDS + 1)
    await frames((await pair.log_b.until(Track, 2)).track)
    await pair.connected()


async def test_a_pair_that_cannot_be_repaired_ends_in_one_typed_event_and_a_sign_of_life_revives_it(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 0.02)
    monkeypatch.setattr(ladder, "LADDER", (0.0, 0.01, 0.01))
    monkeypatch.setattr(connection_recovery, "CONNECT_TIMEOUT", 10 * PATIENCE)  # b takes its answers to have arrived
    pair = await room.pair()
    every_one = 1_000
    lost = lose(monkeypatch, pair.b, "answer", every_one)
    pair.a.add_track(GreyTrack(60))
    error = (await pair.log_a.until(NegotiationError)).err
    assert isinstance(error, IceRecoveryExhaustedError)
    assert error.attempts == 3
    assert 0 < error.seconds < PATIENCE
    assert len(lost) >= 4 * (negotiator.MAX_OFFER_RESENDS + 1)
    await settled(pair.to_b)
    assert len(pair.log_a.of(NegotiationError)) == 1
    assert len(pair.log_a.of(ConnectionReset)) == 3
    assert pair.to_b.state == "connecting"
    lost.extend([None] * every_one)  # from here on answers arrive, and are waited for
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", PATIENCE)
    pair.b.add_track(GreyTrack(200))
    fail_connection(pair.to_a)
    await shows((await pair.log_a.until(Track)).track, 200)
    await pair.connected()
    assert len(pair.log_a.of(NegotiationError)) == 1


async def settled(remote: Any) -> None:
    """Return once a connection has nothing left to do."""
    await eventually(lambda: is_quiet(remote))


async def test_a_server_that_never_says_who_is_there_is_asked_again_and_then_told(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_watch, "RECONCILE_TIMEOUT", 0.1)
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url, reconnect=QUICK), room.peer("b"))
        client, seen = signalling_client(pair.a), EventLog(pair.a)
        emit, asked = client.emit, []

        def without_presence(event: Any) -> None:
            asked.append(event) if isinstance(event, Presence) else emit(event)

        monkeypatch.setattr(client, "emit", without_presence)
        wire.break_off(told=True)
        event = await seen.until(FatalError)
        assert isinstance(event.err, ReconcileTimeoutError)
        assert event.code == "reconcile_timeout"
        assert pair.a.state == "reconnecting"
        assert len([it for it in asked if it.joined]) == 1 + snapshot_watch.RECONCILE_RETRIES
        monkeypatch.setattr(client, "emit", emit)
        wire.break_off(told=True)
        await state_of(pair.a, "joined")
        assert pair.a.remote_peers == [pair.to_b]
        await pair.a.close()


GARBAGE = {
    "nothing": "",
    "noise": "\x00\xff lorem ipsum",
    "no sections": "v=0\r\na=ice-ufrag:abcd\r\n",
    "no fragment": "v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n",
    "no credentials": "v=0\r\na=ice-ufrag:abcd\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n",
    "a mid twice": "v=0\r\na=ice-ufrag:abcd\r\n" + "m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:0\r\n" * 2,
    "too many sections": "v=0\r\na=ice-ufrag:abcd\r\n" + "m=video 9 X 96\r\na=mid:0\r\n" * 300,
    "a broken port": "v=0\r\na=ice-ufrag:abcd\r\nm=video x y z\r\na=mid:0\r\n",
}


def description(kind: str, sdp: str) -> dict[str, Any]:
    return {"type": "rtc-description", "description": {"type": kind, "sdp": sdp}}


@pytest.mark.parametrize("kind", ["offer", "answer"])
async def test_garbage_is_told_and_the_pair_goes_on(room: Room, kind: str) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b(60)
    for sdp in GARBAGE.values():
        await pair.a.send_to("b", description(kind, sdp))
    await pair.log_b.until(NegotiationError, len(GARBAGE))
    await fresh_frames(received)
    await pair.media_to_a(200)
    assert pair.log_b.of(ConnectionReset) == []


async def test_garbage_to_an_idle_end_is_told_and_the_pair_works_afterwards(room: Room) -> None:
    pair = await room.pair()
    for sdp in GARBAGE.values():
        await pair.a.send_to("b", description("offer", sdp))
    await pair.log_b.until(NegotiationError, len(GARBAGE))
    await pair.media_to_b()
    await pair.media_to_a()


async def test_an_answer_that_nobody_asked_for_is_dropped(room: Room) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b()
    await pair.b.send_to("a", description("answer", pair.to_a.pc.localDescription.sdp))
    await pair.media_to_a()
    await fresh_frames(received)
    assert pair.log_a.of(NegotiationError) == pair.log_a.of(ConnectionReset) == []


async def test_a_hostile_offer_costs_the_connection_at_most_and_it_comes_back(room: Room) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b(60)
    real = pair.to_b.pc.localDescription.sdp
    fewer = real[: real.index("m=video")].replace("BUNDLE 0 1", "BUNDLE 0")
    codecs = real.replace("VP8/90000", "XX8/90000").replace("H264/90000", "XX4/90000")
    for number, hostile in enumerate((fewer, codecs), 1):
        await pair.a.send_to("b", description("offer", hostile))
        await pair.log_b.until(NegotiationError, number)
        received = (await pair.log_b.until(Track, number + 1)).track
        await shows(received, 60)
    await pair.media_to_a(200)


async def test_hostile_candidates_are_told_and_harmless(room: Room) -> None:
    pair = await room.pair()
    _, received = await pair.media_to_b()
    for text in ("candidate:x", "lorem", "candidate:" + "9" * 2_000, "candidate:1 1 udp 1 nowhere 1 typ host"):
        await pair.a.send_to("b", {"type": "rtc-ice", "candidate": {"candidate": text, "sdpMid": "0"}})
    await pair.log_b.until(IceCandidateError, 3)
    for candidate in ({"candidate": ""}, None):
        await pair.a.send_to("b", {"type": "rtc-ice", "candidate": candidate})
    await fresh_frames(received)


async def test_candidates_are_taken_in_limits() -> None:
    async with open_room(limits=Limits(frame_burst=1_000)) as room:
        pair = await room.pair()
        for number in range(199):
            text = f"candidate:{number} 1 udp 1 192.0.2.1 {10_000 + number} typ host"
            await pair.a.send_to("b", {"type": "rtc-ice", "candidate": {"candidate": text}})
        assert pair.log_b.of(IceCandidateError) == []
        for number in range(3):
            text = f"candidate:{number} 1 udp 1 192.0.2.2 {10_000 + number} typ host"
            await pair.a.send_to("b", {"type": "rtc-ice", "candidate": {"candidate": text}})
        await pair.log_b.until(IceCandidateError, 2)


@pytest.mark.parametrize(
    "data",
    [
        {"type": "rtc-description"},
        {"type": "rtc-description", "description": {"type": "rollback", "sdp": ""}},
        {"type": "rtc-description", "description": {"type": "offer", "sdp": 7}},
        {"type": "rtc-ice"},
        {"type": "rtc-ice", "candidate": 7},
        {"__meteredTrackMeta": {"trackId": ""}},
        {"__meteredTrackMeta": []},
    ],
)
async def test_what_only_resembles_a_signal_is_data(room: Room, data: Any) -> None:
    pair = await room.pair()
    log = EventLog(pair.b)
    await pair.a.send_to("b", data)
    assert (await log.until(Data)).data == data


async def test_signals_that_come_before_presence_are_held_and_used(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negotiator, "OFFER_TIMEOUT", 10 * PATIENCE)  # nothing comes but what was held
    one, other = room.peer("a"), room.peer("b")
    await one.join("room")
    late: list[Any] = []
    real = signalling_client(one).emit
    seen = EventLog(other)

    def hold_presence(event: Any) -> None:
        if type(event).__name__ == "Presence" and event.joined:
            late.append(event)
        else:
            real(event)

    monkeypatch.setattr(signalling_client(one), "emit", hold_presence)
    other.add_track(GreyTrack(60), metadata={"n": 1})
    await other.join("room")
    await seen.until(PeerJoined)
    await eventually(lambda: late and one._remotes._held._by_id)
    await state_of(other.remote_peers[0], "connecting")
    log = None

    def watch(event: PeerJoined) -> None:
        nonlocal log
        log = EventLog(event.peer)

    one.on(PeerJoined, watch)
    await eventually(lambda: len(one._remotes._held._by_id["b"].signals) >= 2)
    real(late[0])
    assert log is not None
    event = await log.until(Track)
    assert event.metadata == {"n": 1}
    await frames(event.track)


async def test_a_process_that_vanishes_is_gone(room: Room) -> None:
    program = textwrap.dedent(
        f"""
        import asyncio
        from metered_realtime import MeteredPeer, MediaStream
        from metered_realtime.media.sources.testsource import PatternTrack

        async def main():
            peer = MeteredPeer(api_key={room.server.api_key!r}, url={room.server.url!r})
            track = PatternTrack(width=160, height=120, fps=20)
            peer.add_track(track, MediaStream([track]))
            await peer.join("room")
            await asyncio.Event().wait()

        asyncio.run(main())
        """
    )
    peer = room.peer()
    seen = EventLog(peer)
    await peer.join("room")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    try:
        remote = (await seen.until(PeerJoined)).peer
        received = (await EventLog(remote).until(Track)).track
        await frames(received)
    finally:
        process.kill()
        await process.wait()
        await eventually(lambda: not any(it.name.startswith("asyncio-waitpid") for it in threading.enumerate()))
    assert (await seen.until(PeerLeft)).peer is remote
    await ended(received)
    assert (remote.state, peer.remote_peers) == ("closed", [])


@pytest.mark.parametrize("closing_end", ["a", "b"])
async def test_a_connection_that_is_closed_under_our_feet_comes_back(room: Room, closing_end: str) -> None:
    pair = await room.pair()
    await pair.media_to_b(60)
    _, in_a = await pair.media_to_a(200)
    metadata_before = pair.log_b.of(Track)[0].metadata
    mine, theirs = await chat(pair)
    closed = EventLog(mine), EventLog(theirs)
    before = pair.to_a.pc, pair.to_b.pc
    await (pair.to_b if closing_end == "a" else pair.to_a).pc.close()
    await pair.log_a.until(ConnectionReset)
    await pair.log_b.until(ConnectionReset)
    await shows((await pair.log_b.until(Track, 2)).track, 60)
    await shows((await pair.log_a.until(Track, 2)).track, 200)
    await pair.connected()
    await ended(in_a)
    assert {pair.to_a.pc, pair.to_b.pc}.isdisjoint(before)
    for log in closed:
        await log.until(DCClose)
    for log in (pair.log_a, pair.log_b):
        assert states(log)[:2] == ["connecting", "connected"]
        assert set(states(log)[2:]) == {"reconnecting", "connected"}
        assert "StreamRemoved" not in log.kinds()
    assert pair.log_b.of(Track)[1].metadata == metadata_before
    pair.to_b.create_data_channel("again")
    await pair.log_b.until(DataChannelOpened, 2)


async def test_a_connection_can_be_lost_several_times_in_a_row(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b(60)
    for count in (2, 3):
        await pair.to_b.pc.close()
        await shows((await pair.log_b.until(Track, count)).track, 60)
        await pair.connected()


async def test_a_data_channel_that_never_opened_closes_with_its_connection(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = await room.pair()
    lose(monkeypatch, pair.b, "answer", 1)
    orphan = DataChannel(pair.to_b.create_data_channel("orphan"))
    log = EventLog(orphan)
    await state_of(pair.to_a, "connecting")
    await pair.to_b.pc.close()
    await log.until(DCClose)
    assert orphan.ready_state == "closed"
    with pytest.raises(MeteredRealtimeError):
        await orphan.send("x")
    await pair.media_to_b()


async def test_leaving_in_the_middle_of_a_recovery_leaves_nothing_behind(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    old = connection_of(pair.to_b).peer_connection
    await pair.to_b.pc.close()
    await pair.log_a.until(ConnectionReset)
    await pair.a.close()
    assert old._closing.done()  # type: ignore[union-attr]
    await pair.b.close()


# --- signalling


async def test_a_reconnect_that_the_others_do_not_notice_keeps_the_connection(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url, reconnect=QUICK), room.peer("b"))
        _, received = await pair.media_to_b(60)
        mine, theirs = await chat(pair)
        messages = EventLog(theirs)
        peer_log = EventLog(pair.a)
        remotes, pcs = pair.a.remote_peers, (pair.to_a.pc, pair.to_b.pc)
        seen_by_b = EventLog(pair.b)
        wire.block()
        wire.break_off(told=False)
        await state_of(pair.a, "reconnecting")
        assert pair.to_b.state == "reconnecting"
        await mine.send("in between")
        await messages.until(DCMessage, data="in between")
        await fresh_frames(received)
        late = GreyTrack(200)
        pair.a.add_track(late, metadata={"late": True})
        wire.unblock()
        await state_of(pair.a, "joined")
        assert pair.a.remote_peers == remotes
        assert (pair.to_a.pc, pair.to_b.pc) == pcs
        await mine.send("afterwards")
        await messages.until(DCMessage, data="afterwards")
        event = await pair.log_b.until(Track, 2)
        assert event.metadata == {"late": True}, "what was added meanwhile is told with its metadata"
        await shows(event.track, 200)
        assert states(pair.log_a) == ["connecting", "connected", "reconnecting", "connected"]
        assert states(pair.log_b) == ["connecting", "connected"]
        assert [event.to for event in peer_log.of(StateChange)] == ["reconnecting", "joined"]
        assert "PeerJoined" not in peer_log.kinds() + seen_by_b.kinds()
        assert pair.log_a.of(ConnectionReset) == pair.log_b.of(ConnectionReset) == []
        await pair.a.close()


@pytest.mark.parametrize("victim", ["a", "b"])
async def test_a_reconnect_that_the_others_do_notice_keeps_the_connection_too(room: Room, victim: str) -> None:
    async with Wire(room.server.port) as wire:
        urls = {victim: wire.url}
        one, other = (room.peer(name, url=urls.get(name), reconnect=QUICK) for name in "ab")
        pair = await room.meet(one, other)
        _, in_b = await pair.media_to_b(60)
        _, in_a = await pair.media_to_a(200)
        lost, survivor = (pair.a, pair.b) if victim == "a" else (pair.b, pair.a)
        to_lost = pair.to_a if victim == "a" else pair.to_b
        pcs, remotes = (pair.to_a.pc, pair.to_b.pc), (pair.a.remote_peers, pair.b.remote_peers)
        seen = EventLog(survivor)
        wire.block()
        wire.break_off(told=True)
        await state_of(to_lost, "reconnecting")
        await asyncio.gather(fresh_frames(in_a), fresh_frames(in_b))
        wire.unblock()
        await state_of(lost, "joined")
        await state_of(pair.to_a, "connected")
        await state_of(pair.to_b, "connected")
        await asyncio.gather(fresh_frames(in_a), fresh_frames(in_b))
        assert (pair.to_a.pc, pair.to_b.pc) == pcs
        assert (pair.a.remote_peers, pair.b.remote_peers) == remotes
        assert seen.events == []
        for log in (pair.log_a, pair.log_b):
            assert not log.of(ConnectionReset)
            assert states(log)[-3:] == ["connected", "reconnecting", "connected"]
        await pair.a.close()
        await pair.b.close()


async def test_another_program_under_the_same_id_gets_a_connection_of_its_own(room: Room) -> None:
    """The one before ended without a word, and the next one came before that was noticed."""
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url, reconnect=False), room.peer("b"))
        await pair.media_to_a(60)
        old, seen = pair.to_a.pc, EventLog(pair.b)
        for protocol in aioice_of(pair.to_b.pc)._protocols:
            protocol.transport.abort()  # as if the process had been killed: nothing is told
        wire.break_off(told=True)
        await state_of(pair.to_a, "reconnecting")
        again = room.peer("a")
        logs: list[EventLog] = []
        again.on(PeerJoined, lambda event: logs.append(EventLog(event.peer)))
        await again.join("room")
        await eventually(lambda: logs)
        log = logs[0]
        await shows((await log.until(Track)).track, 60)
        assert pair.to_a.pc is not old
        assert len(pair.log_b.of(ConnectionReset)) == 1
        assert seen.events == []
        await pair.a.close()
        await again.close()
        await pair.b.close()


async def test_a_reconnect_under_another_id_brings_everything_back(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResumeTokens, "read", lambda *_: None)  # a server that cannot resume
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer(url=wire.url, reconnect=QUICK), room.peer("b"))
        track = GreyTrack(60)
        pair.a.add_track(track, MediaStream([track]), {"n": 1})
        await shows((await pair.log_b.until(Track)).track, 60)
        await pair.media_to_a(200)
        before = pair.a.peer_id
        seen = EventLog(pair.b)
        wire.break_off(told=True)
        new = (await seen.until(PeerJoined)).peer
        new_log = EventLog(new)
        await state_of(pair.a, "joined")
        assert pair.a.peer_id == new.id != before
        assert pair.a.remote_peers == [pair.to_b]
        assert pair.to_b.polite != new.polite
        assert pair.to_b.polite == (pair.a.peer_id < "b")
        event = await new_log.until(Track)
        assert event.metadata == {"n": 1}
        await shows(event.track, 60)
        await shows((await pair.log_a.until(Track, 2)).track, 200)
        await pair.a.close()


async def test_a_server_that_restarts_brings_everybody_back(room: Room) -> None:
    pair = await room.meet(room.peer("a", reconnect=QUICK), room.peer("b", reconnect=QUICK))
    seen = EventLog(pair.a)
    await room.server.stop()
    await state_of(pair.a, "reconnecting")
    await state_of(pair.b, "reconnecting")
    await room.server.start()
    await state_of(pair.a, "joined")
    await state_of(pair.b, "joined")
    await eventually(lambda: pair.a.remote_peers and pair.b.remote_peers)
    pair = Pair(pair.a, pair.a.remote_peers[0], pair.b, pair.b.remote_peers[0])
    await pair.media_to_b(60)
    await pair.media_to_a(200)
    assert "FatalError" not in seen.kinds()


async def test_who_finds_a_restarted_server_much_later_keeps_the_connection() -> None:
    limits = Limits(return_time=0.001)  # a server that was restarted does not know who may return
    async with open_room(limits=limits) as room, Wire(room.server.port) as wire_a, Wire(room.server.port) as wire_b:
        quick = {"reconnect": QUICK}
        pair = await room.meet(room.peer("a", url=wire_a.url, **quick), room.peer("b", url=wire_b.url, **quick))
        _, received = await pair.media_to_b(60)
        seen_by_a = EventLog(pair.a)
        for wire in (wire_a, wire_b):
            wire.block()
            wire.break_off(told=True)
        await asyncio.gather(state_of(pair.a, "reconnecting"), state_of(pair.b, "reconnecting"))
        wire_a.unblock()
        await state_of(pair.a, "joined")
        assert pair.to_b.state == "reconnecting"
        await fresh_frames(received, 20)
        wire_b.unblock()
        await state_of(pair.to_b, "connected")
        assert not seen_by_a.of(PeerLeft)
        assert not pair.log_b.of(ConnectionReset)
        await pair.a.close()
        await pair.b.close()


async def test_a_remote_without_presence_can_be_hung_up_from_here(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a"), room.peer("b", url=wire.url, reconnect=QUICK))
        await pair.media_to_b(60)
        await pair.connected()
        seen_by_a = EventLog(pair.a)
        wire.block()
        wire.break_off(told=True)
        await state_of(pair.to_b, "reconnecting")
        assert not seen_by_a.of(PeerLeft)
        await pair.to_b.pc.close()
        await seen_by_a.until(PeerLeft, peer=pair.to_b)
        wire.unblock()
        await pair.b.close()


async def test_an_end_whose_remote_noticed_first_does_not_read_connected_on_a_dead_link(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    await pair.connected()
    fail_connection(pair.to_b)
    await pair.log_b.until(ConnectionReset)
    await pair.connected()
    assert states(pair.log_b)[-2:] == ["reconnecting", "connected"]


async def test_remotes_without_a_connection_stay_idle_over_a_reconnect(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url, reconnect=QUICK), room.peer("b"))
        wire.break_off(told=False)
        await state_of(pair.a, "reconnecting")
        assert pair.to_b.state == "idle"
        await state_of(pair.a, "joined")
        assert (pair.to_b.state, pair.log_a.events) == ("idle", [])
        await pair.media_to_b()
        await pair.a.close()


async def test_who_left_meanwhile_is_gone_after_a_reconnect(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url, reconnect=QUICK), room.peer("b"))
        seen = EventLog(pair.a)
        wire.block()
        wire.break_off(told=True)
        await state_of(pair.a, "reconnecting")
        await pair.b.close()
        newcomer = room.peer("c")
        await newcomer.join("room")
        wire.unblock()
        await state_of(pair.a, "joined")
        assert [remote.id for remote in pair.a.remote_peers] == ["c"]
        assert [kind for kind in seen.kinds() if kind.startswith("Peer")] == ["PeerLeft", "PeerJoined"]
        await pair.a.close()


@virtual_time
@pytest.mark.parametrize("code", ["backend_error", "internal_error", "rate_limited"])
async def test_a_server_that_cannot_serve_the_channel_yet_is_asked_on(code: str) -> None:
    outage = 10
    asked: list[float] = []
    gave_up = asyncio.Event()

    async def subscribe() -> None:
        asked.append(now())
        if len(asked) <= outage:
            raise ServerRequestError(code)

    watch = SnapshotWatch(subscribe, gave_up.set, NoopLogger())
    watch.start()
    await gave_up.wait()
    uncounted = 0 if code == "rate_limited" else outage
    assert len(asked) == uncounted + RECONCILE_RETRIES
    assert now() - asked[-1] == RECONCILE_TIMEOUT
    watch.stop()
