"""Joining, meeting, sending through the server, leaving."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from metered_realtime import (
    Data,
    DisconnectedError,
    FatalError,
    Joined,
    Left,
    MediaStream,
    MeteredPeer,
    MeteredPeerOversizedError,
    MeteredPeerSendError,
    MeteredPeerStateError,
    MeteredRealtimeError,
    PeerJoined,
    PeerLeft,
    ReconnectOptions,
    RemotePeer,
    ServerRequestError,
    SignallingConnectError,
    StateChange,
    WsCloseCode,
)
from metered_realtime.server import SignallingServer
from tests.support.inside import signalling_client
from tests.support.patience import PATIENCE, takes_less_than
from tests.support.peers import EventLog, GreyTrack, Room, Wire, eventually, next_event, state_of


def states(log: EventLog) -> list[tuple[str, str]]:
    return [(event.from_, event.to) for event in log.of(StateChange)]


@pytest.mark.smoke
async def test_everybody_hears_of_everybody_resident_and_newcomer(room: Room) -> None:
    peers = {name: room.peer(name) for name in "abc"}
    logs = {name: EventLog(peer) for name, peer in peers.items()}
    for peer in peers.values():
        await peer.join("room")
    for name, log in logs.items():
        await log.until(PeerJoined, 2)
        assert {event.peer.id for event in log.of(PeerJoined)} == set(peers) - {name}
        assert {remote.id for remote in peers[name].remote_peers} == set(peers) - {name}


async def test_joined_comes_first_and_in_peer_joined_one_can_send(room: Room) -> None:
    resident, newcomer = room.peer("a"), room.peer("b")
    for peer in (resident, newcomer):

        async def greet(event: PeerJoined, peer: MeteredPeer = peer) -> None:
            await peer.send_to(event.peer.id, "hello")

        peer.on(PeerJoined, greet)
    logs = EventLog(resident), EventLog(newcomer)
    await room.join(resident, newcomer)
    for log in logs:
        await log.until(PeerJoined)
        assert [kind for kind in log.kinds() if kind in ("Joined", "PeerJoined")] == ["Joined", "PeerJoined"]
    assert (await logs[0].until(Data)).sender_peer_id == "b"
    assert (await logs[1].until(Data)).sender_peer_id == "a"


async def test_join_tells_states_id_and_channel(room: Room) -> None:
    peer = room.peer("a")
    log = EventLog(peer)
    assert (peer.state, peer.peer_id, peer.channel, peer.remote_peers) == ("idle", None, None, [])
    await peer.join("room")
    assert (peer.state, peer.peer_id, peer.channel) == ("joined", "a", "room")
    assert states(log) == [("idle", "joining"), ("joining", "joined")]
    assert log.of(Joined) == [Joined("a", "room")]


async def test_a_server_chosen_id_is_told(room: Room) -> None:
    peer = room.peer()
    await peer.join("room")
    assert peer.peer_id


async def test_the_list_of_remotes_is_a_copy(room: Room) -> None:
    pair = await room.pair()
    pair.a.remote_peers.clear()
    assert pair.a.remote_peers == [pair.to_b]
    assert pair.to_b.id == "b"


async def test_politeness_follows_the_ids_and_the_ends_disagree(room: Room) -> None:
    pair = await room.pair()
    assert (pair.to_b.polite, pair.to_a.polite) == (True, False)


async def test_metadata_of_the_token_is_told(room: Room) -> None:
    one = room.peer("a")
    token = room.server.mint_token("b", peer_metadata={"role": "host"})
    other = MeteredPeer(token_provider=lambda: token, url=room.server.url)
    room.peers.append(other)
    pair = await room.meet(one, other)
    assert pair.to_b.metadata == {"role": "host"}
    assert pair.to_a.metadata is None


async def test_a_broadcast_reaches_the_others_only(room: Room) -> None:
    peers = [room.peer(name) for name in "abc"]
    logs = [EventLog(peer) for peer in peers]
    await room.join(*peers)
    await peers[0].send({"n": 1, "text": "größe"})
    for log in logs[1:]:
        assert await log.until(Data) == Data("a", {"n": 1, "text": "größe"}, "broadcast", None)
    await peers[1].send("end")
    await logs[0].until(Data)
    assert [event.data for event in logs[0].of(Data)] == ["end"]


async def test_a_direct_message_reaches_one(room: Room) -> None:
    peers = [room.peer(name) for name in "abc"]
    logs = [EventLog(peer) for peer in peers]
    await room.join(*peers)
    await peers[0].send_to("b", [1, 2])
    await logs[1].until(Data)
    await peers[0].send("end")
    await logs[2].until(Data)
    assert [(it.data, it.kind) for it in logs[1].of(Data)] == [([1, 2], "direct"), ("end", "broadcast")]
    assert [(it.data, it.kind) for it in logs[2].of(Data)] == [("end", "broadcast")]


async def test_a_remote_sends_like_the_peer(room: Room) -> None:
    pair = await room.pair()
    log = EventLog(pair.b)
    await pair.to_b.send(False)
    assert (await log.until(Data)) == Data("a", False, "direct", None)


async def test_who_shares_no_channel_can_still_send_a_direct_message(room: Room) -> None:
    one, other = room.peer("a"), room.peer("b")
    log = EventLog(other)
    await one.join("room")
    await other.join("elsewhere")
    await one.send_to("b", "hello")
    assert (await log.until(Data)).sender_peer_id == "a"


async def test_broadcasts_carry_the_metadata_of_the_sender_when_asked_for(room: Room) -> None:
    def peer(name: str) -> MeteredPeer:
        token = room.server.mint_token(name, peer_metadata={"name": name})
        made = MeteredPeer(token_provider=lambda: token, url=room.server.url)
        room.peers.append(made)
        return made

    sender, plain, curious = (peer(name) for name in "abc")
    logs = EventLog(plain), EventLog(curious)
    await room.join(sender, plain)
    await curious.join("room", include_sender_metadata=True)
    await sender.send(1)
    assert (await logs[0].until(Data)).sender_metadata is None
    assert (await logs[1].until(Data)).sender_metadata == {"name": "a"}
    await sender.send_to("b", 2)
    assert (await logs[0].until(Data, 2)).sender_metadata == {"name": "a"}, "always on direct messages"


async def test_data_that_looks_like_a_signal_arrives_when_broadcast(room: Room) -> None:
    pair = await room.pair()
    log = EventLog(pair.b)
    signal = {"type": "rtc-description", "description": {"type": "offer", "sdp": "x"}}
    await pair.a.send(signal)
    assert (await log.until(Data)).data == signal


@pytest.mark.parametrize("data", [None])
async def test_none_cannot_be_sent(room: Room, data: Any) -> None:
    pair = await room.pair()
    for send in (pair.a.send(data), pair.a.send_to("b", data), pair.to_b.send(data)):
        with pytest.raises(MeteredPeerSendError) as error:
            await send
        assert error.value.code == "invalid_args"


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("", "invalid_args"),
        (7, "invalid_args"),
        ("x" * 129, "invalid_args"),
        ("b\n", "invalid_args"),
        ("a", "self_send"),
    ],
)
async def test_send_to_refuses_what_is_no_other_peer(room: Room, target: Any, code: str) -> None:
    pair = await room.pair()
    with pytest.raises(MeteredPeerSendError) as error:
        await pair.a.send_to(target, "x")
    assert error.value.code == code


async def test_send_to_somebody_who_is_not_there_is_refused_by_the_server(room: Room) -> None:
    pair = await room.pair()
    with pytest.raises(ServerRequestError) as error:
        await pair.a.send_to("nobody", "x")
    assert error.value.code == "peer_not_found"


async def test_what_is_not_json_is_refused(room: Room) -> None:
    pair = await room.pair()
    for data in (object(), {1: {object()}}, float("nan")):
        with pytest.raises((TypeError, ValueError)):
            await pair.a.send(data)


async def test_size_is_counted_in_bytes_of_utf8(room: Room) -> None:
    pair = await room.pair()
    log = EventLog(pair.b)
    fits = "語" * 21_844 + "ab"  # three bytes each, and two quotes: 65,536
    await pair.a.send(fits)
    assert (await log.until(Data)).data == fits
    for send in (pair.a.send(fits + "c"), pair.a.send_to("b", fits + "c")):
        with pytest.raises(MeteredPeerOversizedError) as error:
            await send
        assert (error.value.size, error.value.cap) == (65_537, 65_536)
    await pair.a.send("still connected")
    await log.until(Data, 2)


async def test_sending_needs_a_joined_peer(room: Room) -> None:
    peer = room.peer("a")
    for _ in range(2):
        for send in (peer.send("x"), peer.send_to("b", "x"), peer.send_to("", "x")):
            with pytest.raises(MeteredPeerSendError) as error:
                await send
            assert error.value.code == "not_joined"
        await peer.close()


@pytest.mark.parametrize("channel", ["_metered/x", "_Internal/x", "_SYSTEM/x"])
async def test_reserved_channels_are_refused_before_anything_happens(room: Room, channel: str) -> None:
    peer = room.peer("a")
    log = EventLog(peer)
    with pytest.raises(MeteredPeerSendError) as error:
        await peer.join(channel)
    assert error.value.code == "reserved_channel"
    assert (peer.state, peer.channel, log.events) == ("idle", None, [])


@pytest.mark.parametrize(("channel", "expected"), [("", ValueError), ("x" * 257, ValueError), (None, TypeError)])
async def test_a_join_with_a_bad_name_fails_and_can_be_repeated(room: Room, channel: Any, expected: type) -> None:
    peer = room.peer("a")
    with pytest.raises(expected):
        await peer.join(channel)
    assert (peer.state, peer.channel) == ("idle", None)
    await peer.join("room")


async def invalid_state(call: Any, method: str, state: str) -> None:
    with pytest.raises(MeteredPeerStateError) as error:  # noqa: PT012 - some of them are async
        result = call()
        if result is not None:
            await result
    assert (error.value.code, error.value.method, error.value.current_state) == ("invalid_state", method, state)


async def test_methods_that_do_not_fit_the_state_say_so(room: Room) -> None:
    peer = room.peer("a")
    track = GreyTrack()
    stream = MediaStream([track])

    async def media_is_refused(state: str) -> None:
        await invalid_state(lambda: peer.add_stream(stream), "add_stream", state)
        await invalid_state(lambda: peer.add_track(track), "add_track", state)
        await invalid_state(lambda: peer.remove_stream(stream), "remove_stream", state)
        await invalid_state(lambda: peer.remove_track(track), "remove_track", state)
        await invalid_state(lambda: peer.replace_track(track, None), "replace_track", state)

    joining = asyncio.ensure_future(peer.join("room"))
    await next_event(peer, StateChange, to="joining")
    await invalid_state(lambda: peer.join("room"), "join", "joining")
    peer.add_track(track)
    peer.remove_track(track)
    await peer.replace_track(track, None)
    await joining
    await invalid_state(lambda: peer.join("room"), "join", "joined")
    leaving = asyncio.ensure_future(peer.close())
    await next_event(peer, StateChange, to="leaving")
    await media_is_refused("leaving")
    await invalid_state(lambda: peer.join("room"), "join", "leaving")
    await leaving
    await media_is_refused("closed")
    await invalid_state(lambda: peer.join("room"), "join", "closed")


async def test_while_reconnecting_media_can_be_added_but_not_replaced(room: Room) -> None:
    pair = await room.pair()
    track = GreyTrack()
    await room.server.stop()
    await state_of(pair.a, "reconnecting")
    await invalid_state(lambda: pair.a.join("room"), "join", "reconnecting")
    await invalid_state(lambda: pair.a.replace_track(track, None), "replace_track", "reconnecting")
    with pytest.raises(MeteredPeerSendError) as error:
        await pair.a.send("x")
    assert error.value.code == "not_joined"
    pair.a.add_track(track)
    pair.a.remove_track(track)


async def test_a_join_that_the_server_refuses_leaves_the_peer_idle_and_can_be_repeated(room: Room) -> None:
    token = room.server.mint_token("a", channels=["room"])
    peer = MeteredPeer(token_provider=lambda: token, url=room.server.url)
    room.peers.append(peer)
    log = EventLog(peer)
    with pytest.raises(ServerRequestError) as error:
        await peer.join("secret")
    assert error.value.code == "channel_not_authorized"
    assert (peer.state, peer.channel) == ("idle", None)
    await peer.join("room")
    assert states(log) == [("idle", "joining"), ("joining", "idle"), ("idle", "joining"), ("joining", "joined")]
    assert log.of(Left) == log.of(FatalError) == []


async def test_a_refused_channel_does_not_come_back_with_a_reconnect(room: Room) -> None:
    token = room.server.mint_token("a", channels=["room"])
    peer = MeteredPeer(token_provider=lambda: token, url=room.server.url)
    room.peers.append(peer)
    with pytest.raises(ServerRequestError):
        await peer.join("secret")
    await peer.join("room")
    assert signalling_client(peer).subscriptions == ("room",)


async def test_a_join_without_a_server_fails_and_works_once_it_is_there() -> None:
    server = SignallingServer(port=0)
    await server.start()
    await server.stop()
    peer = MeteredPeer(api_key=server.api_key, url=server.url)
    for _ in range(2):
        with pytest.raises(SignallingConnectError) as error:
            await peer.join("room")
        assert error.value.close_code == 1006
        assert (peer.state, peer.channel) == ("idle", None)
    async with server:
        await peer.join("room")
        assert peer.state == "joined"
        await peer.close()


async def test_a_cancelled_join_leaves_no_trace(room: Room) -> None:
    resident = room.peer("a")
    seen = EventLog(resident)
    await resident.join("room")
    for steps in range(1, 40):
        peer = room.peer(f"b{steps}")
        joining = asyncio.ensure_future(peer.join("room"))
        for _ in range(steps):
            await asyncio.sleep(0)
        if peer.state == "joined":
            break
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert (peer.state, peer.channel) == ("idle", None)
        assert signalling_client(peer).state in ("idle", "closed")
    await eventually(lambda: all(remote.id == peer.peer_id for remote in resident.remote_peers))
    await peer.close()
    again = room.peers[1]
    await again.join("room")
    await seen.until(PeerJoined, peer=next(it for it in resident.remote_peers if it.id == again.peer_id))


async def test_closing_while_joining_ends_the_join(room: Room) -> None:
    for steps in (1, 3, 10, 20):
        peer = room.peer(f"a{steps}")
        log = EventLog(peer)
        joining = asyncio.ensure_future(peer.join("room"))
        for _ in range(steps):
            await asyncio.sleep(0)
        if peer.state == "joined":
            break
        await peer.close()
        with pytest.raises(MeteredRealtimeError) as error:
            await joining
        assert isinstance(error.value, DisconnectedError | MeteredPeerStateError | SignallingConnectError)
        assert peer.state == "closed"
        assert states(log)[-2:] == [("joining", "leaving"), ("leaving", "closed")]


@pytest.mark.parametrize("turns", range(6))
async def test_closing_while_a_join_gives_up_stays_closed(room: Room, turns: int) -> None:
    for before in range(6):
        peer = room.peer(f"a{before}")
        log = EventLog(peer)
        joining = asyncio.ensure_future(peer.join("room"))
        while signalling_client(peer).state != "connected":  # noqa: ASYNC110 - turns of the loop are counted from here
            await asyncio.sleep(0)
        for _ in range(before):
            await asyncio.sleep(0)
        joining.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        await peer.close()
        await asyncio.gather(joining, return_exceptions=True)
        assert peer.state == "closed"
        assert ("leaving", "idle") not in states(log)


async def test_leaving_is_seen_by_the_others(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    order: list[str] = []
    pair.to_a.on(StateChange, lambda event: order.append(event.to))
    pair.b.on(PeerLeft, lambda event: order.append(f"left {event.peer.id}"))
    log = EventLog(pair.b)
    await pair.a.close("bye")
    assert (await log.until(PeerLeft)).peer is pair.to_a
    assert order[-2:] == ["closed", "left a"]
    assert pair.to_a.state == "closed"
    assert pair.b.remote_peers == []
    with pytest.raises(MeteredRealtimeError):
        await pair.to_a.send("x")
    with pytest.raises(MeteredRealtimeError):
        pair.to_a.create_data_channel("x")
    assert pair.to_a.pc.connectionState == "closed"


async def test_what_one_sees_oneself_when_leaving(room: Room) -> None:
    pair = await room.pair()
    log, order = EventLog(pair.a), []
    pair.to_b.on(StateChange, lambda event: order.append(event.to))
    await pair.a.close("done")
    assert log.kinds() == ["StateChange", "PeerLeft", "StateChange", "Left"]
    assert states(log) == [("joined", "leaving"), ("leaving", "closed")]
    assert log.of(Left) == [Left("a", "room", "done")]
    assert order == ["closed"]
    assert (pair.a.state, pair.a.peer_id, pair.a.channel, pair.a.remote_peers) == ("closed", "a", None, [])


@pytest.mark.every_path
async def test_closing_twice_and_at_once_is_closing_once(room: Room) -> None:
    pair = await room.pair()
    log = EventLog(pair.a)
    await asyncio.gather(pair.a.close(), pair.a.close(), pair.a.close())
    await pair.a.close()
    assert len(log.of(Left)) == 1


async def test_closing_a_peer_that_never_joined_says_so_without_left(room: Room) -> None:
    peer = room.peer("a")
    log = EventLog(peer)
    await peer.close()
    assert (states(log), log.of(Left)) == ([("idle", "closed")], [])


async def test_a_cancelled_close_goes_on(room: Room) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    closing = asyncio.ensure_future(pair.a.close())
    await next_event(pair.a, StateChange, to="leaving")
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await pair.a.close()
    assert pair.a.state == "closed"


@pytest.mark.parametrize("where", ["peer", "remote", "left"])
async def test_close_may_be_awaited_in_any_handler(room: Room, where: str) -> None:
    pair = await room.pair()
    await pair.media_to_b()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leave(event: Any) -> None:
        try:
            async with takes_less_than(0.9):  # nobody waits for the handler that waits
                await pair.b.close()
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(None)

    match where:
        case "peer":
            pair.b.on(Data, leave)
            await pair.a.send("leave")
        case "remote":
            pair.to_a.once(StateChange, leave)
            await pair.a.close()
        case "left":
            pair.b.on(PeerLeft, leave)
            await pair.a.close()
    async with asyncio.timeout(PATIENCE):
        await done
    assert pair.b.state == "closed"


async def test_closing_ends_in_time_whatever_handlers_do(room: Room) -> None:
    pair = await room.pair()
    started = asyncio.Event()

    async def stuck(event: Data) -> None:
        started.set()
        await asyncio.Event().wait()

    pair.b.on(Data, stuck)
    await pair.a.send("x")
    await started.wait()
    async with takes_less_than(2.5):
        await pair.b.close()


async def test_closing_ends_in_time_whatever_a_local_track_does(room: Room) -> None:
    release = asyncio.Event()

    class Stubborn(GreyTrack):
        async def recv(self) -> Any:
            while self.frames_made >= 5 and not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            return await super().recv()

    pair = await room.pair()
    track = Stubborn()
    pair.a.add_track(track)
    await eventually(lambda: track.frames_made >= 5)
    async with takes_less_than(2.5):
        await pair.a.close()
    release.set()
    track.stop()


async def test_as_context_managers_peers_close_themselves(room: Room) -> None:
    async with room.peer("a") as peer:
        assert peer.state == "idle"
        await peer.join("room")
    assert peer.state == "closed"
    other = room.peer("b")
    async with other.joined("room", include_sender_metadata=True) as joined:
        assert joined is other
        assert (other.state, other.channel) == ("joined", "room")
    assert other.state == "closed"


async def test_a_failed_join_in_a_context_manager_does_not_close(room: Room) -> None:
    peer = room.peer("a")
    with pytest.raises(MeteredPeerSendError):
        async with peer.joined("_metered/x"):
            pytest.fail("not entered")
    assert peer.state == "idle"


async def test_the_end_of_the_connection_for_good_is_fatal_and_told_once(room: Room) -> None:
    async with Wire(room.server.port) as wire:
        pair = await room.meet(room.peer("a", url=wire.url), room.peer("b"))
        log = EventLog(pair.a)
        wire.say_goodbye(WsCloseCode.ADMIN_DISCONNECT)
        left = await log.until(Left)
        (fatal,) = log.of(FatalError)
        assert fatal.code == "admin_disconnect"
        assert (left.peer_id, left.channel) == ("a", "room")
        assert log.kinds() == ["FatalError", "PeerLeft", "StateChange", "Left"]
        assert states(log) == [("joined", "closed")]
        await pair.a.close()


async def test_a_server_that_never_comes_back_ends_the_peer(room: Room) -> None:
    options = ReconnectOptions(initial_delay=0.01, max_delay=0.02, max_attempts=3)
    peer = room.peer("a", reconnect=options)
    await peer.join("room")
    log = EventLog(peer)
    await room.server.stop()
    await log.until(Left)
    assert states(log) == [("joined", "reconnecting"), ("reconnecting", "closed")]
    assert len(log.of(FatalError)) == 1


async def test_a_handler_of_peer_joined_that_fails_harms_nobody(room: Room) -> None:
    pair_peers = room.peer("a"), room.peer("b")

    def fail(event: PeerJoined) -> None:
        raise RuntimeError("in the handler")

    pair_peers[0].on(PeerJoined, fail)
    pair = await room.meet(*pair_peers)
    assert isinstance(pair.to_b, RemotePeer)


async def test_reprs_name_the_peer_and_hide_the_credential(room: Room) -> None:
    pair = await room.pair()
    assert repr(pair.a) == "<MeteredPeer a joined>"
    assert repr(pair.to_b) == "<RemotePeer 'b' idle>"
    peer = room.peer()
    assert room.server.api_key not in repr(peer) + repr(vars(peer))
