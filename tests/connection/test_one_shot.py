"""Connections whose program carries the descriptions, with bare aiortc or another of their kind at the other end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiortc import RTCBundlePolicy, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

from metered_realtime import (
    ConnectionClosed,
    ConnectionLostError,
    DataChannel,
    DataChannelOpened,
    DCMessage,
    IceServerConfig,
    LocalCandidate,
    LocalTrackEnded,
    MediaStream,
    MeteredPeerStateError,
    NegotiationFailedError,
    OneShotConnection,
    StateChange,
    StreamAdded,
    ToneTrack,
    Track,
    TrackEnded,
)
from metered_realtime.aiortc_compat import ice_consent as consent
from metered_realtime.connection.one_shot import connection as one_shot
from metered_realtime.core.negotiation import one_shot_lifecycle
from metered_realtime.core.negotiation.sdp import sections
from tests.connection.stun_server import stun_server
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, ended, eventually, fresh_frames, shows

Make = Callable[..., OneShotConnection]


class Bare:
    """A foreign end: aiortc as it is."""

    def __init__(self) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self.tracks: list[Any] = []
        self.pc.on("track", self.tracks.append)

    async def offer(self) -> str:
        await self.pc.setLocalDescription(await self.pc.createOffer())
        return str(self.pc.localDescription.sdp)

    async def answer(self, offer: str) -> str:
        await self.pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.pc.setLocalDescription(await self.pc.createAnswer())
        return str(self.pc.localDescription.sdp)

    async def accept(self, answer: str) -> None:
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))


@pytest.fixture
async def bare() -> AsyncIterator[Bare]:
    bare = Bare()
    yield bare
    await bare.pc.close()


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    made: list[OneShotConnection] = []

    def make(*args: Any, **options: Any) -> OneShotConnection:
        made.append(OneShotConnection(*args, **options))
        return made[-1]

    yield make
    await asyncio.gather(*(it.close() for it in made))


@pytest.fixture
async def stun_url() -> AsyncIterator[str]:
    async with stun_server() as url:
        yield url


async def meet(offerer: OneShotConnection, answerer: OneShotConnection) -> None:
    await offerer.accept_answer(await answerer.accept_offer(await offerer.create_offer()))
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(offerer.wait_connected(), answerer.wait_connected())


def directions(sdp: str) -> list[tuple[str, str]]:
    return [(it.kind, it.direction) for it in sections(sdp)]


# --- descriptions


async def test_an_offer_has_a_section_for_each_thing_that_is_wanted_and_no_other(make: Make) -> None:
    only_sent = await make([GreyTrack(), ToneTrack()]).create_offer()
    assert directions(only_sent) == [("video", "sendonly"), ("audio", "sendonly")]
    assert only_sent.count("a=setup:actpass") == 2
    assert "a=group:BUNDLE 0 1\r\n" in only_sent
    assert "a=ice-options:trickle\r\n" in only_sent
    only_received = await make(receive=["audio", "video"]).create_offer()
    assert directions(only_received) == [("audio", "recvonly"), ("video", "recvonly")]
    both = await make([ToneTrack()], receive=["video", "audio", "audio"], data=True).create_offer()
    assert directions(both)[0][0] == "application"
    assert directions(both)[1:] == [("audio", "sendrecv"), ("video", "recvonly"), ("audio", "recvonly")]


async def test_the_tracks_of_an_offer_are_in_one_stream(make: Make) -> None:
    tracks = [GreyTrack(), ToneTrack()]
    streams = {it.stream_ids for it in sections(await make(tracks).create_offer())}
    assert len(streams) == 1
    named = await make(MediaStream(tracks, id="camera")).create_offer()
    assert [(it.stream_ids, it.track_id) for it in sections(named)] == [(("camera",), it.id) for it in tracks]


async def test_media_reaches_a_foreign_end_that_answers(make: Make, bare: Bare) -> None:
    connection = make([GreyTrack(200), ToneTrack()])
    log = EventLog(connection)
    await connection.accept_answer(await bare.answer(await connection.create_offer()))
    await connection.wait_connected()
    assert {track.kind for track in bare.tracks} == {"audio", "video"}
    for track in bare.tracks:
        await (shows(track, 200) if track.kind == "video" else track.recv())
    assert [(it.from_, it.to) for it in log.of(StateChange)] == [("idle", "connecting"), ("connecting", "connected")]
    stats = connection.stats()
    assert stats.state == "connected"
    assert {it.kind for it in stats.outbound} == {"audio", "video"}
    assert stats.bytes_sent


async def test_media_arrives_from_a_foreign_end_that_answers(make: Make, bare: Bare) -> None:
    connection = make(receive=["video"])
    log = EventLog(connection)
    bare.pc.addTrack(GreyTrack(60))
    await connection.accept_answer(await bare.answer(await connection.create_offer()))
    (track,) = connection.tracks
    assert log.of(Track)[0].track is track
    assert [it.stream for it in log.of(StreamAdded)] == connection.streams
    await shows(track, 60)


async def test_media_arrives_from_a_foreign_end_that_offers(make: Make, bare: Bare) -> None:
    bare.pc.addTrack(GreyTrack(60))
    connection = make()
    await bare.accept(await connection.accept_offer(await bare.offer()))
    await shows(connection.tracks[0], 60)


@pytest.mark.parametrize("direction", ["recvonly", "sendrecv"])
async def test_tracks_are_sent_in_sections_that_a_foreign_end_offers(make: Make, bare: Bare, direction: str) -> None:
    if direction == "sendrecv":
        bare.pc.addTrack(GreyTrack(60))
    else:
        bare.pc.addTransceiver("video", direction=direction)
    connection = make([GreyTrack(200), ToneTrack()])
    answer = await connection.accept_offer(await bare.offer())
    assert directions(answer) == [("video", {"recvonly": "sendonly"}.get(direction, direction))]
    await bare.accept(answer)
    await shows(bare.tracks[0], 200)
    if direction == "sendrecv":
        await shows(connection.tracks[0], 60)


async def test_both_may_offer_in_turn(make: Make) -> None:
    a, b = make([GreyTrack(60)]), make([GreyTrack(200)])
    log = EventLog(b)
    await meet(a, b)
    await shows(b.tracks[0], 60)
    await meet(b, a)
    await shows(a.tracks[0], 200)
    a.remove_track(next(iter(a._local.outgoing.values())).fanout.track)
    await meet(a, b)
    assert log.of(TrackEnded)
    assert b.tracks == []


async def test_data_channels_need_a_data_section(make: Make) -> None:
    a, b = make(data=True), make()
    log = EventLog(b)
    channel = DataChannel(a.create_data_channel("notes"))
    with pytest.raises(MeteredPeerStateError, match="data=True"):
        b.create_data_channel("notes")
    await meet(a, b)
    received = EventLog(DataChannel((await log.until(DataChannelOpened)).channel))
    await channel.wait_open()
    await channel.send("hello")
    assert (await received.until(DCMessage)).data == "hello"
    b.create_data_channel("back")


async def test_a_track_of_two_connections_is_read_once(make: Make) -> None:
    track = GreyTrack(60)
    senders, receivers = [make([track]), make([track])], [make(), make()]
    for sender, receiver in zip(senders, receivers, strict=True):
        await meet(sender, receiver)
    for receiver in receivers:
        await shows(receiver.tracks[0], 60)
    (one,), (other,) = (it._local.outgoing.values() for it in senders)
    assert one.fanout is other.fanout
    await senders[0].close()
    await fresh_frames(receivers[1].tracks[0])
    assert track.readyState == "live"


async def test_a_track_is_replaced_without_negotiation(make: Make) -> None:
    first, second = GreyTrack(60), GreyTrack(200)
    a, b = make([first]), make()
    await meet(a, b)
    await shows(b.tracks[0], 60)
    a.replace_track(first, second)
    await shows(b.tracks[0], 200)
    with pytest.raises(ValueError, match="cannot be sent in the place"):
        a.replace_track(first, second)


async def test_the_end_of_a_local_track_is_reported(make: Make) -> None:
    track = GreyTrack(60)
    a, b = make([track]), make()
    log = EventLog(a)
    await meet(a, b)
    await shows(b.tracks[0], 60)
    track.stop()
    assert (await log.until(LocalTrackEnded)).track is track
    assert a.state == "connected"


# --- what cannot be used


async def test_an_answer_that_does_not_fit_changes_nothing(make: Make, bare: Bare) -> None:
    connection = make([GreyTrack(60), ToneTrack()])
    with pytest.raises(MeteredPeerStateError, match="no offer waits"):
        await connection.accept_answer("v=0")
    answer = await bare.answer(await connection.create_offer())
    rejected = answer.replace("m=video ", "m=video 0 ", 1).replace("m=audio ", "m=audio 0 ", 1)
    for wrong in ("", "v=0\r\n", answer.partition("m=audio")[0], rejected, answer.replace("mid:1", "mid:7")):
        with pytest.raises(NegotiationFailedError):
            await connection.accept_answer(wrong)
    await connection.accept_answer(answer)
    await connection.wait_connected()
    await shows(next(it for it in bare.tracks if it.kind == "video"), 60)


async def test_an_offer_that_cannot_be_used_changes_nothing(make: Make, bare: Bare) -> None:
    bare.pc.addTrack(GreyTrack(60))
    connection, offer = make(), await bare.offer()
    with pytest.raises(NegotiationFailedError, match="no codec in common"):
        await connection.accept_offer(offer.replace("VP8", "XX8").replace("H264", "XX4"))
    await bare.accept(await connection.accept_offer(offer))
    await shows(connection.tracks[0], 60)


async def test_what_is_wrong_in_the_program_is_said(make: Make) -> None:
    for options in ({"receive": "audio"}, {"receive": ["data"]}, {"receive": ["audio"] * 65}, {"restart_window": -1}):
        with pytest.raises(ValueError, match=r"receive|restart_window"):
            OneShotConnection(**options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="MediaStreamTrack"):
        make(["x"])
    with pytest.raises(MeteredPeerStateError, match="nothing to offer"):
        await make().create_offer()
    with pytest.raises(MeteredPeerStateError, match="after the connection has been up"):
        await make(receive=["audio"]).create_restart()
    with pytest.raises(MeteredPeerStateError, match="nothing is negotiated"):
        await make().add_fragment("")


async def test_a_description_that_fails_half_way_ends_the_connection(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = make([GreyTrack(60)])
    answer = await make().accept_offer(await connection.create_offer())

    async def fail(*args: Any) -> None:
        raise OSError("no")

    monkeypatch.setattr(connection.pc, "setRemoteDescription", fail)
    with pytest.raises(NegotiationFailedError, match="cannot be applied"):
        await connection.accept_answer(answer)
    with pytest.raises(ConnectionLostError, match="negotiation_failed") as lost:
        await connection.wait_closed()
    assert isinstance(lost.value.__cause__, OSError)


# --- candidates


async def test_candidates_of_servers_follow_the_description(make: Make, stun_url: str) -> None:
    connection = make(receive=["audio"], ice_servers=None)
    log = EventLog(connection)
    offer = await connection.create_offer()
    assert "typ host" in offer
    assert "a=end-of-candidates" not in offer
    connection.use_ice_servers([IceServerConfig(stun_url)])
    await log.until(LocalCandidate, candidate=None)
    *found, last = log.of(LocalCandidate)
    assert [it.candidate.split(" typ ")[1].split()[0] for it in found if it.candidate] == ["srflx"] * len(found) != []
    assert {(it.mid, it.ufrag) for it in (*found, last)} == {("0", last.ufrag)}
    assert f"a=ice-ufrag:{last.ufrag}" in offer
    with pytest.raises(MeteredPeerStateError, match="known already"):
        connection.use_ice_servers([])


async def test_without_trickle_a_description_is_complete(make: Make, bare: Bare, stun_url: str) -> None:
    servers = [IceServerConfig(stun_url)]
    offer = await make(receive=["audio"], ice_servers=servers).create_offer(trickle=False)
    bare.pc.addTrack(GreyTrack())
    answer = await make(ice_servers=servers).accept_offer(await bare.offer(), trickle=False)
    for text in (offer, answer):
        assert "typ srflx" in text
        assert "a=end-of-candidates" in text


async def test_candidates_may_come_one_by_one(make: Make) -> None:
    a, b = make([GreyTrack(60)]), make()
    offer = await a.create_offer()
    lines = offer.splitlines(keepends=True)
    bare_offer = "".join(it for it in lines if not it.startswith(("a=candidate", "a=end-of")))
    await a.accept_answer(await b.accept_offer(bare_offer))
    candidates = dict.fromkeys(it.strip().removeprefix("a=") for it in lines if it.startswith("a=candidate"))
    for candidate in candidates:
        await b.add_candidate(candidate)
    await b.add_candidate(None)
    await b.wait_connected()
    with pytest.raises(ValueError, match="cannot be read"):
        await b.add_candidate("candidate:nonsense")


# --- restarts and the end


def silence(connection: OneShotConnection, patch: pytest.MonkeyPatch) -> None:
    """Let no STUN message of a connection leave, and consent be lost soon at both ends."""
    patch.setattr(consent, "CONSENT_INTERVAL", 0.02)
    patch.setattr(consent, "CONSENT_TIMEOUT", 0.2)
    patch.setattr(consent, "MAX_CONSENT", 0.3)
    ice: Any = connection._pc.pc.sctp.transport.transport  # type: ignore[union-attr]
    for protocol in ice._connection._protocols:
        patch.setattr(protocol, "send_stun", lambda message, address: None)


async def test_a_fragment_restarts_ice_from_either_end(make: Make) -> None:
    a, b = make([GreyTrack(60)]), make([])
    await meet(a, b)
    track = b.tracks[0]
    for one, other in ((a, b), (b, a), (a, b)):
        before = a._pc.local_ufrag, b._pc.local_ufrag
        answer = await other.add_fragment(await one.create_restart())
        assert answer is not None
        await one.accept_restart(answer)
        assert {*before}.isdisjoint({a._pc.local_ufrag, b._pc.local_ufrag})
        async with asyncio.timeout(PATIENCE):
            await eventually(lambda: a.pc.iceConnectionState == b.pc.iceConnectionState == "completed")
        await fresh_frames(track)
    assert b.tracks == [track]


async def test_a_lost_path_waits_for_a_restart(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make([GreyTrack(60)], restart_window=PATIENCE), make(restart_window=PATIENCE)
    await meet(a, b)
    with monkeypatch.context() as patch:
        silence(a, patch)
        await eventually(lambda: a.state == b.state == "reconnecting")
    answer = await b.add_fragment(await a.create_restart())
    assert answer is not None
    await a.accept_restart(answer)
    await asyncio.gather(a.wait_connected(), b.wait_connected())
    await fresh_frames(b.tracks[0])


async def test_a_lost_path_without_a_restart_ends_the_connection(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = make([GreyTrack(60)], restart_window=0.2), make()
    log = EventLog(a)
    await meet(a, b)
    silence(a, monkeypatch)
    for end in (a, b):
        with pytest.raises(ConnectionLostError) as lost:
            await end.wait_closed()
        assert lost.value.reason == "path_lost"
    assert [it.to for it in log.of(StateChange)] == ["connecting", "connected", "reconnecting", "closed"]
    assert log.events[-1] == ConnectionClosed(a.error)


async def test_a_path_that_is_not_found_ends_the_connection(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_shot_lifecycle, "CONNECT_TIMEOUT", 0.2)
    a, b = make([GreyTrack(60)]), make()
    answer = await b.accept_offer(await a.create_offer())
    await b.close()
    await a.accept_answer(answer)
    with pytest.raises(ConnectionLostError, match="not_connected"):
        await a.wait_connected()


async def test_the_close_of_one_end_ends_the_other(make: Make) -> None:
    a, b = make([GreyTrack(60)]), make()
    await meet(a, b)
    track = b.tracks[0]
    await a.close()
    with pytest.raises(ConnectionLostError, match="closed_by_remote"):
        await b.wait_closed()
    await ended(track)
    await a.wait_closed()
    assert a.error is None


async def test_nothing_happens_after_the_close(make: Make) -> None:
    a, b = make([GreyTrack(60)]), make()
    log = EventLog(a)
    await meet(a, b)
    await asyncio.gather(a.close(), a.close())
    assert log.kinds()[-2:] == ["StateChange", "ConnectionClosed"]
    count = len(log.events)
    for call in (a.create_offer(), a.accept_answer(""), a.accept_offer(""), a.wait_connected(), a.add_fragment("")):
        with pytest.raises(MeteredPeerStateError, match="closed"):
            await call
    await a.add_candidate("candidate:1 1 udp 1 192.0.2.1 9 typ host")
    assert len(log.events) == count
    assert a.stats().state == "closed"
    assert a.stats().bytes_sent


async def test_the_connection_may_be_closed_in_a_handler(make: Make) -> None:
    a, b = make([GreyTrack(60)]), make()
    closed = asyncio.Event()

    async def close(event: Track) -> None:
        await b.close()
        closed.set()

    b.on(Track, close)
    await b.accept_offer(await a.create_offer())
    async with asyncio.timeout(one_shot.CLOSE_TIMEOUT + PATIENCE):
        await closed.wait()


async def test_a_connection_that_is_not_closed_warns() -> None:
    async def forget() -> None:
        OneShotConnection([GreyTrack()])
        await asyncio.sleep(0)

    with pytest.warns(ResourceWarning, match="unclosed <OneShotConnection idle sending=1 receiving=0>"):
        await asyncio.to_thread(asyncio.run, forget())
