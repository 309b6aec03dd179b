"""What of the missed messages is sent again: the newest that fit, and where the client is after the lost ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..engine.contract import MissedMessages, Position, Stored


@dataclass(frozen=True, slots=True)
class Replay:
    """The frames to send, and what is lost before them: a number, None if nobody knows it.

    `position` is after the lost ones, and `size` that of all frames in bytes.
    """

    frames: tuple[bytes, ...]
    lost: int | None
    position: Position
    size: int


def replay(
    missed: MissedMessages, end: Position, own_id: str | None, budget: int, render: Callable[[Stored], bytes]
) -> Replay:
    """Return what to send of the messages before `end`, at most `budget` bytes. Messages of `own_id` are not repeated.

    Frames are rendered from the newest on, so that the cost is bounded by the budget.
    """
    frames: list[bytes] = []
    size, lost, after_lost = 0, missed.lost, None
    theirs = [stored for stored in missed.messages if stored.envelope.sender != own_id]
    for index in range(len(theirs) - 1, -1, -1):
        frame = render(theirs[index])
        if size + len(frame) > budget:
            lost = None if lost is None else lost + index + 1
            after_lost = theirs[index].offset
            break
        size += len(frame)
        frames.append(frame)
    if after_lost is None:
        after_lost = missed.messages[0].offset - 1 if missed.messages else end.offset
    frames.reverse()
    return Replay(tuple(frames), lost, Position(end.epoch, after_lost), size)
