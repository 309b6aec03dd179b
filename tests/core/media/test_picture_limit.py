"""Pictures that are too large are refused by their first bytes."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metered_realtime.core.media.coded_media import h264_size, picture_size
from metered_realtime.core.media.picture_limit import PictureLimit


def vp8(width: int, height: int, *, is_key: bool = True) -> bytes:
    """Return the header of a VP8 picture."""
    size = b"".join(side.to_bytes(2, "little") for side in (width, height))
    return bytes([not is_key, 0, 0]) + b"\x9d\x01\x2a" + size + bytes(20)


def h264(width: int, height: int, *, pix_fmt: str = "yuv420p", **options: str) -> bytes:
    """Return a key frame of x264 with its parameter sets."""
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, pix_fmt
    context.time_base, context.framerate = Fraction(1, 25), Fraction(25)
    context.options = {"preset": "ultrafast", "tune": "zerolatency", **options}
    frame = av.VideoFrame(width, height, pix_fmt)
    frame.pts = 0
    return b"".join(bytes(packet) for packet in context.encode(frame))


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 720), (1920, 1080)])
@pytest.mark.parametrize(
    "options",
    [
        {"profile": "baseline"},
        {"profile": "high", "x264-params": "cqm=jvt"},
        {"pix_fmt": "yuv444p", "x264-params": "cqm=jvt"},
        {"x264-params": "interlaced=1"},
    ],
)
def test_the_size_of_h264_is_read_from_its_parameters(width: int, height: int, options: dict[str, Any]) -> None:
    data = h264(width, height, **options)
    found = picture_size("video/H264", data)
    assert found is not None
    block = 32 if "interlaced=1" in options.values() else 16
    assert found == (-(-width // 16) * 16, -(-height // block) * block)


def test_the_largest_of_several_parameter_sets_counts() -> None:
    assert picture_size("video/H264", h264(640, 480) + h264(64, 48)) == (640, 480)


def test_the_size_of_vp8_is_that_of_its_key_frames() -> None:
    assert picture_size("video/VP8", vp8(16_000, 9_000)) == (16_000, 9_000)
    assert picture_size("video/VP8", vp8(16_000, 9_000, is_key=False)) is None
    assert picture_size("video/VP8", b"\0\0\0\x9d\x01\x2a") is None
    assert picture_size("video/VP8", b"\xfe" * 30) is None, "the end of a picture"
    assert picture_size("audio/opus", vp8(16_000, 9_000)) is None


@given(st.binary(max_size=3_000))
def test_whatever_is_in_a_parameter_set_it_is_read_or_refused(data: bytes) -> None:
    try:
        width, height = h264_size(b"\x67" + data)
    except ValueError:
        return
    assert width >= 16
    assert height >= 16


def test_after_a_refused_picture_all_are_refused_up_to_a_key_frame_that_fits() -> None:
    limit = PictureLimit(1_000_000)

    def passes(data: bytes, *, is_key: bool) -> bool:
        return limit.passes("video/VP8", data, is_key=is_key)

    assert passes(vp8(640, 480), is_key=True)
    assert not passes(vp8(16_000, 16_000), is_key=True)
    assert not passes(vp8(0, 0, is_key=False), is_key=False)
    assert (limit.refused, limit.largest) == (2, (16_000, 16_000))
    assert passes(vp8(640, 480), is_key=True)
    assert passes(vp8(0, 0, is_key=False), is_key=False)
    assert limit.refused == 2


def test_parameters_between_key_frames_are_checked_and_unreadable_ones_refused() -> None:
    limit = PictureLimit(640 * 480)
    assert limit.passes("video/H264", h264(640, 480), is_key=True)
    assert not limit.passes("video/H264", h264(1280, 720), is_key=False)
    assert limit.passes("video/H264", h264(640, 480), is_key=True)
    assert not limit.passes("video/H264", b"\0\0\1\x67\x64", is_key=True)
    assert not limit.passes("video/H264", b"\0\0\1\x41", is_key=False)
