"""The command line."""

from __future__ import annotations

from ..missing import require

require("cli", part="the command line")
