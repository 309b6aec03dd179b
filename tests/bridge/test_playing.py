"""Players: they watch a participant as it sends, or the room mixed."""

from __future__ import annotations

import asyncio

import pytest

from metered_realtime import MediaStream, PeerJoined, PeerLeft
from metered_realtime.events.bridge import BridgeSessionClosed
from metered_realtime.media.sources.testsource import PatternTrack, ToneTrack
from tests.bridge.support import Endpoints, picture
from tests.bridge.test_publishing import prefer
from tests.support.patience import PATIENCE
from tests.support.peers import EventLog, GreyTrack, Room, eventually, level_of


async def test_a_player_watches_a_participant(endpoints: Endpoints) -> None:
    ann = endpoints.room.peer("ann")
    ann.add_stream(MediaStream([PatternTrack(width=320, height=240), ToneTrack()]))
    await endpoints.room.join(ann)
    player = await endpoints.watch("/whep/ann")
    shown, heard = await picture(player.tracks["video"]), await picture(player.tracks["audio"])
    assert (shown.width, shown.height) == (320, 240)
    assert heard.sample_rate == 48_000
    (session,) = endpoints.bridge.stats().sessions
    assert (session.role, session.peer_id) == ("player", "ann")


async def test_an_encoder_is_watched_in_its_codec(endpoints: Endpoints) -> None:
    encoder = endpoints.client("cam")
    encoder.send([PatternTrack(width=320, height=240)])
    prefer(encoder.pc, "video/H264")
    assert (await encoder.open("/whip")).status == 201
    await encoder.connected()
    player = await endpoints.watch("/whep/cam", "video")
    assert (await picture(player.tracks["video"])).width == 320
    sent = next(it for it in endpoints.bridge.stats().sessions if it.role == "player").connection.outbound
    assert [it.codec for it in sent] == ["video/H264"]
    assert [it.target_bitrate for it in sent] == [None], "there is no encoder"


async def test_a_player_without_the_codec_gets_another(endpoints: Endpoints) -> None:
    encoder = endpoints.client("cam")
    encoder.send([PatternTrack(width=320, height=240)])
    prefer(encoder.pc, "video/H264")
    assert (await encoder.open("/whip")).status == 201
    player = endpoints.client("viewer")
    player.receive("video")
    prefer(player.pc, "video/VP8")
    assert (await player.open("/whep/cam")).status == 201
    assert (await picture(player.tracks["video"])).width == 320


async def test_the_room_is_watched_as_one_picture_and_one_sound(endpoints: Endpoints) -> None:
    for peer_id, level in (("ann", 60), ("bob", 200)):
        peer = endpoints.room.peer(peer_id)
        peer.add_stream(MediaStream([GreyTrack(level), ToneTrack()]))
        await endpoints.room.join(peer)
    player = await endpoints.watch("/whep")
    assert endpoints.bridge.stats().mixing

    def levels(frame: object) -> tuple[int, int]:
        plane = frame.planes[0]  # type: ignore[attr-defined]
        row = memoryview(plane)[plane.line_size * (frame.height // 2) :]  # type: ignore[attr-defined]
        return row[frame.width // 4], row[frame.width * 3 // 4]  # type: ignore[attr-defined]

    async with asyncio.timeout(PATIENCE):
        while not _are_near(levels(await player.tracks["video"].recv()), (60, 200)):
            pass
    async with asyncio.timeout(PATIENCE):
        while not _is_loud(await player.tracks["audio"].recv()):
            pass
    await player.delete()
    await eventually(lambda: not endpoints.bridge.stats().mixing)


async def test_a_participant_that_is_not_there_cannot_be_watched(endpoints: Endpoints) -> None:
    player = endpoints.client("viewer")
    player.receive("video")
    reply = await player.open("/whep/nobody")
    assert (reply.status, reply.code) == (404, "no_such_participant")


async def test_players_share_one_connection_to_a_participant(endpoints: Endpoints) -> None:
    ann = endpoints.room.peer("ann")
    joined = EventLog(ann)
    ann.add_stream(MediaStream([GreyTrack(90)]))
    await endpoints.room.join(ann)
    players = [await endpoints.watch("/whep/ann", "video", peer_id=f"viewer-{number}") for number in range(3)]
    for player in players:
        assert abs(level_of(await picture(player.tracks["video"])) - 90) < 8
    connected = [remote for remote in ann.remote_peers if remote.state == "connected"]
    assert len(connected) == 1
    await eventually(lambda: len(joined.of(PeerLeft)) == 3)  # the players' tokens were verified


async def test_a_player_ends_with_the_participant(endpoints: Endpoints) -> None:
    encoder = await endpoints.publish("cam")
    await endpoints.watch("/whep/cam")
    await encoder.delete()
    closed = await endpoints.log.until(BridgeSessionClosed, role="player")
    assert closed.reason == "left"


async def test_a_participant_may_replace_what_it_sends(endpoints: Endpoints) -> None:
    ann = endpoints.room.peer("ann")
    camera = MediaStream([GreyTrack(60)])
    ann.add_stream(camera)
    await endpoints.room.join(ann)
    player = await endpoints.watch("/whep/ann", "video")
    await picture(player.tracks["video"])
    ann.remove_stream(camera)
    ann.add_stream(MediaStream([GreyTrack(200)]))
    async with asyncio.timeout(PATIENCE):
        while abs(level_of(await player.tracks["video"].recv()) - 200) > 8:
            pass


async def test_the_bridge_leaves_the_channel_when_nobody_watches(
    endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metered_realtime.bridge import bridge

    monkeypatch.setattr(bridge, "LINGER", 0.01)
    ann = endpoints.room.peer("ann")
    ann.add_stream(MediaStream([GreyTrack()]))
    log = EventLog(ann)
    await endpoints.room.join(ann)
    player = await endpoints.watch("/whep/ann", "video")
    await player.delete()
    await eventually(lambda: len(log.of(PeerJoined)) == len(log.of(PeerLeft)) == 2)


async def test_a_player_of_a_token_that_expires_ends(endpoints: Endpoints) -> None:
    ann = endpoints.room.peer("ann")
    ann.add_stream(MediaStream([GreyTrack()]))
    await endpoints.room.join(ann)
    player = endpoints.client("viewer", expires_in=3)
    player.receive("video")
    assert (await player.open("/whep/ann")).status == 201
    assert (await endpoints.log.until(BridgeSessionClosed)).reason == "refused"


async def test_with_a_static_token_the_players_are_not_seen_in_the_channel(room: Room) -> None:
    ann = room.peer("ann")
    ann.add_stream(MediaStream([GreyTrack()]))
    log = EventLog(ann)
    await room.join(ann)
    async with Endpoints(room, token="secret") as endpoints:
        player = endpoints.client()
        player.token = "secret"
        player.receive("video")
        assert (await player.open("/whep/ann")).status == 201
        await picture(player.tracks["video"])
        assert len(log.of(PeerJoined)) == 1


def _are_near(levels: tuple[int, int], wanted: tuple[int, int]) -> bool:
    return all(abs(it - other) < 12 for it, other in zip(sorted(levels), wanted, strict=True))


def _is_loud(frame: object) -> bool:
    return max(bytes(frame.planes[0])) > 0  # type: ignore[attr-defined]
