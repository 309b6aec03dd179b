"""Releases of aiortc or aioice whose source is not the one that is known, and peers without anything faster."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest

from metered_realtime import Tuning, aiortc_compat
from metered_realtime.aiortc_compat.version import Guard, KnownPart
from tests.support.peers import Room

SLOW = Tuning(**{field.name: False for field in fields(Tuning)})
"""Everything off."""


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


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Make peers whose tuning is all off, as if aiortc and aioice had changed in everything that is replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "tuning", SLOW)
        for guard in guards().values():
            change(patch, guard)
        yield
