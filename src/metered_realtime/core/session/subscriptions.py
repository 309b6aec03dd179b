"""The subscriptions of a client as its program knows them, and their replay after a reconnect.

A channel is remembered as soon as its subscribe is written. A refusal by the server restores what was remembered
before; an acknowledgement confirms the subscription; a timeout or a lost connection keeps it, since the server may have
received it. `unsubscribe` and `close` forget it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

REPLAY_RETRIES = 3
"""Maximum number of replays per channel and connection: a server that refuses four times in a row means it."""

PASSING_CODES = frozenset({"backend_error", "internal_error"})
"""Error codes of a server that cannot serve a request at the moment, for instance because what is behind it is away."""

MAX_REPLAY_INTERVAL = 16.0
"""Maximum seconds between two attempts at a channel that the server cannot serve: as long as a request may take."""

REPLAY_JITTER = 0.5
"""Share of the interval by which an attempt may come earlier: all clients of a server are refused together."""


@dataclass(slots=True)
class _Memory:
    held: bool | None = None
    """The `include_sender_metadata` of the latest subscribe that was not refused, if one was decided."""
    asked: dict[str, bool] = field(default_factory=dict)
    """The same of each unanswered subscribe, by request id, oldest first."""

    @property
    def wanted(self) -> bool:
        return next(reversed(self.asked.values())) if self.asked else bool(self.held)


class Subscriptions:
    """The remembered channels, oldest first."""

    def __init__(self) -> None:
        self._channels: dict[str, _Memory] = {}

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(self._channels)

    def wanted(self, channel: str) -> bool | None:
        """Return the `include_sender_metadata` to ask for, or None for a channel that is not remembered."""
        memory = self._channels.get(channel)
        return None if memory is None else memory.wanted

    def ask(self, channel: str, include_sender_metadata: bool, request_id: str) -> None:
        """Record a subscribe that is about to be written."""
        self._channels.setdefault(channel, _Memory()).asked[request_id] = include_sender_metadata

    def keep(self, channel: str, request_id: str) -> None:
        """Confirm a subscribe that was acknowledged, or that will not be answered."""
        memory = self._channels.get(channel)
        if memory is not None and request_id in memory.asked:
            memory.held = memory.asked.pop(request_id)

    def refuse(self, channel: str, request_id: str) -> None:
        """Undo a subscribe that was refused."""
        memory = self._channels.get(channel)
        if memory is None or memory.asked.pop(request_id, None) is None:
            return
        if memory.held is None and not memory.asked:
            del self._channels[channel]

    def forget(self, channel: str) -> None:
        """Forget a channel that the program unsubscribed from."""
        self._channels.pop(channel, None)

    def clear(self) -> None:
        """Forget all channels, when the client is closed."""
        self._channels.clear()


class Replays:
    """The failed replays of one connection: how often each channel failed and when it is retried.

    A refusal counts, and the fourth is final. A server that cannot serve the channel at the moment is asked again for
    as long as the connection lasts, at growing intervals.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._failures: dict[str, int] = {}
        self._outages: dict[str, float] = {}  # the latest interval of each channel
        self._due: dict[str, float] = {}

    def clear(self) -> None:
        """Start over for a new connection."""
        self._failures.clear()
        self._outages.clear()
        self._due.clear()

    def fail(self, channel: str, now: float) -> bool:
        """Record a failed replay. Return whether it will be retried."""
        failures = self._failures.get(channel, 0) + 1
        if failures > REPLAY_RETRIES:
            self.cancel(channel)
            return False
        self._failures[channel] = failures
        self._due[channel] = now + self._delay
        return True

    def postpone(self, channel: str, now: float, chance: float) -> None:
        """Retry a replay later that the server could not serve. `chance` is a number from 0 to 1."""
        interval = min(2 * self._outages.get(channel, self._delay / 2), max(self._delay, MAX_REPLAY_INTERVAL))
        self._outages[channel] = interval
        self._due[channel] = now + interval * (1 - REPLAY_JITTER * chance)

    def cancel(self, channel: str) -> None:
        """Stop replaying a channel that was restored, or that the program has subscribed to or left itself."""
        self._failures.pop(channel, None)
        self._outages.pop(channel, None)
        self._due.pop(channel, None)

    @property
    def next_deadline(self) -> float | None:
        return min(self._due.values(), default=None)

    def take_due(self, now: float) -> list[str]:
        """Remove and return the channels to replay now."""
        due = [channel for channel, at in self._due.items() if at <= now]
        for channel in due:
            del self._due[channel]
        return due
