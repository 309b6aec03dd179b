"""How far a client has read: what it tells the server on its return, what it gets again, and what it has missed.

A track is one subscribed channel, or the directs to this peer. It exists from the first position that the server names
for it. Patterns have no positions; they are noted so that a gap in them can be told.

    input                                  track            becomes                        told as lost
    -------------------------------------  ---------------  -----------------------------  -------------------------
    position, nothing was asked for        any              at the position                no
    position, same epoch, not behind       known            live, where it was             no
    position, another epoch, or behind     known            live, at 0 of its epoch        yes, nobody knows how many
    no position                            known            gone                           yes, nobody knows how many
    welcome with another peer id           known (directs)  at the position                yes, nobody knows how many
    message, offset above                  live             at its offset                  no
    message, offset not above              live             unchanged, message dropped     no
    message, no offset                     any              unchanged                      no
    message                                none, not live   unchanged                      no
    lost frame                             any              at its position                yes, unless just told
    connection ends                        live             known, not live                no
    ack of a pattern                       not live         live                           yes, nobody knows how many
    forget, clear                          any              gone                           no

"Just told": a position in another epoch tells the loss at once, and the server's lost frame about the same messages
follows it. That frame has no count, and its position is not beyond the one in the ack or the welcome.

Invariants:
- In one epoch the offset of a track never decreases, so that a message with an offset is delivered at most once.
- A track never passes a message: only delivered and lost messages move it. The position of an ack does not, since the
  missed messages follow the ack. Own messages are never delivered, so gaps are normal.
- Servers that name no position cause no track, and nothing is told.
- Tracks are bounded by the subscriptions of the client.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

from ..wire.patterns import is_pattern

ASK = "1"
"""The `recover` parameter of a client that has no position yet."""

MAX_FORMER_IDS = 16
"""Maximum number of former own peer ids that are remembered. Messages are kept for a minute, in which a client that
gets a new id by each connection makes about as many attempts."""


class ReadPosition(NamedTuple):
    """How far the client has read: the offset of the last message in the count `epoch`, 0 before the first."""

    epoch: str
    offset: int


@dataclass(slots=True)
class _Track:
    epoch: str
    offset: int
    end: int
    """Where the server was at the latest ack or welcome. Messages up to there were missed before."""
    was_told: bool = False
    is_live: bool = True


class Positions:
    """The positions of one client, from its `connect()` to its end. See the table of the module."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, at the end of the client."""
        self.is_supported = False
        """Whether the server has named a position since the last `clear`."""
        self._directs: _Track | None = None
        self._channels: dict[str, _Track] = {}
        self._patterns: dict[str, bool] = {}  # whether it is live
        self._peer_id: str | None = None
        self._former_ids: deque[str] = deque(maxlen=MAX_FORMER_IDS)

    @property
    def query(self) -> str:
        """The `recover` parameter of the next connection attempt."""
        directs = self._directs
        return ASK if directs is None else f"{directs.epoch}:{directs.offset}"

    def since(self, channel: str) -> ReadPosition | None:
        """Return the position to subscribe from. None if there is none."""
        track = self._channels.get(channel)
        return None if track is None else ReadPosition(track.epoch, track.offset)

    # --- what the server says; each returns whether messages of unknown number are lost

    def welcomed(self, peer_id: str, position: ReadPosition | None) -> bool:
        """Handle a welcome, which names the position of the directs to this peer."""
        previous, self._peer_id = self._peer_id, peer_id
        is_somebody_else = previous not in (None, peer_id)
        if previous is not None and is_somebody_else:
            self._former_ids.append(previous)
        was_known = self._directs is not None
        self._directs, is_lost = self._continued(self._directs, position, was_asked=not is_somebody_else)
        if self._directs is not None and is_somebody_else and was_known:
            self._directs.was_told = is_lost = True
        return is_lost

    def acknowledged(self, channel: str, position: ReadPosition | None, *, was_asked: bool) -> bool:
        """Handle the ack of a subscribe. `was_asked`: the subscribe named a position."""
        if is_pattern(channel):
            was_live = self._patterns.get(channel)
            self._patterns[channel] = True
            return was_live is False and self.is_supported
        track, is_lost = self._continued(self._channels.pop(channel, None), position, was_asked=was_asked)
        if track is not None:
            self._channels[channel] = track
        return is_lost

    def takes_message(self, channel: str, sender: str, offset: int | None) -> bool:
        """Return whether a message of a channel is to be delivered: it is new, and not by this client under a former
        id."""
        track = self._channels.get(channel)
        if not _advance(track, offset):
            return False
        is_missed = track is not None and offset is not None and offset <= track.end
        return not (is_missed and sender in self._former_ids)

    def takes_direct(self, offset: int | None) -> bool:
        """Return whether a direct is to be delivered: it is new."""
        return _advance(self._directs, offset)

    def lost(self, channel: str | None, position: ReadPosition, count: int | None) -> bool:
        """Handle a lost frame. Return whether it is to be told."""
        track = self._directs if channel is None else self._channels.get(channel)
        self.is_supported = True
        if track is None or track.epoch != position.epoch:
            track = _Track(*position, end=position.offset)
            if channel is None:
                self._directs = track
            else:
                self._channels[channel] = track
            return True
        is_repetition = track.was_told and count is None and position.offset <= track.end
        track.offset = max(track.offset, position.offset)
        return not is_repetition

    # --- the life of the client

    def connection_lost(self) -> None:
        """Handle the end of the connection."""
        if self._directs is not None:
            self._directs.is_live = False
        for track in self._channels.values():
            track.is_live = False
        self._patterns = dict.fromkeys(self._patterns, False)

    def forget(self, channel: str) -> None:
        """Forget a channel or a pattern that the program unsubscribed from."""
        self._channels.pop(channel, None)
        self._patterns.pop(channel, None)

    def _continued(
        self, track: _Track | None, position: ReadPosition | None, *, was_asked: bool
    ) -> tuple[_Track | None, bool]:
        """Return the track after a position of the server, and whether messages are lost."""
        if position is None:
            return None, track is not None
        self.is_supported = True
        epoch, end = position
        if track is None or not was_asked:
            return _Track(epoch, end, end), False
        if track.epoch == epoch and track.offset <= end:
            return _Track(epoch, track.offset, end), False
        return _Track(epoch, 0, end, was_told=True), True


def _advance(track: _Track | None, offset: int | None) -> bool:
    """Move a live track to a message. Return False for one that was delivered before."""
    if track is None or offset is None or not track.is_live:
        return True
    if offset <= track.offset:
        return False
    track.offset = offset
    return True
