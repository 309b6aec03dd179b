"""Encoders accept frames of any kind and do not change them."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import av
import pytest
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from av.video.frame import PictureType

from metered_realtime.media.codecs.encoders import SendCodec, make_encoder
from metered_realtime.media.codecs.pictures import copied
from metered_realtime.media.sources.pattern import Pattern, read_counter

VP8 = SendCodec("video/vp8", 90_000)
H264 = SendCodec("video/h264", 90_000, "42")
OPUS = SendCodec("audio/opus", 48_000)
DECODERS = {VP8: "libvpx", H264: "h264", OPUS: "libopus"}
FRAME_RATE = 30


def decoded(codec: SendCodec, packets: list[Any]) -> list[Any]:
    decoder = av.CodecContext.create(DECODERS[codec], "r")
    return [frame for packet in (*packets, None) for frame in decoder.decode(packet)]


def encode(codec: SendCodec, frames: list[Any], bitrate: int = 500_000, keys: tuple[int, ...] = ()) -> list[Any]:
    encoder = make_encoder(codec)
    packets = []
    for number, frame in enumerate(frames):
        packets += encoder.encode(frame, Fraction(number, FRAME_RATE), bitrate, key_frame=number in keys)
    return packets


def sound(number: int, *, form: str, layout: str, rate: int, samples: int) -> av.AudioFrame:
    """Return part of a 1 kHz sine at half of full scale."""
    frame = av.AudioFrame(format=form, layout=layout, samples=samples)
    frame.sample_rate = rate
    values = [math.sin(2 * math.pi * 1_000 * (number * samples + n) / rate) / 2 for n in range(samples)]
    for plane in frame.planes:
        memory = memoryview(plane).cast("B")
        target: Any = memory.cast("f" if form.startswith("flt") else "h")
        width = len(frame.layout.channels) if len(frame.planes) == 1 else 1
        for n, value in enumerate(values):
            for channel in range(width):
                target[n * width + channel] = value if form.startswith("flt") else round(value * 32_767)
    return frame


@pytest.mark.parametrize("codec", [VP8, H264])
def test_pictures_come_out_with_their_times_and_key_frames_where_asked(codec: SendCodec) -> None:
    pattern = Pattern(320, 240)
    packets = encode(codec, [pattern.frame(n) for n in range(10)], keys=(4,))
    assert [packet.pts for packet in packets] == [n * 3_000 for n in range(10)]
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == [0, 4]
    assert all(packet.time_base == Fraction(1, 90_000) for packet in packets)
    assert [read_counter(frame) for frame in decoded(codec, packets)] == list(range(10))


@pytest.mark.parametrize("codec", [VP8, H264])
def test_a_key_frame_is_complete_in_itself(codec: SendCodec) -> None:
    pattern = Pattern(320, 240)
    packets = encode(codec, [pattern.frame(n) for n in range(10)], keys=(4,))
    assert [read_counter(frame) for frame in decoded(codec, packets[4:])] == list(range(4, 10))


@pytest.mark.parametrize("codec", [VP8, H264])
def test_a_frame_is_left_as_it_was(codec: SendCodec) -> None:
    frame = Pattern(320, 240).frame(7)
    frame.pts, frame.time_base, frame.pict_type = 77, Fraction(1, 1_000), PictureType.I
    before = bytes(frame.planes[0])
    packets = encode(codec, [frame] * 3)
    assert (frame.pts, frame.time_base, frame.pict_type) == (77, Fraction(1, 1_000), PictureType.I)
    assert bytes(frame.planes[0]) == before
    assert [packet.is_keyframe for packet in packets] == [True, False, False], "its picture type asks for nothing"


@pytest.mark.parametrize("codec", [VP8, H264])
@pytest.mark.parametrize(
    ("size", "form"), [((320, 240), "rgb24"), ((322, 242), "yuv420p"), ((321, 241), "yuv420p"), ((64, 64), "yuvj444p")]
)
def test_any_size_and_format_is_encoded(codec: SendCodec, size: tuple[int, int], form: str) -> None:
    frame = Pattern(640, 480).frame(3).reformat(*size, format=form)
    (picture,) = decoded(codec, encode(codec, [frame]))
    assert (picture.width, picture.height) == (size[0] & ~1, size[1] & ~1)


def test_rows_that_are_padded_in_another_way_are_copied_right() -> None:
    frame = Pattern(320, 240).frame(9)
    graph = av.filter.Graph()
    source, crop, sink = (
        graph.add_buffer(template=None, width=320, height=240, format=frame.format, time_base=1),
        *(graph.add(*it) for it in (("crop", "200:240:0:0"), ("buffersink", None))),
    )
    source.link_to(crop)
    crop.link_to(sink)
    graph.configure()
    frame.pts = 0
    graph.push(frame)
    cropped: Any = graph.pull()
    assert cropped.planes[0].line_size == 320
    own = copied(cropped)
    for row in (0, 100, 239):
        start = row * own.planes[0].line_size
        assert bytes(own.planes[0])[start : start + 200] == bytes(frame.planes[0])[row * 320 : row * 320 + 200]


@pytest.mark.parametrize("codec", [VP8, H264])
def test_another_size_begins_with_a_key_frame(codec: SendCodec) -> None:
    frames = [Pattern(320, 240).frame(n) for n in range(3)] + [Pattern(160, 120).frame(n) for n in range(3)]
    packets = encode(codec, frames)
    assert [n for n, packet in enumerate(packets) if packet.is_keyframe] == [0, 3]
    assert [frame.width for frame in decoded(codec, packets)] == [320] * 3 + [160] * 3


@pytest.mark.parametrize("codec", [VP8, H264])
def test_what_comes_out_follows_the_bitrate(codec: SendCodec) -> None:
    encoder, chance = make_encoder(codec), random.Random(1)
    noise = bytes(100 + value // 8 for value in chance.randbytes(320 * 240 + 10_000))
    sizes = [0, 0]
    for number in range(120):
        frame = Pattern(320, 240).frame(0)
        start = number * 83 % 10_000
        frame.planes[0].update(noise[start : start + 320 * 240])
        bitrate = 1_200_000 if number < 60 else 500_000
        packets = encoder.encode(frame, Fraction(number, 30), bitrate, key_frame=False)
        if number % 60 >= 20:
            sizes[number // 60] += sum(packet.size for packet in packets)
    assert 1.8 < sizes[0] / sizes[1] < 3


@pytest.mark.parametrize("codec", [VP8, H264])
def test_a_rendition_can_be_smaller(codec: SendCodec) -> None:
    packets = make_encoder(codec, 2).encode(Pattern(640, 360).frame(1), Fraction(0), 200_000, key_frame=False)
    (picture,) = decoded(codec, packets)
    assert (picture.width, picture.height) == (320, 180)


@pytest.mark.parametrize(
    ("form", "layout", "rate", "samples"),
    [
        ("s16", "stereo", 48_000, 960),
        ("s16", "mono", 16_000, 320),
        ("fltp", "stereo", 44_100, 1_024),
        ("flt", "mono", 48_000, 480),
        ("s16p", "5.1", 48_000, 960),
        ("s16", "mono", 8_000, 4_000),
    ],
)
def test_sound_of_any_format_rate_and_layout_is_sent_in_20_ms(form: str, layout: str, rate: int, samples: int) -> None:
    encoder = make_encoder(OPUS)
    packets: list[Any] = []
    for number in range(rate // samples + 1):
        frame = sound(number, form=form, layout=layout, rate=rate, samples=samples)
        at = Fraction(5) + Fraction(number * samples, rate)
        packets += encoder.encode(frame, at, 0, key_frame=False)
    assert 45 <= len(packets) <= 75
    assert [packet.pts for packet in packets] == [240_000 + n * 960 for n in range(len(packets))]
    assert all(packet.time_base == Fraction(1, 48_000) for packet in packets)
    assert all(-14 <= packet.opaque <= -6 for packet in packets[2:]), "a sine of half scale has -9 dBov"
    heard = decoded(OPUS, packets)[-2]
    samples_heard = memoryview(heard.planes[0]).cast("B")[: heard.samples * 4].cast("h")
    assert 10_000 < max(samples_heard) < 24_000


@pytest.mark.parametrize(
    ("mime_type", "size", "step"), [("audio/pcmu", 160, 160), ("audio/pcma", 160, 160), ("audio/g722", 160, 160)]
)
def test_the_codecs_of_telephony_are_sent_as_well(mime_type: str, size: int, step: int) -> None:
    encoder = make_encoder(SendCodec(mime_type, 8_000))
    packets: list[Any] = []
    for number in range(6):
        frame = sound(number, form="s16", layout="stereo", rate=48_000, samples=960)
        packets += encoder.encode(frame, Fraction(number, 50), 0, key_frame=False)
    assert [packet.size for packet in packets] == [size] * len(packets)
    assert [packet.pts for packet in packets] == [n * step for n in range(len(packets))]
    assert len(packets) >= 5


def test_the_format_of_sound_may_change() -> None:
    encoder = make_encoder(OPUS)
    packets: list[Any] = []
    for number in range(10):
        rate, layout = (48_000, "stereo") if number < 5 else (16_000, "mono")
        frame = sound(number, form="s16", layout=layout, rate=rate, samples=rate // 50)
        packets += encoder.encode(frame, Fraction(number, 50), 0, key_frame=False)
    assert len(packets) >= 8
    times = [packet.pts for packet in packets]
    assert times == sorted(set(times))


def test_silence_is_said_to_be_silent() -> None:
    frame = av.AudioFrame(format="s16", layout="mono", samples=960)
    frame.sample_rate = 48_000
    frame.planes[0].update(bytes(frame.planes[0].buffer_size))
    packets = make_encoder(OPUS).encode(frame, Fraction(0), 0, key_frame=False)
    packets += make_encoder(OPUS).encode(frame, Fraction(1, 50), 0, key_frame=False)
    assert packets
    assert {packet.opaque for packet in packets} == {-127}


def test_encoders_refuse_other_objects_than_frames() -> None:
    for codec in (VP8, OPUS):
        with pytest.raises(TypeError):
            make_encoder(codec).encode("frame", Fraction(0), 0, key_frame=False)
    with pytest.raises(ValueError, match="video/av1"):
        make_encoder(SendCodec("video/av1", 90_000))


def test_profiles_that_are_sent_the_same_are_the_same() -> None:
    made = {
        SendCodec.of(
            RTCRtpCodecParameters(mimeType="video/H264", clockRate=90_000, parameters={"profile-level-id": profile})
        )
        for profile in ("42001f", "42e01f", "42E01F")
    }
    assert made == {H264}
