"""What the bytes of encoded media say: lengths of Opus packets, sizes of VP8 pictures, parameter sets of H.264."""

from __future__ import annotations

OPUS_RATE = 48_000
"""Samples per second in which Opus counts, whatever it was made from (RFC 7587 section 4.1)."""

OPUS_SILENCE = b"\xf8\xff\xfe"
"""20 ms of silence: one CELT frame without any bands."""

_SILK = (480, 960, 1_920, 2_880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)
_START = b"\0\0\1"
_SPS = 7


def opus_samples(data: bytes) -> int:
    """Return the samples that an Opus packet lasts (RFC 6716 section 3.1), 0 if it is none."""
    if not data:
        return 0
    config, count = data[0] >> 3, data[0] & 3
    if config < 12:
        frame = _SILK[config & 3]
    elif config < 16:
        frame = _HYBRID[config & 1]
    else:
        frame = _CELT[config & 3]
    if count == 3:
        return frame * (data[1] & 0x3F) if len(data) > 1 else 0
    return frame * (1 if count == 0 else 2)


def vp8_size(key_frame: bytes) -> tuple[int, int]:
    """Return width and height of a VP8 key frame (RFC 6386 section 9.1)."""
    width, height = (int.from_bytes(key_frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width, height


def h264_parameters(picture: bytes) -> bytes:
    """Return the sequence parameter sets in an Annex B stream, which say size and profile. Empty if there are none."""
    units = (unit.rstrip(b"\0") for unit in picture.split(_START)[1:])
    return b"".join(unit for unit in units if unit and unit[0] & 0x1F == _SPS)
