"""The times of a `RedisEngine`, in seconds, and what they are for."""

from __future__ import annotations

from dataclasses import dataclass

from ..contract import NODE_TIMEOUT, REQUEST_TIMEOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisTimings:
    """When a `RedisEngine` does what it does on its own. All nodes need the same ones; tests use short ones.

    Raises:
        ValueError: a time is not above 0, or nodes could not be told apart from those that are gone.
    """

    request: float = REQUEST_TIMEOUT
    """Maximum time until a request has its outcome. Beyond it Redis counts as unreachable."""

    beat: float = 3.0
    """Between two heartbeats of a node, which pass through Redis to itself."""

    node: float = 10.0
    """After the last heartbeat that arrived: the node counts as gone. Three may be lost."""

    sweep: float = 2.0
    """Between two looks for nodes that are gone. With `node` it makes less than `NODE_TIMEOUT`."""

    settling: float = 8.0
    """After a loss: others may have to reach Redis again before they can be called gone. Longer than `max_backoff`
    and `request` together, and than two heartbeats."""

    refresh: float = 25.0
    """In which a node keeps each of its entries once."""

    expiry: float = 60.0
    """After which an entry ends that nobody has kept, by whatever accident it was left."""

    backoff: float = 0.05
    """Before the second attempt to reach Redis; then it doubles. The first one is immediate."""

    max_backoff: float = 2.0
    """Between two attempts, at most. Random up to that, so that nodes do not come all at once."""

    usage: float = 3_456_000.0
    """The use of an app in a period is kept: 40 days, longer than any period."""

    revocation: float = 2_592_000.0
    """A revoked key is remembered for nodes that start later: 30 days, enough to change every configuration."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)!r}")
        if not self.beat + self.request < self.node:
            raise ValueError("node must be longer than beat and request together")
        if not self.refresh * 2 < self.expiry:
            raise ValueError("expiry must be longer than two refreshes")


DEFAULTS = RedisTimings()
assert DEFAULTS.node + DEFAULTS.sweep + DEFAULTS.request < NODE_TIMEOUT
