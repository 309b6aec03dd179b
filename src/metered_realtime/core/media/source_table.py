"""The media sources (SSRC) of a section: a bounded number, where a new source may replace a silent one."""

from __future__ import annotations

MAX_SOURCES = 31
"""Sources in one media section: as many as a report has blocks for (5 bits, RFC 3550 section 6.4). Browsers use two, or
six with simulcast."""

SILENT_AFTER = 10.0
"""Seconds without a packet after which a source may be replaced: more than two report intervals."""


class SourceTable:
    """The sources of one section and the time of each one's last packet. Time is an argument, in seconds."""

    def __init__(self) -> None:
        self.refused = 0
        """Packets of sources that did not fit."""
        self._heard: dict[int, float] = {}
        self._full_until = float("-inf")

    def __contains__(self, source: int) -> bool:
        return source in self._heard

    def __len__(self) -> int:
        return len(self._heard)

    def hear(self, source: int, now: float) -> tuple[bool, int | None]:
        """Return whether to accept a packet of a source, and the source that it replaces, if any."""
        gone = None
        if source not in self._heard and len(self._heard) >= MAX_SOURCES:
            gone = self._make_room(now)
            if gone is None:
                self.refused += 1
                return False, None
        self._heard[source] = now
        return True, gone

    def _make_room(self, now: float) -> int | None:
        if now < self._full_until:
            return None
        oldest = min(self._heard, key=self._heard.__getitem__)
        self._full_until = self._heard[oldest] + SILENT_AFTER
        if now < self._full_until:
            return None
        del self._heard[oldest]
        return oldest
