"""FFmpeg's WHIP client, by the muxer in PyAV's wheel."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

import av
import pytest
from aiortc.mediastreams import MediaStreamError

from metered_realtime import BridgeLimits
from metered_realtime.aiortc_compat import ice_consent
from metered_realtime.events.bridge import BridgeSessionClosed
from metered_realtime.media.sources.pattern import read_counter
from tests.bridge.certificates import p256
from tests.bridge.support import Endpoints, tracks_of
from tests.bridge.test_publishing import prefer
from tests.support.patience import PATIENCE
from tests.support.peers import Room, eventually

pytestmark = pytest.mark.skipif("whip" not in av.formats_available, reason="needs PyAV with FFmpeg 8: pip install av")

SECONDS = 5


async def test_ffmpeg_publishes_and_every_picture_is_received_once_and_in_order(
    endpoints: Endpoints, tmp_path: Path
) -> None:
    """What the network loses is excused, by the counters of those that miss it."""
    viewer = endpoints.room.peer("viewer")
    await endpoints.room.join(viewer)
    process = await _ffmpeg(endpoints, tmp_path)
    tracks = await tracks_of(await endpoints.participant(viewer, "cam"))
    reader = tracks["video"].encoded()
    decoder = av.CodecContext.create("h264", "r")
    numbers, lost = [], 0
    with contextlib.suppress(MediaStreamError):
        async with asyncio.timeout(PATIENCE):
            while True:
                packet = await reader.recv()
                assert reader.codec == "video/H264"
                numbers += [read_counter(frame) for frame in decoder.decode(packet)]
                lost = max(lost, _lost(endpoints) + reader.frames_dropped)
    async with asyncio.timeout(PATIENCE):
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert numbers == sorted(set(numbers))
    assert lost or numbers == list(range(int(out)))
    closed = await endpoints.log.until(BridgeSessionClosed)
    assert closed.reason == "deleted"


@pytest.mark.parametrize("mime_type", ["video/H264", "video/VP8"])  # which is passed on, and transcoded
async def test_a_late_viewer_gets_a_picture_although_ffmpeg_makes_no_key_frame_on_request(
    endpoints: Endpoints, tmp_path: Path, mime_type: str
) -> None:
    process = await _ffmpeg(endpoints, tmp_path, seconds=PATIENCE, gop=1_000_000)

    def received() -> int:
        sessions = endpoints.bridge.stats().sessions
        inbound = sessions[0].connection.inbound if sessions else ()
        return sum(it.frames_received for it in inbound if it.kind == "video")

    await eventually(lambda: received() > 50)  # its only key frame is the first picture
    player = endpoints.client("viewer")
    player.receive("video")
    prefer(player.pc, mime_type)
    assert (await player.open("/whep/cam")).status == 201
    async with asyncio.timeout(PATIENCE):
        await player.connected()
        assert (await player.tracks["video"].recv()).width == 320
        process.kill()
        await process.communicate()


async def test_ffmpeg_which_answers_no_consent_checks_publishes_for_as_long_as_it_likes(
    room: Room, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice_consent, "MAX_CONSENT", 1.0)
    async with Endpoints(room, limits=BridgeLimits(restart_window=0.01)) as endpoints:
        process = await _ffmpeg(endpoints, tmp_path)
        closed = await endpoints.log.until(BridgeSessionClosed)
        process.kill()  # FFmpeg hangs if the session ends before it does
        await process.communicate()
    assert (closed.reason, closed.detail) == ("deleted", "")


def _lost(endpoints: Endpoints) -> int:
    """Return how many packets of the encoder are missing."""
    inbound = [track for session in endpoints.bridge.stats().sessions for track in session.connection.inbound]
    return sum(track.packets_lost or 0 for track in inbound)


async def _ffmpeg(
    endpoints: Endpoints, path: Path, *, seconds: float = SECONDS, gop: int = 50
) -> asyncio.subprocess.Process:
    token = endpoints.room.server.mint_token("cam")
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bridge.ffmpeg_whip", endpoints.bridge.whip_url, token),
        *(str(seconds), str(gop)),
        *p256(path),
        stdout=asyncio.subprocess.PIPE,
    )
