"""Connections in which nothing is faster than in aiortc."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest

from metered_realtime import Tuning
from tests.support.changed_releases import change, guards
from tests.support.peers import Room

SLOW = Tuning(**{field.name: False for field in fields(Tuning)})


@contextmanager
def without_fast_paths() -> Iterator[None]:
    """Make peers whose tuning is all off, as if aiortc and aioice had changed in everything that is replaced."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Room, "tuning", SLOW)
        for guard in guards().values():
            change(patch, guard)
        yield
