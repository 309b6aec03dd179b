"""Colours of any range and matrix are preserved when encoded, pushed, mixed or recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from metered_realtime.media.codecs.encoders import SendCodec, make_encoder
from metered_realtime.media.codecs.pictures import FULL_RANGE, LIMITED_RANGE
from metered_realtime.media.sources.factories import from_file
from metered_realtime.media.sources.video_source import VideoSource
from metered_realtime.recording.contact_sheet import ContactSheet
from metered_realtime.recording.mixing import Grid
from metered_realtime.recording.packet_file import PacketFile, Unit
from metered_realtime.recording.parts import VideoPart
from metered_realtime.recording.reencoding import PictureEncoder

GREYS = (0, 64, 128, 192, 255)
WIDTH, HEIGHT = 320, 64
BAND = WIDTH // len(GREYS)
BT709 = 1

KINDS = {
    "yuv420p": ("yuv420p", LIMITED_RANGE),
    "yuv420p of no range": ("yuv420p", 0),
    "yuv420p of full range": ("yuv420p", FULL_RANGE),
    "yuvj420p": ("yuvj420p", FULL_RANGE),
    "yuvj420p of no range": ("yuvj420p", 0),
    "yuvj422p": ("yuvj422p", FULL_RANGE),
    "yuv444p": ("yuv444p", LIMITED_RANGE),
    "yuva420p": ("yuva420p", LIMITED_RANGE),
    "gray": ("gray", FULL_RANGE),
    "rgb24": ("rgb24", 0),
    "rgb24 of full range": ("rgb24", FULL_RANGE),
}
"""Formats and ranges of pictures."""

every_kind = pytest.mark.parametrize("kind", KINDS)


def bands(kind: str) -> av.VideoFrame:
    """Return five grey bands."""
    format, range_ = KINDS[kind]
    frame = av.VideoFrame(WIDTH, HEIGHT, format)
    is_limited = format.startswith("yuv") and not format.startswith("yuvj") and range_ != FULL_RANGE
    values = [round(16 + grey * 219 / 255) if is_limited else grey for grey in GREYS]
    size = 3 if format == "rgb24" else 1
    row = b"".join(bytes([value]) * BAND * size for value in values)
    for index, plane in enumerate(frame.planes):
        own = row if index == 0 else bytes([255 if index == 3 else 128]) * plane.width
        plane.update(own.ljust(plane.line_size, b"\0") * plane.height)
    frame.color_range = range_
    frame.pts, frame.time_base = 0, Fraction(1, 90_000)
    return frame


def red(matrix: int) -> av.VideoFrame:
    """Return a red picture in yuv420p with a colour matrix."""
    frame = av.VideoFrame(WIDTH, HEIGHT, "rgb24")
    frame.planes[0].update(bytes((200, 50, 30)) * WIDTH * HEIGHT)
    picture = frame.reformat(format="yuv420p", dst_colorspace="ITU709" if matrix == BT709 else "ITU601")
    picture.colorspace = matrix
    picture.pts, picture.time_base = 0, Fraction(1, 90_000)
    return picture


def greys(frame: av.VideoFrame) -> list[int]:
    """Return the brightness of the bands as shown."""
    shown = frame.reformat(format="gray", dst_color_range=FULL_RANGE)
    plane = shown.planes[0]
    row = memoryview(plane)[plane.line_size * (frame.height // 2) :]
    return [row[(2 * band + 1) * frame.width // 10] for band in range(len(GREYS))]


def colour(frame: av.VideoFrame) -> list[int]:
    """Return red, green and blue of the middle, as receivers without colour information show it."""
    shown = frame.reformat(format="rgb24", src_colorspace="ITU601")
    at = shown.planes[0].line_size * (frame.height // 2) + 3 * (frame.width // 2)
    return list(bytes(shown.planes[0])[at : at + 3])


def decoded(codec: str, packets: list[Any]) -> av.VideoFrame:
    decoder: Any = av.CodecContext.create({"video/vp8": "libvpx", "video/h264": "h264"}[codec], "r")
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(bytes(packet)))]
    return (frames or decoder.decode(None))[0]


def sent(frame: av.VideoFrame, codec: str = "video/vp8") -> av.VideoFrame:
    packets = make_encoder(SendCodec(codec, 90_000)).encode(frame, Fraction(0), 1_000_000, key_frame=True)
    return decoded(codec, packets)


def sent_small(frame: av.VideoFrame) -> av.VideoFrame:
    packets = make_encoder(SendCodec("video/vp8", 90_000), 2).encode(frame, Fraction(0), 1_000_000, key_frame=True)
    return decoded("video/vp8", packets)


def encoded_again(frame: av.VideoFrame) -> av.VideoFrame:
    return decoded("video/h264", [unit.data for unit in PictureEncoder("mp4").units(frame, 0.0)])


def mixed(frame: av.VideoFrame) -> av.VideoFrame:
    grid = Grid(WIDTH, HEIGHT)
    grid.show_picture("a", frame)
    return grid.picture


def pushed(frame: av.VideoFrame) -> av.VideoFrame:
    source = VideoSource()
    source.push(frame)
    picture = asyncio.run(source.recv())
    source.stop()
    return picture


def recorded(frame: av.VideoFrame, folder: Path) -> av.VideoFrame:
    part = VideoPart(folder / "a.nut")
    part.write(frame, 0.0)
    part.close()
    return first(part.path)


def first(path: Path) -> av.VideoFrame:
    with av.open(str(path)) as container:
        return next(container.decode(video=0))


WAYS: dict[str, Callable[[av.VideoFrame], av.VideoFrame]] = {
    "VP8": sent,
    "H.264": lambda frame: sent(frame, "video/h264"),
    "low rendition": sent_small,
    "encoded again": encoded_again,
    "mixed": mixed,
    "pushed": pushed,
}
every_way = pytest.mark.parametrize("way", WAYS)


@every_kind
@every_way
def test_greys_arrive_as_they_were(kind: str, way: str) -> None:
    assert greys(WAYS[way](bands(kind))) == pytest.approx(GREYS, abs=4)


@every_kind
def test_greys_are_recorded_as_they_were(kind: str, tmp_path: Path) -> None:
    assert greys(recorded(bands(kind), tmp_path)) == pytest.approx(GREYS, abs=4)


@every_kind
def test_greys_are_the_same_on_a_contact_sheet(kind: str, tmp_path: Path) -> None:
    sheet = ContactSheet(1, 1, WIDTH)
    sheet.add(bands(kind))
    assert greys(first(sheet.write_png(tmp_path / "a.png"))) == pytest.approx(GREYS, abs=4)


@every_way
@pytest.mark.parametrize("matrix", [BT709, 6])
def test_a_colour_arrives_as_it_was(way: str, matrix: int) -> None:
    assert colour(WAYS[way](red(matrix))) == pytest.approx([200, 50, 30], abs=6)


@pytest.mark.parametrize(
    ("name", "codec", "format", "range_"),
    [
        ("a.avi", "mjpeg", "yuvj420p", FULL_RANGE),
        ("a.avi", "mjpeg", "yuvj422p", FULL_RANGE),
        ("a.webm", "libvpx-vp9", "yuv420p", FULL_RANGE),
        ("a.webm", "libvpx-vp9", "yuv420p", LIMITED_RANGE),
        ("a.mp4", "libx264", "yuv420p", FULL_RANGE),
        ("a.mp4", "libx264", "yuv420p", LIMITED_RANGE),
    ],
)
async def test_greys_of_a_file_arrive_as_they_were(
    tmp_path: Path, name: str, codec: str, format: str, range_: int
) -> None:
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, format
        stream.codec_context.color_range = range_
        kind = next(it for it, what in KINDS.items() if what == (format, range_))
        frame = bands(kind)
        frame.time_base = Fraction(1, 25)
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    player = from_file(str(path))
    assert player.video is not None
    picture: Any = await player.video.recv()
    await player.close()
    assert greys(sent(picture)) == pytest.approx(GREYS, abs=4)


@pytest.mark.parametrize("range_", [FULL_RANGE, LIMITED_RANGE])
@pytest.mark.parametrize("extension", ["mkv", "mp4"])
def test_what_is_recorded_as_it_comes_says_its_range(tmp_path: Path, range_: int, extension: str) -> None:
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.framerate, context.color_range = Fraction(1, 25), Fraction(25), range_
    context.options = {"tune": "zerolatency"}
    data = b"".join(map(bytes, context.encode(bands("yuv420p of full range" if range_ == FULL_RANGE else "yuv420p"))))
    file = PacketFile(tmp_path / f"a.{extension}", {"mkv": "matroska"}.get(extension, extension))
    file.write(Unit("video", "video/h264", data, 0.0, True))
    file.close()
    picture = first(file.path)
    assert (picture.color_range == FULL_RANGE) == (range_ == FULL_RANGE)
    assert greys(picture) == pytest.approx(GREYS, abs=4)


def test_recorded_vp8_says_how_its_colours_are(tmp_path: Path) -> None:
    packets = make_encoder(SendCodec("video/vp8", 90_000)).encode(
        bands("yuvj420p"), Fraction(0), 1_000_000, key_frame=True
    )
    file = PacketFile(tmp_path / "a.webm", "webm")
    file.write(Unit("video", "video/vp8", bytes(packets[0]), 0.0, True))
    file.close()
    assert b"\x55\xb0" in file.path.read_bytes(), "Colour (RFC 9559 section 5.1.4.1.28.16)"
    assert greys(first(file.path)) == pytest.approx(GREYS, abs=4)
