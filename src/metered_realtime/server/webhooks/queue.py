"""The events that a backend has not acknowledged, in order and bounded. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

ChangeType = Literal["opened", "joined", "left", "emptied"]

MAX_QUEUED = 10_000
"""Events kept for a backend that does not answer: 3 MB. Some minutes of a busy server."""

BATCH = 100
"""Maximum number of events in a request: 30 KB."""


@dataclass(frozen=True, slots=True)
class PresenceChange:
    """A peer came into a channel or left it, or a channel got its first peer or lost its last one.

    `at` is unix time in milliseconds. `peer_id` is the peer that caused it.
    """

    type: ChangeType
    app: str
    channel: str
    peer_id: str
    at: int


class WebhookQueue:
    """Numbers changes, hands them out in batches, and keeps a batch until it is acknowledged.

    Numbers begin at 1 and have no gaps, except where changes were dropped because the queue was full: an event `lost`,
    with the number of the last one of them, tells how many there were.

    Attributes:
        dropped: Number of changes that were dropped.
    """

    def __init__(self, most: int = MAX_QUEUED) -> None:
        self._most = most
        self._waiting: deque[dict[str, Any]] = deque()
        self._sent: list[dict[str, Any]] = []
        self._last_number = 0
        self._lost = 0
        self._lost_number = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._sent) + len(self._waiting) + (self._lost > 0)

    def push(self, change: PresenceChange) -> None:
        """Add a change. If the queue is full, the oldest one that was not sent is dropped."""
        self._last_number += 1
        self._waiting.append(
            {
                "seq": self._last_number,
                "type": change.type,
                "app": change.app,
                "channel": change.channel,
                "peerId": change.peer_id,
                "at": change.at,
            }
        )
        if len(self._waiting) > self._most:
            self._lost_number = self._waiting.popleft()["seq"]
            self._lost += 1
            self.dropped += 1

    def batch(self) -> list[dict[str, Any]]:
        """Return the next events to send, empty if there are none. Until `acknowledge` they stay the same."""
        if not self._sent:
            if self._lost:
                self._sent.append({"seq": self._lost_number, "type": "lost", "count": self._lost})
                self._lost = 0
            while self._waiting and len(self._sent) < BATCH:
                self._sent.append(self._waiting.popleft())
        return list(self._sent)

    def acknowledge(self) -> None:
        """Forget the last batch: the backend has it."""
        self._sent.clear()
