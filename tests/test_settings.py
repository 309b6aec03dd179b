"""The table of settings, written by a tool from the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from tools import settings

from metered_realtime.cli.app import FILE_KEYS
from metered_realtime.server.config import schema
from metered_realtime.server.config.file import TABLES

ROOT = Path(__file__).parents[1]


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "settings.md").read_text() == settings.page(), "run python tools/settings.py"


@pytest.mark.parametrize(
    "row",
    [
        "| `server.port` | `--port` | – | `7880` |",
        "| `turn.shared_secret` | `--turn-secret` | `METERED_TURN_SECRET` | required |",
        '| `apps.NAME.period` | – | – | `"month"` |',
        "| `limits.ping_interval` | – | – | `30` |",
        "| – | `--config` | – |  |",
    ],
)
def test_the_page_shows_where_a_setting_can_be_given(row: str) -> None:
    assert row in settings.page()


def test_every_table_of_the_file_has_its_fields_in_the_schema() -> None:
    assert {*schema.TABLE_TYPES, "limits"} == set(TABLES)


def test_a_field_without_a_meaning_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(settings.DESCRIPTIONS, ("ServerTable", "host"))
    with pytest.raises(ValueError, match=r"ServerTable\.host"):
        settings.page()


def test_an_option_for_a_key_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILE_KEYS, "verbose", "server.verbose")
    with pytest.raises(ValueError, match=r"server\.verbose"):
        settings.page()
