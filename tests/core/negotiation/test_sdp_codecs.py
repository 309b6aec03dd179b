"""What a codec is, and why one does not fit."""

from __future__ import annotations

import pytest

from metered_realtime.core.negotiation.sdp_codecs import MAX_MISFITS, SdpCodec, describe_misfits

KNOWN = [
    SdpCodec(97, "VP8", 90_000),
    SdpCodec(99, "H264", 90_000, parameters={"packetization-mode": "1", "profile-level-id": "42001f"}),
    SdpCodec(101, "H264", 90_000, parameters={"packetization-mode": "1", "profile-level-id": "42e01f"}),
]


def codec(name: str, parameters: str = "", clock_rate: int = 90_000) -> SdpCodec:
    made = SdpCodec(96, name, clock_rate)
    made.take_parameters(parameters)
    return made


@pytest.mark.parametrize(
    ("offered", "reason"),
    [
        (codec("AV1"), "AV1 is unknown"),
        (codec("vp8", clock_rate=48_000), "vp8 has clock rate 48000, not 90000"),
        (codec("H264", "profile-level-id=42e01f"), "H264 has packetization-mode 0, not 1"),
        (
            codec("h264", "packetization-mode=1;profile-level-id=640032"),
            "h264 has profile-level-id 640032, not 42001f or 42e01f",
        ),
    ],
)
def test_a_codec_is_told_by_what_does_not_fit(offered: SdpCodec, reason: str) -> None:
    assert describe_misfits([offered, codec("rtx", "apt=96"), offered], KNOWN) == reason


def test_what_goes_with_a_codec_is_told_where_there_is_nothing_else() -> None:
    assert describe_misfits([codec("rtx", "apt=96")], KNOWN) == "rtx is unknown"


def test_only_some_reasons_are_told() -> None:
    reasons = describe_misfits([codec(f"C{number}") for number in range(100)], KNOWN)
    assert reasons.count("unknown") == MAX_MISFITS
    assert reasons.endswith(f", and {100 - MAX_MISFITS} more")


@pytest.mark.parametrize("level", ["1f", "3c", "00", "ff", "09"])
def test_a_level_is_shown_as_one_that_every_end_knows(level: str) -> None:
    """It says how much an end takes, and is no part of what has to match (RFC 6184 section 8.2.2)."""
    shown = codec("H264", f"profile-level-id=42E0{level}").parameters["profile-level-id"]
    assert shown is not None
    assert (shown[:4], int(shown[4:], 16) in range(10, 53)) == ("42e0", True)
