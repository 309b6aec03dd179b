"""What the extras of the package install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MODULES = {"PyJWT": "jwt", "prometheus-client": "prometheus_client"}
"""Modules that are named otherwise than what is installed."""


def names(extra: str) -> set[str]:
    """Return what an extra installs, those that it refers to included."""
    found = set()
    for requirement in EXTRAS[extra]:
        if nested := re.fullmatch(r"metered-realtime-mesh\[(.*)\]", requirement):
            found |= {name for each in nested[1].split(",") for name in names(each)}
        else:
            found.add(re.split(r"[<>=]", requirement)[0])
    return found


def test_all_installs_only_what_the_package_uses() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    unused = {
        name
        for name in names("all")
        if not re.search(rf"^\s*(import|from) {MODULES.get(name, name)}\b", code, re.MULTILINE)
    }
    assert not unused


def test_all_is_what_the_readme_says() -> None:
    table = (ROOT / "README.md").read_text().partition("## Install")[2].partition("\n\nThe import name")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert rows[-1] == "all"
    assert names("all") == {name for extra in rows[:-1] for name in names(extra)}


def test_the_name_of_every_extra_stays() -> None:
    assert EXTRAS.keys() >= {"webrtc", "server", "whip", "redis", "numpy", "cli", "fast", "all", "dev"}
