"""The sources of one section with simulcast: which carry the layer that is received (RFC 8852)."""

from __future__ import annotations

from .source_table import MAX_SOURCES

LAYER_SILENT_AFTER = 2.0
"""Seconds without a packet of the chosen layer after which others are taken: an end that pauses layers one by one when
the path gets narrow sends nothing else."""


class ReceivedLayer:
    """Takes the packets of one layer, and those of others while that one is silent. Times are in seconds.

    Senders name the layer in the first packets of a source only.
    """

    def __init__(self, rid: str) -> None:
        self.rid = rid
        self._of: dict[int, str] = {}
        self._media: dict[str, int] = {}
        self._heard_at = float("-inf")

    def takes(self, source: int, rid: str | None, repaired: str | None, now: float) -> bool:
        """Return whether to take a packet. `rid` and `repaired` are the ids in it, None if there is none."""
        name = rid or repaired
        if name is not None and (source in self._of or len(self._of) < MAX_SOURCES):
            self._of[source] = name
            if rid is not None:
                self._media[rid] = source
        if self._of.get(source, self.rid) != self.rid:
            return now - self._heard_at > LAYER_SILENT_AFTER
        self._heard_at = now
        return True

    def repaired_by(self, source: int) -> int | None:
        """Return the source whose packets a source repeats, None if it is not known to repeat any."""
        name = self._of.get(source)
        original = self._media.get(name) if name is not None else None
        return original if original != source else None

    def forget(self, source: int) -> None:
        """Remove a source."""
        name = self._of.pop(source, None)
        if name is not None and self._media.get(name) == source:
            del self._media[name]
