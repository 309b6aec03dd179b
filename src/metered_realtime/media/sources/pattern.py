"""A numbered test picture: colour bars, a moving box, and the frame number as a bar code."""

from __future__ import annotations

from av import VideoFrame

COUNTER_BITS = 16
BLACK, WHITE = 16, 235
MIN_SIZE, MAX_SIZE = 64, 4096

# 75 % colour bars as (Y, Cb, Cr), BT.601: white, yellow, cyan, green, magenta, red, blue, black.
_BARS = (
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
    (16, 128, 128),
)


class Pattern:
    """Draws numbered test pictures of one size, in yuv420p.

    The static parts are drawn once; a picture then takes three copies and a few row writes.

    Raises:
        ValueError: a side is odd, or outside 64 to 4096 pixels.
    """

    def __init__(self, width: int, height: int) -> None:
        for name, side in (("width", width), ("height", height)):
            if not isinstance(side, int) or side % 2 or not MIN_SIZE <= side <= MAX_SIZE:
                raise ValueError(f"{name} must be an even int from {MIN_SIZE} to {MAX_SIZE}, not {side!r}")
        self.width, self.height = width, height
        self._code_rows = max(16, height // 8 // 2 * 2)
        self._box = max(16, height // 6 // 2 * 2)
        probe = VideoFrame(width, height, "yuv420p")
        self._stride = probe.planes[0].line_size
        planes = enumerate(probe.planes)
        self._planes = [self._bars(index, plane.line_size, plane.height) for index, plane in planes]

    def frame(self, number: int) -> VideoFrame:
        """Return picture `number`, without `pts`. The bar code shows the number modulo 65536."""
        frame = VideoFrame(self.width, self.height, "yuv420p")
        for plane, pixels in zip(frame.planes, self._planes, strict=True):
            plane.update(pixels)
        luma = memoryview(frame.planes[0])
        self._draw_box(luma, number)
        self._draw_code(luma, number)
        return frame

    def _bars(self, plane: int, stride: int, rows: int) -> bytes:
        width = self.width if plane == 0 else self.width // 2
        bars = bytes(_BARS[x * len(_BARS) // width][plane] for x in range(width)).ljust(stride, b"\0")
        code = bytes([BLACK if plane == 0 else 128]) * stride
        code_rows = self._code_rows if plane == 0 else self._code_rows // 2
        return bars * (rows - code_rows) + code * code_rows

    def _draw_box(self, luma: memoryview, number: int) -> None:
        x = _bounce(number * 4, self.width - self._box)
        y = _bounce(number * 3, self.height - self._code_rows - self._box)
        row = bytes([WHITE]) * self._box
        for start in range(y * self._stride + x, (y + self._box) * self._stride + x, self._stride):
            luma[start : start + self._box] = row

    def _draw_code(self, luma: memoryview, number: int) -> None:
        row = bytearray()
        for bit in range(COUNTER_BITS):
            value = WHITE if number >> (COUNTER_BITS - 1 - bit) & 1 else BLACK
            end = (bit + 1) * self.width // COUNTER_BITS
            row += bytes([value]) * (end - len(row))
        for y in range(self.height - self._code_rows, self.height):
            luma[y * self._stride : y * self._stride + self.width] = row


def read_counter(frame: VideoFrame) -> int:
    """Return the number that a picture of `Pattern` shows, even after lossy encoding or scaling.

    Any other picture also yields some number: the code has no check digits.
    """
    grey = frame.reformat(format="gray")
    luma, stride = memoryview(grey.planes[0]), grey.planes[0].line_size
    y = grey.height - max(1, max(16, grey.height // 8) // 2)
    number = 0
    for bit in range(COUNTER_BITS):
        x = (2 * bit + 1) * grey.width // (2 * COUNTER_BITS)
        number = number << 1 | (luma[y * stride + x] > (BLACK + WHITE) // 2)
    return number


def _bounce(distance: int, span: int) -> int:
    """Return the position of a point that has moved `distance` back and forth between 0 and `span`."""
    if span <= 0:
        return 0
    there = distance % (2 * span)
    return there if there <= span else 2 * span - there
