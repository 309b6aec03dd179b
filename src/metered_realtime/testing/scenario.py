"""What happens in one run of the simulation: drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .trace import Trace
from .virtual_network import Conditions

FAULTS = (
    *("lost_client", "lost_server", "lost_both", "silent", "restart", "cut", "isolate", "offline", "kill", "vanish"),
    "refuse",
)
"""What may go wrong. `lost_*`: the connection to the server breaks, and this end of it notices at once. `silent`: none
does. `cut` and `isolate`: the media path between two is interrupted, or that of one to everybody; `offline`: that and
the way to the server. `vanish`: a program is killed, and the server notices late. `refuse`: direct messages of one are
refused for good, until he has other rights with his next connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A run: who and what, under which conditions. The rest follows from the seed.

    `seconds` is how long things happen. Without `faults` and loss the world is calm: people come, go and change what
    they send, and nothing may ever be rebuilt.
    """

    seed: int
    peers: int
    seconds: float
    conditions: Conditions
    faults: tuple[str, ...] = ()

    @staticmethod
    def draw(seed: int, *, peers: int | None = None, calm: bool | None = None) -> Scenario:
        """Draw a run from a seed. `peers` and `calm` override what the seed says."""
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
        )

    @property
    def is_calm(self) -> bool:
        """Tell whether nothing goes wrong."""
        return not self.faults and not self.conditions.loss


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `faults` is empty if everything was as it should be; `settled_in` is virtual seconds."""

    scenario: Scenario
    faults: tuple[str, ...]
    settled_in: float
    trace: Trace
