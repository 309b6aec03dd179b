"""The bridge of the examples between a channel and a VideoRoom of a real Janus. Pictures are known by their bytes."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from metered_realtime import MediaStream, ToneTrack
from tests.support.patience import PATIENCE
from tests.support.peer_fixtures import no_socket_left_behind, room  # noqa: F401 - fixtures
from tests.support.peers import Room, eventually
from tests.support.sfu.clips import Clip, ClipTrack, clip_numbers, starts_again
from tests.support.sfu.janus import needs_janus
from tests.support.sfu.world import World, visitor
from tests.support.sfu.world import world as make_world

pytestmark = needs_janus

CLIPS = [Clip(seed) for seed in range(6)]
COUNT = 25
"""Pictures that a test counts: more than a clip has."""


@pytest.fixture
async def world(room: Room, tmp_path: Path) -> AsyncIterator[World]:  # noqa: F811
    """A server and a Janus."""
    async with make_world(room, tmp_path) as made:
        yield made


def whole(numbers: list[int]) -> bool:
    """Return whether pictures follow each other, apart from where a clip starts again."""
    return all(after in (before + 1, 0) for before, after in pairwise(numbers))


async def test_three_members_and_three_publishers_see_each_others_pictures_as_they_were_encoded(world: World) -> None:
    await world.bridge()
    names = ["Ada", "Ben", "Cyd"]
    members = [await world.member(name, ClipTrack(clip)) for name, clip in zip(names, CLIPS, strict=False)]
    async with visitor(world.janus) as guest:
        guests = ["Xia", "Yan", "Zoe"]
        for name, clip in zip(guests, CLIPS[3:], strict=True):
            await guest.publish_with_aiortc(name, ClipTrack(clip))
        watched = [(await guest.watch(name))[0] for name in names]
        received = [await member.video(name) for member in members for name in guests]
        seen = await asyncio.gather(*(clip_numbers(track, CLIPS, COUNT) for track in (*watched, *received)))
        assert [clip for clip, _ in seen] == CLIPS[:3] + 3 * CLIPS[3:]
        assert all(whole(numbers) for _, numbers in seen)
        assert sorted(guest.feeds) == names, "nothing is carried back into the room"
        assert [sorted(member.streams) for member in members] == 3 * [guests], "nor into the channel"


async def test_sound_is_carried_with_the_picture_of_its_stream(world: World) -> None:
    await world.bridge()
    tone, other = ToneTrack(), ToneTrack()
    member = await world.member("Ada", tone, ClipTrack(CLIPS[0]))
    async with visitor(world.janus) as guest:
        await guest.publish("Xia", other, ClipTrack(CLIPS[3]))
        await guest.feed_with("Ada", "video", "audio")
        tracks = await guest.watch("Ada")
        assert [track.kind for track in tracks] == ["video", "audio"]
        await eventually(lambda: "Xia" in member.streams and len(member.streams["Xia"].get_tracks()) == 2)
        for track in (tracks[1], member.streams["Xia"].get_audio_tracks()[0]):
            frame = await track.recv()
            assert frame.sample_rate == 48_000
            assert track.codec == "audio/opus"
    tone.stop()
    other.stop()


async def test_names_and_the_origin_are_told_at_the_other_side(world: World) -> None:
    await world.bridge()
    member = await world.member("Ada", ClipTrack(CLIPS[0]))
    async with visitor(world.janus) as guest:
        publisher = await guest.publish("Xia", ClipTrack(CLIPS[3]))
        assert (await guest.feed("Ada")).streams == (("video", "carried from the channel room"),)
        await member.video("Xia")
        assert member.metadata["Xia"] == {"label": "Xia", "sfu_bridge": {"room": 1234, "publisher": publisher.id}}


async def test_requests_for_key_frames_reach_the_senders_at_the_other_side(world: World) -> None:
    await world.bridge()
    member = await world.member("Ada", ClipTrack(CLIPS[0], loops=False))
    async with visitor(world.janus) as guest:
        await guest.publish("Xia", ClipTrack(CLIPS[3], loops=False))
        in_room, in_channel = (await guest.watch("Ada"))[0], await member.video("Xia")
        await asyncio.gather(starts_again(in_room, CLIPS[0]), starts_again(in_channel, CLIPS[3]))


async def test_who_leaves_one_side_is_gone_on_the_other(world: World) -> None:
    await world.bridge()
    ada, ben = [await world.member(name, ClipTrack(clip)) for name, clip in zip(("Ada", "Ben"), CLIPS, strict=False)]
    async with visitor(world.janus) as guest:
        xia = await guest.publish("Xia", ClipTrack(CLIPS[3]))
        await guest.publish("Yan", ClipTrack(CLIPS[4]))
        await guest.feed("Ada")
        await guest.feed("Ben")
        await ben.video("Xia")
        await ben.video("Yan")
        await ada.peer.close()
        await eventually(lambda: list(guest.feeds) == ["Ben"])
        await xia.handle.request({"request": "unpublish"})
        await eventually(lambda: list(ben.streams) == ["Yan"])
        watched = (await guest.watch("Ben"))[0]
        for track, clip in ((watched, CLIPS[1]), (await ben.video("Yan"), CLIPS[4])):
            assert (await clip_numbers(track, CLIPS, 5))[0] is clip


async def test_another_track_and_another_stream_of_a_member_follow_into_the_room(world: World) -> None:
    await world.bridge()
    camera, screen, tone = ClipTrack(CLIPS[0]), ClipTrack(CLIPS[1]), ToneTrack()
    stream = MediaStream([camera])
    member = await world.member("Ada")
    member.peer.add_stream(stream)
    async with visitor(world.janus) as guest:
        await guest.feed_with("Ada", "video")
        member.peer.add_track(tone, stream)
        await guest.feed_with("Ada", "video", "audio")
        member.peer.add_stream(MediaStream([screen]), {"label": "Screen"})
        shown = (await guest.watch("Ada (Screen)"))[0]
        assert (await clip_numbers(shown, CLIPS, 5))[0] is CLIPS[1]
        member.peer.remove_track(tone)
        await guest.feed_with("Ada", "video")
        assert (await clip_numbers((await guest.watch("Ada"))[0], CLIPS, 5))[0] is CLIPS[0]
        assert not [report for report in world.reports if report["event"] in ("stopped", "not carried")]
    tone.stop()


async def test_two_channels_meet_in_a_room_and_nothing_goes_round(world: World) -> None:
    await world.bridge("east")
    await world.bridge("west")
    ada = await world.member("Ada", ClipTrack(CLIPS[0]), channel="east")
    ben = await world.member("Ben", ClipTrack(CLIPS[1]), channel="west")
    async with visitor(world.janus) as guest:
        await guest.publish("Xia", ClipTrack(CLIPS[3]))
        wanted = [(ada, "Ben", CLIPS[1]), (ada, "Xia", CLIPS[3]), (ben, "Ada", CLIPS[0]), (ben, "Xia", CLIPS[3])]
        received = [await member.video(name) for member, name, _ in wanted]
        seen = await asyncio.gather(*(clip_numbers(track, CLIPS, COUNT) for track in received))
        assert [clip for clip, _ in seen] == [clip for _, _, clip in wanted]
        assert [sorted(it) for it in (ada.streams, ben.streams)] == [["Ben", "Xia"], ["Ada", "Xia"]]
        assert sorted(guest.feeds) == ["Ada", "Ben"]


async def test_a_connection_of_the_mesh_that_is_replaced_is_carried_on(world: World) -> None:
    await world.bridge()
    ada = await world.member("Ada", ClipTrack(CLIPS[0]))
    async with visitor(world.janus) as guest:
        watched = (await guest.watch("Ada"))[0]
        await clip_numbers(watched, CLIPS, 3)
        (bot,) = ada.peer.remote_peers
        await bot.pc.close()
        await world.reported("to room", count=2)
        assert (await clip_numbers((await guest.watch("Ada"))[0], CLIPS, COUNT))[0] is CLIPS[0]


async def test_everything_is_carried_again_after_a_restart_of_janus(world: World) -> None:
    await world.bridge()
    ada = await world.member("Ada", ClipTrack(CLIPS[0]))
    async with visitor(world.janus) as guest:
        await guest.publish("Xia", ClipTrack(CLIPS[3]))
        await guest.feed("Ada")
        await ada.video("Xia")
        await world.janus.kill()
        await eventually(lambda: not ada.streams)
    await world.reported("janus lost")
    await world.janus.start()
    await world.reported("room entered", count=2)
    async with visitor(world.janus) as guest:
        await guest.publish("Xia", ClipTrack(CLIPS[3]))
        for track, clip in (((await guest.watch("Ada"))[0], CLIPS[0]), (await ada.video("Xia"), CLIPS[3])):
            assert (await clip_numbers(track, CLIPS, 5))[0] is clip


async def test_a_codec_that_the_room_does_not_take_is_left_out_and_told(world: World) -> None:
    async with visitor(world.janus, videocodec="vp8") as guest:
        await world.bridge()
        tone = ToneTrack()
        await world.member("Ada", ClipTrack(Clip(0, "video/H264")), tone)
        await world.reported("not carried", name="Ada", codecs=["video/H264"])
        await guest.feed_with("Ada", "audio")
        tone.stop()


async def test_h264_and_vp8_pass_where_the_room_takes_both(world: World) -> None:
    await world.bridge()
    clips = [Clip(0, "video/H264"), Clip(1, "video/VP8")]
    for name, clip in zip(("Ada", "Ben"), clips, strict=True):
        await world.member(name, ClipTrack(clip))
    async with visitor(world.janus) as guest:
        for name, clip in zip(("Ada", "Ben"), clips, strict=True):
            track = (await guest.watch(name))[0]
            assert (await clip_numbers(track, clips, 5))[0] is clip
            assert track.codec == clip.codec


async def start_program(world: World, url: str, key: str, *arguments: str) -> asyncio.subprocess.Process:
    """Run the bridge as its users do."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "examples.sfu_bridge", f"--url={url}", f"--api-key={key}", "--channel=room"),
        *(f"--janus={world.janus.url}", "--json", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_program_tells_what_it_does_and_ends_properly(world: World, room: Room) -> None:  # noqa: F811
    program = await start_program(world, room.server.url, room.server.api_key, "--create", "--room=1234")
    assert program.stdout is not None
    await world.member("Ada", ClipTrack(CLIPS[0]))
    told = []
    async with asyncio.timeout(PATIENCE):
        while not told or told[-1]["event"] != "to room":
            told.append(json.loads(await program.stdout.readline()))
    assert [it["event"] for it in told] == ["joined", "room entered", "to room"]
    assert (told[2]["name"], told[2]["codecs"]) == ("Ada", ["video/VP8"])
    async with visitor(world.janus) as guest:
        await guest.feed("Ada")
        program.send_signal(signal.SIGINT)
        rest, errors = await program.communicate()
        await eventually(lambda: not guest.feeds)
    assert (program.returncode, errors) == (130, b"")
    assert [json.loads(line)["event"] for line in rest.splitlines()] == ["stopped"]


async def test_the_program_says_that_there_is_no_such_room(world: World, room: Room) -> None:  # noqa: F811
    program = await start_program(world, room.server.url, room.server.api_key, "--room=77")
    _, errors = await program.communicate()
    assert (program.returncode, errors.decode()) == (1, "Error: No such room (77) (426)\n")
