"""The rights of a connection: those of its key, narrowed by its token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

from ..core.wire.patterns import Name, pattern_covers, patterns_meet

Action = Literal["publish", "subscribe", "presence", "send"]
ACTIONS: frozenset[Action] = frozenset(get_args(Action))


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights of one connection, evaluated at each use.

    The key's `actions` and `patterns` are the upper bound. A token's `permissions` and `channels` narrow them; None
    narrows nothing. Both lists are always checked, since the text of two patterns does not tell which one is wider.
    """

    actions: frozenset[str]
    patterns: tuple[str, ...]
    permissions: frozenset[str] | None = None
    channels: tuple[str, ...] | None = None

    def permits(self, action: Action) -> bool:
        """Return whether an action is granted."""
        return action in self.actions and (self.permissions is None or action in self.permissions)

    def reaches(self, channel: str) -> bool:
        """Return whether a channel is in scope."""
        return _matches_any(self.patterns, channel) and (self.channels is None or _matches_any(self.channels, channel))

    def covers(self, pattern: str) -> bool:
        """Return whether all channels that a pattern matches are in scope, by one entry of each list."""
        return _covered_by_any(self.patterns, pattern) and (
            self.channels is None or _covered_by_any(self.channels, pattern)
        )

    def reaches_anything(self) -> bool:
        """Return whether any channel is in scope."""
        if self.channels is None:
            return bool(self.patterns)
        return any(_meet(pattern, channel) for pattern in self.patterns for channel in self.channels)


# Programs use few channels repeatedly. The limit keeps hostile clients from filling memory.
@lru_cache(maxsize=8192)
def _matches_any(patterns: tuple[str, ...], channel: str) -> bool:
    name = Name(channel)
    return any(name.matches(pattern) for pattern in patterns)


@lru_cache(maxsize=1024)
def _covered_by_any(patterns: tuple[str, ...], pattern: str) -> bool:
    return any(pattern_covers(outer, pattern) for outer in patterns)


_meet = lru_cache(maxsize=4096)(patterns_meet)
