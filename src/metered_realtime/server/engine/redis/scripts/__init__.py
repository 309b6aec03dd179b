"""The scripts that run in Redis. Each is sent once, and then named by the digest of its text, so that nodes of several
versions run side by side.

The first line of a script names the files that stand before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

_USES = "-- uses: "


@dataclass(frozen=True, slots=True)
class Script:
    """A script as Redis gets it. `digest` names it there."""

    name: str
    text: str = field(repr=False)
    digest: str


@cache
def script(name: str) -> Script:
    """Return a script by its name."""
    text = _read(name)
    head, _, _ = text.partition("\n")
    parts = [_read(f"parts/{part}") for part in head.removeprefix(_USES).split()] if head.startswith(_USES) else []
    whole = "\n".join((*parts, text))
    return Script(name, whole, hashlib.sha1(whole.encode(), usedforsecurity=False).hexdigest())


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.lua").read_text(encoding="utf-8")
