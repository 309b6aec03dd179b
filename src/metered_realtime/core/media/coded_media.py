"""Reading encoded media: lengths of Opus packets, sizes of pictures, parameter sets of H.264."""

from __future__ import annotations

from collections.abc import Iterator

OPUS_RATE = 48_000
"""Samples per second of the Opus clock, whatever the input rate was (RFC 7587 section 4.1)."""

OPUS_SILENCE = b"\xf8\xff\xfe"
"""An Opus packet of 20 ms of silence: one CELT frame without any bands."""

_SILK = (480, 960, 1_920, 2_880)
_HYBRID = (480, 960)
_CELT = (120, 240, 480, 960)
_START = b"\0\0\1"
_SPS = 7

MAX_PARAMETERS = 1_024
"""Bytes of an H.264 parameter set that are read. Encoders write a few hundred, even with all scaling lists."""

_HIGH_PROFILES = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244}
"""Profiles whose parameter sets carry a chroma format and scaling lists (H.264 section 7.3.2.1.1)."""


def opus_samples(data: bytes) -> int:
    """Return the duration of an Opus packet in samples (RFC 6716 section 3.1), 0 if it is invalid."""
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
    """Return the width and height of a VP8 key frame (RFC 6386 section 9.1)."""
    width, height = (int.from_bytes(key_frame[at : at + 2], "little") & 0x3FFF for at in (6, 8))
    return width, height


def h264_parameters(picture: bytes) -> bytes:
    """Return the sequence parameter sets of an Annex B stream, which hold size and profile. Empty if there are none."""
    return b"".join(_parameter_sets(picture))


def _parameter_sets(picture: bytes) -> Iterator[bytes]:
    units = (unit.rstrip(b"\0") for unit in picture.split(_START)[1:])
    return (unit for unit in units if unit and unit[0] & 0x1F == _SPS)


def picture_size(mime_type: str, picture: bytes) -> tuple[int, int] | None:
    """Return the largest width and height that an encoded picture declares, None if it declares none.

    Raises:
        ValueError: a parameter set of H.264 cannot be parsed.
    """
    match mime_type.lower():
        case "video/vp8":
            # The start code rules out a picture whose first packets are missing (RFC 6386 section 9.1).
            is_key = len(picture) >= 10 and not picture[0] & 1 and picture[3:6] == b"\x9d\x01\x2a"
            return vp8_size(picture) if is_key else None
        case "video/h264":
            return max(
                (h264_size(unit) for unit in _parameter_sets(picture)), key=lambda it: it[0] * it[1], default=None
            )
    return None


def h264_size(parameters: bytes) -> tuple[int, int]:
    """Return the width and height of decoded pictures before cropping (H.264 section 7.3.2.1).

    Raises:
        ValueError: the parameter set is truncated, or longer than `MAX_PARAMETERS` up to the size.
    """
    bits = _Bits(parameters[1:MAX_PARAMETERS].replace(b"\0\0\3", b"\0\0"))
    profile = bits.read(8)
    bits.read(16)  # constraint flags and level
    bits.read_number()  # id
    if profile in _HIGH_PROFILES:
        _skip_high(bits)
    bits.read_number()  # log2_max_frame_num
    _skip_picture_order(bits)
    bits.read_number()  # reference frames
    bits.read(1)  # gaps in frame numbers
    width, height = bits.read_number() + 1, bits.read_number() + 1
    fields = 1 if bits.read(1) else 2
    return 16 * width, 16 * height * fields


def _skip_high(bits: _Bits) -> None:
    is_444 = bits.read_number() == 3
    if is_444:
        bits.read(1)
    bits.read_number()  # bit depths
    bits.read_number()
    bits.read(1)
    if not bits.read(1):
        return
    for index in range(12 if is_444 else 8):
        if bits.read(1):
            _skip_scaling_list(bits, 16 if index < 6 else 64)


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.read_signed()) % 256
        last = following or last


def _skip_picture_order(bits: _Bits) -> None:
    kind = bits.read_number()
    if kind == 0:
        bits.read_number()
    elif kind == 1:
        bits.read(1)
        bits.read_number()  # Exp-Golomb codes of signed numbers are as long as those of unsigned ones
        bits.read_number()
        for _ in range(min(bits.read_number(), 255)):
            bits.read_number()


class _Bits:
    """Reads bits and Exp-Golomb codes (H.264 section 9.1)."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """Return the next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise ValueError("the parameter set is truncated")
        return self._value >> self._left & (1 << count) - 1

    def read_number(self) -> int:
        """Return the next unsigned number."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("a number of the parameter set is too large")
        return (1 << zeros) - 1 + self.read(zeros)

    def read_signed(self) -> int:
        """Return the next signed number."""
        code = self.read_number()
        return (code + 1) // 2 if code % 2 else -(code // 2)
