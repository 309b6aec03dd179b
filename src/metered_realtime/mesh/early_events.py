"""Events of a channel that arrive before its join is complete. They are emitted after `Joined`, in order.

A server acknowledges the subscription, lists the members and forwards messages at once, and a join returns one turn of
the event loop later. A handler of a message may want to answer it, which needs a peer that is joined and knows the
sender.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..events import Event, Presence
from ..log import Logger

MAX_EARLY_EVENTS = 1_024
"""A join takes a round trip, or 15 s on a bad day: enough for both, and a small bound on what other peers can fill.
Presence, which only the server can send, always has room."""

Listener = Callable[[Any], None]


class EarlyEvents:
    """Holds the events of a join that is under way. `joining` returns its channel, or None."""

    def __init__(self, joining: Callable[[], str | None], logger: Logger) -> None:
        self._joining = joining
        self._logger = logger
        self._held: list[tuple[Listener, Event]] = []

    def held_for(self, listener: Listener) -> Listener:
        """Return a listener that passes events on at once, or holds those of the channel that is being joined."""

        def hold_or_pass(event: Event) -> None:
            channel = self._joining()
            if channel is None or (getattr(event, "channel", None) or channel) != channel:
                listener(event)
            elif isinstance(event, Presence) or len(self._held) < MAX_EARLY_EVENTS:
                self._held.append((listener, event))
            else:
                self._logger.warning(
                    "too many events before the join was done, dropped", {"event": type(event).__name__}
                )

        return hold_or_pass

    def release(self) -> None:
        """Pass every held event on."""
        held, self._held = self._held, []
        for listener, event in held:
            listener(event)

    def clear(self) -> None:
        """Drop every held event: nothing was joined."""
        self._held.clear()
