"""Refusing pictures that are too large before a decoder allocates memory for them."""

from __future__ import annotations

from .coded_media import picture_size

MAX_PIXELS = 4_096 * 4_096
"""Pixels of a picture at most: more than a screen of 5120x2880 has. A decoded picture of that size takes 25 MB, and a
decoder keeps four. A key frame of 200 bytes may declare sixteen times as many pixels."""


class PictureLimit:
    """Admits pictures of up to `max_pixels`. After a refused one nothing is admitted before an admitted key frame.

    `refused` counts both. `largest` is the last size that was refused.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels
        self.refused = 0
        self.largest: tuple[int, int] | None = None
        self._is_shut = False

    def passes(self, mime_type: str, picture: bytes, *, is_key: bool) -> bool:
        """Return whether an encoded picture may be decoded."""
        try:
            size = picture_size(mime_type, picture)
        except ValueError:
            size = None
            self._is_shut, is_key = True, False  # unreadable parameters may mean any size
        if size is not None and size[0] * size[1] > self.max_pixels:
            self._is_shut, is_key, self.largest = True, False, size
        if is_key:
            self._is_shut = False
        self.refused += self._is_shut
        return not self._is_shut
