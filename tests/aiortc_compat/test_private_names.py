"""Private names of aiortc and aioice are touched in one room, and each of them is watched by a test."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from metered_realtime import aiortc_compat
from tests.aiortc_compat.support.private_names import private_names

MAPS = {"sctp_channels": "sctp"}
"""Modules whose names stand in the map of another one."""

TESTS = Path(__file__).parents[1]
ROOM = Path(str(aiortc_compat.__file__)).parent


def test_no_other_room_touches_private_names_of_aiortc() -> None:
    for file in ROOM.parent.rglob("*.py"):
        if ROOM not in file.parents:
            found = re.findall(r"\b(?:pc|transceiver|sender|receiver|sctp|ice)\._\w+", file.read_text())
            assert not found, (file.name, found)


@pytest.mark.parametrize("name", sorted(it.stem for it in ROOM.glob("[a-z]*.py")))
def test_every_module_that_touches_private_names_has_a_map_of_them(name: str) -> None:
    if private_names(importlib.import_module(f"metered_realtime.aiortc_compat.{name}")):
        (file,) = Path(__file__).parent.rglob(f"test_{MAPS.get(name, name)}.py")
        tests = importlib.import_module(".".join(file.relative_to(TESTS.parent).with_suffix("").parts))
        assert tests.TOUCHED
        assert callable(tests.test_every_private_name_is_watched)
