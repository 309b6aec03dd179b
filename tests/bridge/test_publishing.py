"""Encoders as participants: what they send reaches the channel as it is, and ends with them."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime import PeerJoined, PeerLeft, StateChange, TrackEnded
from metered_realtime.bridge.options import BridgeLimits
from metered_realtime.events.bridge import BridgeSessionClosed, BridgeSessionConnected, BridgeSessionOpened
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from tests.bridge.support import Endpoints, picture, tracks_of
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, Room, eventually


async def test_an_encoder_is_a_participant_whose_media_is_passed_on(endpoints: Endpoints) -> None:
    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    await endpoints.publish("ann", path="/whip?name=Ann%27s%20camera")
    ann = await endpoints.participant(viewer, "ann")
    log = EventLog(ann)
    tracks = await tracks_of(ann)
    shown, heard = await picture(tracks["video"]), await picture(tracks["audio"])
    assert (shown.width, shown.height) == (320, 240)
    assert heard.sample_rate == 48_000
    assert tracks["video"].codec == "video/VP8"
    assert not log.of(TrackEnded)
    encoders = [it for it in _threads() if "encoder" in it]
    assert encoders == [], "nothing is transcoded"


async def test_its_name_is_in_the_metadata_of_the_stream(endpoints: Endpoints) -> None:
    from metered_realtime import StreamAdded

    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    streams: list[StreamAdded] = []
    viewer.on(PeerJoined, lambda event: event.peer.on(StreamAdded, streams.append))
    await endpoints.publish("ann", path="/whip?name=Ann")
    await eventually(lambda: streams)
    assert streams[0].metadata == {"source": "whip", "name": "Ann"}


async def test_the_codec_of_the_encoder_is_kept(endpoints: Endpoints) -> None:
    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    client = endpoints.client("ann")
    client.send([PatternTrack(width=320, height=240)])
    prefer(client.pc, "video/H264")
    assert (await client.open("/whip")).status == 201
    track = (await tracks_of(await endpoints.participant(viewer, "ann"), 1))["video"]
    await picture(track)
    assert track.codec == "video/H264"


async def test_a_session_is_told_and_measured(endpoints: Endpoints) -> None:
    client = await endpoints.publish("ann")
    opened = await endpoints.log.until(BridgeSessionOpened)
    assert (opened.role, opened.peer_id, opened.address) == ("publisher", "ann", "127.0.0.1")
    await endpoints.log.until(BridgeSessionConnected, number=opened.number)
    await eventually(lambda: (endpoints.bridge.stats().sessions[0].connection.bitrate_in or 0) > 0)
    (session,) = endpoints.bridge.stats().sessions
    assert (session.number, session.role, session.peer_id) == (opened.number, "publisher", "ann")
    await client.delete()
    closed = await endpoints.log.until(BridgeSessionClosed, number=opened.number)
    assert closed.reason == "deleted"
    assert endpoints.bridge.stats().ended == {"deleted": 1}
    assert endpoints.bridge.stats().published == 1


async def test_the_participant_leaves_when_the_session_is_deleted(endpoints: Endpoints) -> None:
    viewer = endpoints.room.peer("viewer")
    log = EventLog(viewer)
    await endpoints.room.join(viewer)
    client = await endpoints.publish("ann")
    await log.until(PeerJoined)
    assert (await client.delete()).status == 200
    assert (await log.until(PeerLeft)).peer.id == "ann"


async def test_an_encoder_that_closes_its_connection_leaves(endpoints: Endpoints) -> None:
    client = await endpoints.publish("ann")
    await client.pc.close()
    closed = await endpoints.log.until(BridgeSessionClosed)
    assert (closed.reason, closed.detail) == ("lost", "closed_by_remote")
    assert (await client.delete()).status == 200, "many clients delete after they have closed"


async def test_an_encoder_that_is_silent_for_too_long_leaves(room: Room) -> None:
    async with Endpoints(room, limits=BridgeLimits(restart_window=0.1)) as endpoints:
        client = await endpoints.publish("ann")
        _fall_silent(client.pc)
        closed = await endpoints.log.until(BridgeSessionClosed)
        assert (closed.reason, closed.detail) == ("lost", "path_lost")


async def test_an_encoder_that_starts_again_replaces_its_session(endpoints: Endpoints) -> None:
    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    await endpoints.publish("ann")
    await endpoints.participant(viewer, "ann")
    await endpoints.publish("ann", PatternTrack(width=640, height=480))
    assert (await endpoints.log.until(BridgeSessionClosed)).reason == "replaced"
    assert len(endpoints.bridge.stats().sessions) == 1

    async def shows_the_new_one() -> bool:
        ann = next((it for it in viewer.remote_peers if it.id == "ann"), None)
        live = [it for it in ann.incoming_tracks if it.readyState == "live"] if ann is not None else []
        return bool(live) and (await live[0].recv()).width == 640

    async with asyncio.timeout(PATIENCE):
        while not await shows_the_new_one():  # noqa: ASYNC110 - it reads pictures meanwhile
            await asyncio.sleep(0.01)


async def test_a_session_ends_when_the_server_withdraws_the_admission(endpoints: Endpoints) -> None:
    client = endpoints.client("ann", expires_in=2)
    client.send([ToneTrack()])
    assert (await client.open("/whip")).status == 201
    closed = await endpoints.log.until(BridgeSessionClosed)
    assert closed.reason == "refused"


async def test_a_bridge_that_closes_ends_every_session(room: Room) -> None:
    viewer = room.peer("viewer")
    log = EventLog(viewer)
    await room.join(viewer)
    async with Endpoints(room) as endpoints:
        for peer_id in ("ann", "bob"):
            await endpoints.publish(peer_id)
        await log.until(PeerJoined, 2)
        await endpoints.bridge.close()
        assert endpoints.bridge.stats().ended == {"closing": 2}
    await log.until(PeerLeft, 2)


async def test_many_encoders_at_once(endpoints: Endpoints) -> None:
    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    ids = [f"camera-{number}" for number in range(6)]
    await asyncio.gather(*(endpoints.publish(it, PatternTrack(width=64, height=64)) for it in ids))
    for peer_id in ids:
        track = (await tracks_of(await endpoints.participant(viewer, peer_id), 1))["video"]
        assert (await picture(track)).width == 64


async def test_ice_is_restarted_by_the_encoder(endpoints: Endpoints) -> None:
    from metered_realtime.connection.one_shot.connection import OneShotConnection

    async with OneShotConnection([PatternTrack(width=320, height=240)], restart_window=PATIENCE) as encoder:
        token = endpoints.room.server.mint_token("ann")
        offer = await encoder.create_offer(trickle=False)
        reply = await endpoints.request("POST", "/whip", token, offer, "application/sdp")
        await encoder.accept_answer(reply.text)
        await encoder.wait_connected()
        await endpoints.log.until(BridgeSessionConnected)
        location, log = reply.headers["Location"], EventLog(encoder)
        fragment = await encoder.create_restart()
        restarted = await endpoints.request(
            "PATCH", location, token, fragment, "application/trickle-ice-sdpfrag", {"If-Match": "*"}
        )
        assert restarted.status == 200
        assert restarted.headers["ETag"] != reply.headers["ETag"]
        assert restarted.headers["Content-Type"] == "application/trickle-ice-sdpfrag"
        await encoder.accept_restart(restarted.text)
        outdated = await endpoints.request(
            "PATCH",
            location,
            token,
            "a=end-of-candidates\r\n",
            "application/trickle-ice-sdpfrag",
            {"If-Match": reply.headers["ETag"]},
        )
        assert outdated.status == 412
        await encoder.wait_connected()
        assert not log.of(StateChange) or encoder.state == "connected"
        (session,) = endpoints.bridge.stats().sessions
        assert session.connection.state == "connected"


@pytest.mark.parametrize("path", ["/whip", "/whep"])
async def test_no_credential_is_logged(room: Room, caplog: pytest.LogCaptureFixture, path: str) -> None:
    from metered_realtime import StdlibLogger

    caplog.set_level("DEBUG")
    async with Endpoints(room, logger=StdlibLogger()) as endpoints:
        client = endpoints.client("ann")
        client.send([ToneTrack()])
        client.receive("video")
        assert (await client.open(path)).status in (201, 422)
        if client.location:
            await client.connected()
        await endpoints.request("POST", path, "a-wrong-secret", "v=0", "application/sdp")
        await client.delete()
    assert client.token not in caplog.text
    assert "a-wrong-secret" not in caplog.text
    assert not client.location or client.location.rpartition("/")[2] not in caplog.text


def _threads() -> list[str]:
    import threading

    # The encoder of the test client is aiortc's own, without a thread of this name.
    return [thread.name for thread in threading.enumerate()]


def prefer(pc: object, mime_type: str) -> None:
    from aiortc import RTCRtpSender

    codecs = [it for it in RTCRtpSender.getCapabilities("video").codecs if it.mimeType == mime_type]
    for transceiver in pc.getTransceivers():  # type: ignore[attr-defined]
        transceiver.setCodecPreferences(codecs)


def _fall_silent(pc: object) -> None:
    """Have an aiortc connection send nothing more, as if its machine were gone."""
    transport = pc.getTransceivers()[0].sender.transport.transport  # type: ignore[attr-defined]
    for protocol in transport._connection._protocols:
        protocol.transport.sendto = lambda *_: None
