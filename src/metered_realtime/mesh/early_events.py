"""What the server says of a channel before the join of it is done: told after `Joined`, in the order in which it came.

A server acknowledges, lists who is there and passes messages on in one breath, and a join returns a turn later. Whoever
is told of a message wants to answer it, which takes a peer that is joined and knows who sent it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..events import Event, Presence
from ..log import Logger

MAX_EARLY_EVENTS = 1_024
"""A join takes a round trip, or 15 s on a bad day: enough for either, and little for strangers to fill. Presence, which
only the server can send, always has room."""

Listener = Callable[[Any], None]


class EarlyEvents:
    """Events of a join that is under way, each with who takes it. `joining` names its channel, or None."""

    def __init__(self, joining: Callable[[], str | None], logger: Logger) -> None:
        self._joining = joining
        self._logger = logger
        self._held: list[tuple[Listener, Event]] = []

    def held_for(self, listener: Listener) -> Listener:
        """Return a listener that takes events at once, or holds those of the channel that is being joined."""

        def take(event: Event) -> None:
            channel = self._joining()
            if channel is None or getattr(event, "channel", channel) != channel:
                listener(event)
            elif isinstance(event, Presence) or len(self._held) < MAX_EARLY_EVENTS:
                self._held.append((listener, event))
            else:
                self._logger.warning(
                    "too many events before the join was done, dropped", {"event": type(event).__name__}
                )

        return take

    def release(self) -> None:
        """Have everything taken."""
        held, self._held = self._held, []
        for listener, event in held:
            listener(event)

    def clear(self) -> None:
        """Forget everything: nothing was joined."""
        self._held.clear()
