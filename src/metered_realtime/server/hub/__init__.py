"""The hub: routing for one app at one node, without I/O and without a clock."""

from .hub import Hub
from .identity import Identity, OnChange, Recovery

__all__ = ["Hub", "Identity", "OnChange", "Recovery"]
