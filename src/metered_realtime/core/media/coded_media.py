"""What the bytes of encoded media say: lengths of Opus packets, sizes of pictures, parameter sets of H.264."""

from __future__ import annotations

from collections.abc import Iterator

OPUS_RATE = 48_000
"""Samples per second in which Opus counts, whatever it was made from (RFC 7587 section 4.1)."""

OPUS_SILENCE = b"\xf8\xff\xfe"
"""20 ms of silence: one CELT frame without any bands."""

_SILK = (480, 960, 1_920, 2_880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)
_START = b"\0\0\1"
_SPS = 7

MAX_PARAMETERS = 1_024
"""Bytes of a parameter set of H.264 that are read: with all scaling lists those of encoders have some hundred."""

_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
"""Profiles whose parameter sets have chroma format and scaling lists (H.264 section 7.3.2.1.1)."""


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
    return b"".join(_parameter_sets(picture))


def _parameter_sets(picture: bytes) -> Iterator[bytes]:
    units = (unit.rstrip(b"\0") for unit in picture.split(_START)[1:])
    return (unit for unit in units if unit and unit[0] & 0x1F == _SPS)


def picture_size(mime_type: str, picture: bytes) -> tuple[int, int] | None:
    """Return the largest width and height that an encoded picture brings a decoder to, None if it says none.

    Raises:
        ValueError: a parameter set of H.264 cannot be read.
    """
    match mime_type.lower():
        case "video/vp8":
            # The start code tells a key frame from a picture whose first packets are missing (RFC 6386 section 9.1).
            is_key = len(picture) >= 10 and not picture[0] & 1 and picture[3:6] == b"\x9d\x01\x2a"
            return vp8_size(picture) if is_key else None
        case "video/h264":
            return max(
                (h264_size(unit) for unit in _parameter_sets(picture)), key=lambda it: it[0] * it[1], default=None
            )
    return None


def h264_size(parameters: bytes) -> tuple[int, int]:
    """Return width and height of decoded pictures, before they are cropped (H.264 section 7.3.2.1).

    Raises:
        ValueError: the parameter set is cut off, or longer than any is up to there.
    """
    bits = _Bits(parameters[1:MAX_PARAMETERS].replace(b"\0\0\3", b"\0\0"))
    profile = bits.take(8)
    bits.take(16)  # constraint flags and level
    bits.number()  # id
    if profile in _HIGH_PROFILES:
        _skip_high(bits)
    bits.number()  # log2_max_frame_num
    _skip_picture_order(bits)
    bits.number()  # reference frames
    bits.take(1)  # gaps in frame numbers
    width, height = bits.number() + 1, bits.number() + 1
    fields = 1 if bits.take(1) else 2
    return 16 * width, 16 * height * fields


def _skip_high(bits: _Bits) -> None:
    is_444 = bits.number() == 3
    if is_444:
        bits.take(1)
    bits.number()  # bit depths
    bits.number()
    bits.take(1)
    if not bits.take(1):
        return
    for index in range(12 if is_444 else 8):
        if bits.take(1):
            _skip_scaling_list(bits, 16 if index < 6 else 64)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.signed()) % 256
        last = following or last


def _skip_picture_order(bits: _Bits) -> None:
    kind = bits.number()
    if kind == 0:
        bits.number()
    elif kind == 1:
        bits.take(1)
        bits.number()  # Exp-Golomb codes of signed numbers are as long as those of unsigned ones
        bits.number()
        for _ in range(min(bits.number(), 255)):
            bits.number()


class _Bits:
    """Reads bits, and numbers in Exp-Golomb codes (H.264 section 9.1)."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the parameter set is cut off")
        return self._value >> self._left & (1 << count) - 1

    def number(self) -> int:
        """Return the next unsigned number."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a number of the parameter set is too large")
        return (1 << zeros) - 1 + self.take(zeros)

    def signed(self) -> int:
        """Return the next signed number."""
        code = self.number()
        return (code + 1) // 2 if code % 2 else -(code // 2)
