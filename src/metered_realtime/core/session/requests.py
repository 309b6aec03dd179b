"""The requests that wait for an answer or for a connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_PENDING = 16_384
"""Maximum number of unanswered requests: ten times what a server's rate limit lets through in 15 s."""

Purpose = Literal["call", "replay", "refresh", "abandoned"]


@dataclass(slots=True)
class Pending:
    """A request that was written. `channel` is set for a subscribe, and `is_resumed` if it named a position; `size` is
    that of its payload in bytes."""

    request_id: str
    deadline: float
    purpose: Purpose
    channel: str | None
    size: int = 0
    is_resumed: bool = False


@dataclass(frozen=True, slots=True)
class Queued:
    """A request that waits for the connection to come back."""

    frame: bytes
    payload_size: int


class RequestBook:
    """The table of pending requests. Each is added once and removed once: answered, expired, drained or dropped."""

    def __init__(self, timeout: float, queue_limit: int) -> None:
        self.timeout = timeout
        self._queue_limit = queue_limit
        self._last_id = 0
        self._pending: dict[str, Pending] = {}  # one timeout for all, so the oldest entry expires first
        self._queue: dict[str, Queued] = {}

    def next_id(self) -> str:
        """Return a request id that this client has not used. Ids are short, since each is sent twice."""
        self._last_id += 1
        return str(self._last_id)

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= MAX_PENDING

    @property
    def can_queue(self) -> bool:
        return len(self._queue) < self._queue_limit

    @property
    def next_deadline(self) -> float | None:
        for pending in self._pending.values():
            return pending.deadline
        return None

    def __len__(self) -> int:
        return len(self._pending) + len(self._queue)

    def enter(
        self,
        request_id: str,
        now: float,
        purpose: Purpose = "call",
        channel: str | None = None,
        size: int = 0,
        is_resumed: bool = False,
    ) -> None:
        """Add a request that is being written now."""
        self._pending[request_id] = Pending(request_id, now + self.timeout, purpose, channel, size, is_resumed)

    def queue(self, request_id: str, frame: bytes, payload_size: int) -> None:
        """Add a request that waits for the connection."""
        self._queue[request_id] = Queued(frame, payload_size)

    def answer(self, request_id: str | None) -> Pending | None:
        """Remove and return the request that an answer belongs to. None if it is unknown or timed out."""
        return None if request_id is None else self._pending.pop(request_id, None)

    def abandon(self, request_id: str) -> None:
        """Drop a request whose caller has stopped waiting. A queued one is not sent."""
        if self._queue.pop(request_id, None) is None and request_id in self._pending:
            self._pending[request_id].purpose = "abandoned"

    def expire(self, now: float) -> list[Pending]:
        """Remove and return the requests that timed out."""
        late = []
        for pending in self._pending.values():
            if pending.deadline > now:
                break
            late.append(pending)
        for pending in late:
            del self._pending[pending.request_id]
        return late

    def drain(self) -> list[Pending]:
        """Remove and return all written requests."""
        pending = list(self._pending.values())
        self._pending.clear()
        return pending

    def drain_queue(self) -> dict[str, Queued]:
        """Remove and return all queued requests, in order."""
        queue, self._queue = self._queue, {}
        return queue
