"""A release of aiortc or aioice whose source is not the one that is known."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from metered_realtime import aiortc_compat
from metered_realtime.aiortc_compat.version import Guard, KnownPart


def guards() -> dict[str, Guard]:
    """Return all guards of the package, by module and name."""
    found: dict[int, tuple[str, Guard]] = {}
    for file in sorted(Path(str(aiortc_compat.__file__)).parent.glob("[a-z]*.py")):
        module = importlib.import_module(f"metered_realtime.aiortc_compat.{file.stem}")
        for name, value in vars(module).items():
            if isinstance(value, Guard) and f"\n{name} = Guard(" in file.read_text():
                found[id(value)] = f"{file.stem}.{name}", value
    return dict(found.values())


def change(monkeypatch: pytest.MonkeyPatch, guard: Guard) -> None:
    """Let everything that a guard looks at have changed, until the end of the test."""
    parts = tuple(KnownPart(part.owner, "something else", *part.names) for part in guard.parts)
    monkeypatch.setattr(guard, "parts", parts)
    monkeypatch.setattr(guard, "verdict", None)
