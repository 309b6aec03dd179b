"""The subscriptions of a client as its program knows them, and their replay after a reconnect.

A channel is remembered as soon as its subscribe is written. A refusal by the server restores what was remembered
before; an acknowledgement confirms the subscription; a timeout or a lost connection keeps it, since the server may have
received it. `unsubscribe` and `close` forget it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

REPLAY_RETRIES = 3
"""Maximum number of replays per channel and connection: a server that refuses four times in a row means it."""


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
    """The failed replays of one connection: how often each channel failed and when it is retried."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._failures: dict[str, int] = {}
        self._due: dict[str, float] = {}  # one delay for all, so the oldest entry is due first

    def clear(self) -> None:
        """Start over for a new connection."""
        self._failures.clear()
        self._due.clear()

    def fail(self, channel: str, now: float) -> bool:
        """Record a failed replay. Return whether it will be retried."""
        failures = self._failures.get(channel, 0) + 1
        if failures > REPLAY_RETRIES:
            self._failures.pop(channel, None)
            return False
        self._failures[channel] = failures
        self._due[channel] = now + self._delay
        return True

    def cancel(self, channel: str) -> None:
        """Stop replaying a channel that was restored, or that the program has subscribed to or left itself."""
        self._failures.pop(channel, None)
        self._due.pop(channel, None)

    @property
    def next_deadline(self) -> float | None:
        return next(iter(self._due.values()), None)

    def take_due(self, now: float) -> list[str]:
        """Remove and return the channels to replay now."""
        due = [channel for channel, at in self._due.items() if at <= now]
        for channel in due:
            del self._due[channel]
        return due
