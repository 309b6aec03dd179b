"""The names of keys and topics in Redis. What one script touches has one hash tag: one slot of a cluster.

    <namespace>:{c:<app>/<channel>}:meta|log|entries|nodes|order     a channel
    <namespace>:{p:<app>/<peer id>}:meta|log|entries|nodes           a peer
    <namespace>:{a:<app>}:connections|use                            the counts of an app
    <namespace>:{n:<node>}:index                                     what a node has entries in, for those who sweep it
    <namespace>:{nodes}:alive|sweeping                               the nodes
    <namespace>:revoked                                              keys that no node may admit

Topics: `<namespace>:n:<node>` is the inbox of a node, `<namespace>:c:<app>/<channel>` has messages for patterns, and
`<namespace>:revoke` what all nodes have to hear.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, TypeAlias

ScopeKind: TypeAlias = Literal["c", "p"]

MARK = "n\0\0"
"""What the index of every node has: it names nothing."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_GLOB_SPECIAL = re.compile(r"([*?\[\]\\^-])")


class ScopeId(NamedTuple):
    """A channel (`c`) or a peer (`p`) of an app."""

    kind: ScopeKind
    app: str
    name: str

    @property
    def tag(self) -> str:
        """What is hashed: which shard keeps it, and which slot."""
        return f"{self.kind}:{_escape(self.app)}/{self.name}"

    @property
    def label(self) -> str:
        """How the index of a node names it."""
        return f"{self.kind}\0{self.app}\0{self.name}"


def run_of(node: str) -> str:
    """Return the part of a node's name that is the same at all shards and after each loss: that of its run."""
    return node.rpartition("~")[0]


def app_index(app: str) -> str:
    """Return how the index of a node names the counts of an app."""
    return f"a\0{app}\0"


def _escape(app: str) -> str:
    """Return an app without slashes, so that what follows one is the name of a channel or a peer."""
    return app.replace("%", "%25").replace("/", "%2F")


class Keys:
    """The names in a namespace.

    Raises:
        ValueError: the namespace has other characters than letters, digits, `_`, `.` and `-`, or more than 64.
    """

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace):
            raise ValueError(f"a namespace has 1 to 64 letters, digits, '_', '.' and '-', not {namespace!r}")
        self._namespace = namespace
        self.inbox_prefix = f"{namespace}:n:"
        self.topic_prefix = f"{namespace}:c:"
        self.revoke_topic = f"{namespace}:revoke"
        self.revoked = f"{namespace}:revoked"
        self.alive = f"{namespace}:{{nodes}}:alive"
        self.sweeping = f"{namespace}:{{nodes}}:sweeping"

    def of_scope(self, scope: ScopeId) -> tuple[str, ...]:
        """Return the keys of a channel or a peer, as scripts expect them."""
        parts = ("meta", "log", "entries", "nodes") + (("order",) if scope.kind == "c" else ())
        return tuple(f"{self._namespace}:{{{scope.tag}}}:{part}" for part in parts)

    def of_app(self, app: str) -> tuple[str, ...]:
        """Return the keys of the counts of an app."""
        return tuple(f"{self._namespace}:{{a:{_escape(app)}}}:{part}" for part in ("connections", "use"))

    def index(self, node: str) -> str:
        """Return the key of a node's index."""
        return f"{self._namespace}:{{n:{node}}}:index"

    def topic(self, app: str, channel: str) -> str:
        """Return the topic of a channel's messages for patterns."""
        return f"{self.topic_prefix}{_escape(app)}/{channel}"

    def glob(self, app: str, prefix: str) -> str:
        """Return the pattern of Redis for the topics of all channels that begin with a prefix."""
        return _GLOB_SPECIAL.sub(r"\\\1", self.topic(app, prefix)) + "*"
