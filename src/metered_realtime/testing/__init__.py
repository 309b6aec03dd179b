"""Virtual worlds: real peers, the real server's routing, and a network, clock and randomness determined by a seed.

`VirtualWorld` runs your own programs with virtual peers, in virtual time. `simulate.check` plays a random run, which
is how this package tests itself. Needs the `webrtc` and `server` extras.
"""

from __future__ import annotations

from ..missing import require

require("webrtc", "server", part="metered_realtime.testing")

from .scenario import Outcome, Scenario
from .stage import play
from .trace import Trace
from .virtual_loop import NothingLeftToDo, VirtualLoop
from .virtual_network import Conditions
from .virtual_peer import VirtualPeer, VirtualTrack
from .world import VirtualWorld

__all__ = [
    "Conditions",
    "NothingLeftToDo",
    "Outcome",
    "Scenario",
    "Trace",
    "VirtualLoop",
    "VirtualPeer",
    "VirtualTrack",
    "VirtualWorld",
    "play",
]
