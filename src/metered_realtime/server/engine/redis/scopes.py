"""What a node has entered, and what it knows of it: its channels, its peers and their connections. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ....core.wire.patterns import pattern_matches
from ..contract import Entry
from .keys import ScopeId
from .replica import Replica


class Scope:
    """A channel or a peer of this node.

    Attributes:
        entries: The node's entries by connection. They are registered again after a loss.
        standing: The entries that Redis has when all that has been sent is done. Those of a request without an answer
            are in one of the two only.
        is_repairing: Whether its state is being read again.
    """

    __slots__ = ("entries", "id", "is_repairing", "replica", "standing")

    def __init__(self, scope_id: ScopeId, node: str) -> None:
        self.id = scope_id
        self.entries: dict[str, Entry] = {}
        self.standing: dict[str, Entry] = {}
        self.replica = Replica(node)
        self.is_repairing = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing needs it any more."""
        return not self.entries and not self.standing and not self.replica.is_busy


class AppCount:
    """The connections of an app at this node. `pending` ones have asked to be admitted; `indexed_by` is the name of the
    node that its index has."""

    __slots__ = ("held", "indexed_by", "is_dirty", "pending")

    def __init__(self) -> None:
        self.held = self.pending = 0
        self.indexed_by = ""
        self.is_dirty = False


class NodeEntries:
    """All scopes, counts and patterns of a node."""

    def __init__(self) -> None:
        self._scopes: dict[ScopeId, Scope] = {}
        self.apps: dict[str, AppCount] = {}
        self.patterns: dict[str, set[str]] = {}

    def __iter__(self) -> Iterator[Scope]:
        return iter(list(self._scopes.values()))

    def find(self, scope_id: ScopeId) -> Scope | None:
        """Return a scope, if the node has it."""
        return self._scopes.get(scope_id)

    def open(self, scope_id: ScopeId, node: str) -> tuple[Scope, bool]:
        """Return a scope, and whether it is new."""
        scope = self._scopes.get(scope_id)
        if scope is not None:
            return scope, False
        scope = self._scopes[scope_id] = Scope(scope_id, node)
        return scope, True

    def close(self, scope: Scope) -> bool:
        """Remove a scope that nothing needs. Return whether it is gone now, and was not before."""
        if not scope.is_idle or self._scopes.get(scope.id) is not scope:
            return False
        del self._scopes[scope.id]
        return True

    def is_connected(self, app: str, entry: Entry) -> bool:
        """Return whether a connection is an entry of this node."""
        scope = self._scopes.get(ScopeId("p", app, entry.peer_id))
        return scope is not None and (entry.connection in scope.entries or entry.connection in scope.standing)

    def count(self, app: str) -> AppCount:
        """Return the count of an app."""
        found = self.apps.get(app)
        if found is None:
            found = self.apps[app] = AppCount()
        return found

    def listens(self, app: str, channel: str) -> bool:
        """Return whether a pattern of the node matches a channel."""
        return any(pattern_matches(pattern, channel) for pattern in self.patterns.get(app, ()))

    def listen(self, app: str, pattern: str) -> bool:
        """Add a pattern. Return whether it is new."""
        patterns = self.patterns.setdefault(app, set())
        is_new = pattern not in patterns
        patterns.add(pattern)
        return is_new

    def unlisten(self, app: str, pattern: str) -> bool:
        """Remove a pattern. Return whether it was there."""
        patterns = self.patterns.get(app, set())
        if pattern not in patterns:
            return False
        patterns.discard(pattern)
        if not patterns:
            del self.patterns[app]
        return True
