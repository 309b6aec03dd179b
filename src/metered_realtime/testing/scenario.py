"""The parameters of one run of the simulation, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .trace import Trace
from .virtual_network import Conditions

FAULTS = (
    *("lost_client", "lost_server", "lost_both", "silent", "restart", "cut", "isolate", "offline", "kill", "vanish"),
    "refuse",
)
"""Kinds of failures. `lost_*`: the connection to the server breaks, and the named ends notice at once; `silent`:
neither does. `cut` and `isolate`: the media path between two hosts is interrupted, or those from one host to all
others. `offline`: that, and the path to the server. `restart`: the server restarts. `kill`: a program is killed;
`vanish`: and the server notices late. `refuse`: direct messages of one host are refused for good, until its next
connection has other rights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """The parameters of a run. Everything else follows from the seed.

    Without `faults` and loss the world is calm: peers come, go and change what they send, and no connection may ever
    be replaced.

    Attributes:
        seed: The seed of all random choices.
        peers: The number of peers, 2 to 8.
        seconds: How long peers act and failures happen, in virtual seconds.
        conditions: The conditions of the network.
        faults: The kinds of failures, from `FAULTS`.
        shares_sections: Whether tracks go into sections that the other end offers, as with a foreign remote.
    """

    seed: int
    peers: int
    seconds: float
    conditions: Conditions
    faults: tuple[str, ...] = ()
    shares_sections: bool = False

    @staticmethod
    def draw(seed: int, *, peers: int | None = None, calm: bool | None = None) -> Scenario:
        """Draw the parameters of a run from a seed. `peers` and `calm` override those of the seed."""
        random = Random(f"scenario {seed}")
        drawn = random.choices((2, 3, 4, 5, 6, 7, 8), (40, 28, 14, 8, 5, 3, 2))[0]
        drawn_calm = random.random() < 0.3
        is_calm = drawn_calm if calm is None else calm
        seconds = random.choice((5.0, 15.0, 40.0))
        faults = tuple(random.sample(FAULTS, random.randint(1, 4)))
        conditions = Conditions(
            max_delay=random.choice((0.01, 0.05, 0.15, 0.3)),
            loss=0.0 if is_calm else random.choice((0.0, 0.0, 0.05, 0.15)),
            reorder=random.random() < 0.5,
            nat=random.random() < 0.3,
        )
        return Scenario(
            seed=seed,
            peers=drawn if peers is None else peers,
            seconds=seconds,
            conditions=conditions,
            faults=() if is_calm else faults,
            shares_sections=random.random() < 0.25,
        )

    @property
    def is_calm(self) -> bool:
        """Whether nothing fails."""
        return not self.faults and not self.conditions.loss


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run.

    Attributes:
        scenario: The parameters of the run.
        faults: The invariants that did not hold, in words; empty if all did.
        settled_in: How long the world took to settle after the last action, in virtual seconds.
        trace: What happened.
    """

    scenario: Scenario
    faults: tuple[str, ...]
    settled_in: float
    trace: Trace
