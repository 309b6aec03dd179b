"""What the documentation says about the tree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "metered_realtime"
DOCS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"(?<![\w/.*])((?:[a-z_]+/)+[a-z_0-9]+\.py)\b", text))
    missing = {it for it in named if not any((base / it).exists() for base in (ROOT, PACKAGE, ROOT / "src"))}
    assert not missing


def test_each_journey_passes_twelve_files_at_most() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.split("## Seven journeys")[1].split("\n## ")[0]
    journeys = [it for it in section.split("\n\n") if it.startswith("**")]
    assert len(journeys) == 7
    for journey in journeys:
        files = set(re.findall(r"`([a-z_/]+\.py)`", journey))
        assert 3 <= len(files) <= 12, journey
