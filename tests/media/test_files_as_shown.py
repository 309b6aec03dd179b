"""A file is played as a player shows it: upright, with square pixels, the right streams, and within limits."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError
from av.stream import Disposition

from metered_realtime.media.codecs.pictures import FULL_RANGE
from metered_realtime.media.sources import stream_choice
from metered_realtime.media.sources.factories import from_file
from metered_realtime.media.sources.opening import open_source
from metered_realtime.media.sources.player import Player
from metered_realtime.media.sources.upright import stretched

WIDTH, HEIGHT = 64, 32
CORNERS = ((40, 90), (140, 200))
"""The brightness of the quarters of a picture."""
COUNT = 6


def quarters(levels: tuple[tuple[int, int], tuple[int, int]] = CORNERS, format: str = "yuv420p") -> av.VideoFrame:
    frame = av.VideoFrame(WIDTH, HEIGHT, format)
    for index, plane in enumerate(frame.planes):
        half = plane.width // 2
        rows = [
            (bytes([row[0]]) * half + bytes([row[1]]) * half if index == 0 else b"\x80" * plane.width).ljust(
                plane.line_size, b"\0"
            )
            for row in levels
        ]
        plane.update(rows[0] * (plane.height // 2) + rows[1] * (plane.height // 2))
    return frame


def film(path: Path, *streams: dict[str, Any]) -> Path:
    """Write a file with a video stream for each of these, and sound."""
    with av.open(str(path), "w") as container:
        made = [_add(container, **stream) for stream in streams]
        for number in range(COUNT):
            for stream, level in made:
                frame = quarters(CORNERS if level is None else ((level, level), (level, level)))
                frame.pts, frame.time_base = number, Fraction(1, 25)
                frame.color_range = stream.codec_context.color_range
                container.mux(stream.encode(frame))
        for stream, _ in made:
            container.mux(stream.encode(None))
    return path


def _add(
    container: Any,
    codec: str = "libx264",
    *,
    level: int | None = None,
    prepare: Callable[[Any], object] = lambda stream: None,
) -> tuple[Any, int | None]:
    stream = container.add_stream(codec, rate=25)
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    if codec == "libx264":
        stream.profile, stream.options = "Baseline", {"tune": "zerolatency"}
    prepare(stream)
    return stream, level


async def first(player: Player) -> av.VideoFrame:
    assert player.video is not None
    frame: Any = await player.video.recv()
    assert isinstance(frame, av.VideoFrame)
    await player.close()
    return frame


def levels(frame: av.VideoFrame) -> list[list[int]]:
    plane = frame.planes[0]
    rows = memoryview(plane)
    return [[rows[plane.line_size * (frame.height * y // 4) + frame.width * x // 4] for x in (1, 3)] for y in (1, 3)]


def turned(degrees: int, *, hflip: bool, vflip: bool) -> list[list[int]]:
    """Return the quarters rotated counter-clockwise, then mirrored."""
    shown = [list(row) for row in CORNERS]
    for _ in range(degrees // 90):
        shown = [list(row) for row in zip(*shown, strict=True)][::-1]
    shown = [row[::-1] for row in shown] if hflip else shown
    return shown[::-1] if vflip else shown


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize(("hflip", "vflip"), [(False, False), (True, False), (False, True)])
async def test_a_picture_is_turned_and_mirrored_as_the_file_says(
    tmp_path: Path, name: str, degrees: int, hflip: bool, vflip: bool
) -> None:
    prepare = lambda stream: stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)  # noqa: E731
    frame = await first(from_file(str(film(tmp_path / name, {"prepare": prepare}))))
    assert (frame.width, frame.height) == ((WIDTH, HEIGHT) if degrees % 180 == 0 else (HEIGHT, WIDTH))
    for found, expected in zip(levels(frame), turned(degrees, hflip=hflip, vflip=vflip), strict=True):
        assert found == pytest.approx(expected, abs=6)
    assert frame.pts == 0


@pytest.mark.parametrize(
    ("aspect", "degrees", "size"),
    [
        (Fraction(2), 0, (128, 32)),
        (Fraction(1, 2), 0, (64, 64)),
        (Fraction(16, 11), 0, (92, 32)),
        (Fraction(2), 90, (32, 128)),
        (Fraction(1), 0, (64, 32)),
    ],
)
async def test_pixels_are_made_square(tmp_path: Path, aspect: Fraction, degrees: int, size: tuple[int, int]) -> None:
    def prepare(stream: Any) -> None:
        stream.sample_aspect_ratio = aspect
        stream.set_display_rotation(degrees)

    frame = await first(from_file(str(film(tmp_path / "a.mp4", {"prepare": prepare}))))
    assert (frame.width, frame.height) == size


def test_no_aspect_makes_a_picture_huge() -> None:
    assert stretched(1280, 720, None) == stretched(1280, 720, Fraction(0)) == (1280, 720)
    for aspect in (Fraction(100_000), Fraction(1, 100_000)):
        wide, high = stretched(1920, 1080, aspect)
        assert wide * high <= stream_choice.MAX_PIXELS
        assert max(wide, high) <= 16_383


def flagged(flag: Disposition) -> Callable[[Any], None]:
    def prepare(stream: Any) -> None:
        stream.disposition = flag

    return prepare


NONE = Disposition(0)


@pytest.mark.parametrize(
    ("flags", "chosen"),
    [
        ((NONE, NONE), 0),
        ((NONE, Disposition.default), 1),
        ((Disposition.default, Disposition.forced), 1),
        ((Disposition.visual_impaired, NONE), 1),
        ((Disposition.comment, Disposition.comment), 0),
    ],
)
async def test_the_stream_is_the_one_that_a_player_begins_with(
    tmp_path: Path, flags: tuple[Disposition, ...], chosen: int
) -> None:
    streams = [{"level": 60 + 100 * number, "prepare": flagged(flag)} for number, flag in enumerate(flags)]
    frame = await first(from_file(str(film(tmp_path / "a.mkv", *streams))))
    assert levels(frame)[0][0] == pytest.approx(60 + 100 * chosen, abs=4)


def with_unknown_codec(path: Path) -> Path:
    """Replace the codec of an MPEG-4 film by an unknown one."""
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/ASP", b"V_XXXX4/ISO/ASP"))
    return path


async def test_a_stream_that_cannot_be_decoded_is_skipped(tmp_path: Path) -> None:
    path = with_unknown_codec(film(tmp_path / "a.mkv", {"codec": "mpeg4", "level": 60}, {"level": 160}))
    frame = await first(from_file(str(path)))
    assert levels(frame)[0][0] == pytest.approx(160, abs=4)


def song(path: Path, codec: str) -> Path:
    """Write sound with a cover, which comes first."""
    with av.open(str(path), "w", format="mp4" if path.suffix == ".m4a" else None) as container:
        cover: Any = container.add_stream("png")
        cover.width = cover.height = 16
        cover.pix_fmt, cover.disposition = "rgb24", Disposition.attached_pic
        sound: Any = container.add_stream(codec, rate=48_000)
        sound.layout = "stereo"
        picture = av.VideoFrame(16, 16, "rgb24")
        picture.planes[0].update(bytes(picture.planes[0].buffer_size))
        picture.pts = 0
        packets = cover.encode(picture) + cover.encode(None)
        container.mux(packets)
        for number in range(20):
            frame = av.AudioFrame("s16", "stereo", 1_024)
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            frame.sample_rate, frame.pts = 48_000, number * 1_024
            container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.mp3", "libmp3lame"), ("a.m4a", "aac"), ("a.flac", "flac")])
async def test_a_cover_is_not_played_as_video(tmp_path: Path, name: str, codec: str) -> None:
    player = from_file(str(song(tmp_path / name, codec)))
    assert player.video is None
    assert player.audio is not None
    assert (await player.audio.recv()).samples == 960
    await player.close()


def test_a_file_says_why_nothing_of_it_can_be_played(tmp_path: Path) -> None:
    path = with_unknown_codec(film(tmp_path / "a.mkv", {"codec": "mpeg4"}))
    with pytest.raises(ValueError, match=r"a\.mkv.*video is of a codec that cannot be decoded"):
        from_file(str(path))


NOT_AS_IT_IS: dict[str, Callable[[Any], object]] = {
    "turned": lambda stream: stream.set_display_rotation(90),
    "stretched": lambda stream: setattr(stream, "sample_aspect_ratio", Fraction(2)),
    "full range": lambda stream: setattr(stream.codec_context, "color_range", FULL_RANGE),
}


@pytest.mark.parametrize("what", NOT_AS_IT_IS)
async def test_packets_are_not_sent_of_what_has_to_be_changed(tmp_path: Path, what: str) -> None:
    path = film(tmp_path / "a.mp4", {"prepare": NOT_AS_IT_IS[what]})
    with pytest.raises(ValueError, match=f"a.mp4.*{what}"):
        from_file(str(path), packets=True)
    player = from_file(str(path), packets=None)
    assert player.video is not None
    frames: list[Any] = [await player.video.recv() for _ in range(COUNT)]
    assert [frame.pts for frame in frames] == [3_600 * number for number in range(COUNT)], "what was read is not lost"
    await player.close()


async def test_packets_of_what_is_shown_as_it_is_are_all_sent(tmp_path: Path) -> None:
    player = from_file(str(film(tmp_path / "a.mp4", {})), packets=True)
    assert player.video is not None
    packets: list[Any] = [await player.video.recv() for _ in range(COUNT)]
    assert [packet.pts for packet in packets] == [3_600 * number for number in range(COUNT)]
    assert packets[0].is_keyframe
    await player.close()


def huge_png(path: Path, side: int) -> Path:
    """Write a black picture that takes 31 KB as a file and hundreds of megabytes decoded."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes((side // 8 + 1) * side), 9))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + data + chunk(b"IEND", b""))
    return path


async def test_a_picture_beyond_8k_is_not_decoded(tmp_path: Path) -> None:
    player = from_file(str(huge_png(tmp_path / "a.png", 16_000)))
    assert player.video is not None
    with pytest.raises(MediaStreamError):
        await player.video.recv()
    assert player.packets_failed == 1
    await player.close()


def test_only_some_of_very_many_streams_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("pcm_s16le", rate=8_000) for _ in range(200)]
        frame = av.AudioFrame("s16", "stereo", 160)
        frame.sample_rate, frame.pts = 8_000, 0
        container.mux(streams[0].encode(frame))
    with open_source(str(path), shown="a.mkv", hint="") as container:
        assert len(container.streams) == stream_choice.MAX_STREAMS
    player = from_file(str(path))
    for track in (player.audio, player.video):
        if track is not None:
            track.stop()
