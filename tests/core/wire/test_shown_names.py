"""Names fit to be shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import metered_realtime
from metered_realtime.core.negotiation.signals import NAME_ID, MetadataBook, MetadataSignal, name_signal, parse_signal
from metered_realtime.core.wire.shown_names import MAX_NAME, name_in, shown_name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Ann", "Ann"),
        ("  Ann\tB\n", "AnnB"),
        ("a\u202egnp.exe", "agnp.exe"),
        ("\u0646\u200c\u0627", "\u0646\u200c\u0627"),
        ("x" * 500, "x" * MAX_NAME),
        ("\x00" * 319 + "x", "x"),
        ("\x00" * 320 + "x", None),
        ("", None),
        ("\u200d \u200c", None),
        ("\ud800", None),
        (None, None),
        (7, None),
        (["Ann"], None),
    ],
)
def test_a_name_is_one_bounded_line_without_controls(name: object, shown: str | None) -> None:
    assert shown_name(name) == shown


def test_the_first_name_of_several_sources_counts() -> None:
    sources: list[dict[str, Any] | None] = [None, {"role": "x"}, {"name": "\x00"}, {"displayName": "Bo"}, {"name": "C"}]
    assert name_in(sources) == "Bo"
    assert name_in([]) is None
    assert name_in([{"name": "A", "displayName": "B"}]) == "A"


def test_the_signal_of_a_name_is_metadata_that_other_ends_keep_for_no_track() -> None:
    signal = name_signal("Ann")
    assert parse_signal(signal.payload()) == signal
    book = MetadataBook()
    book.apply_signal(MetadataSignal("t", {"of": "track"}))
    book.apply_signal(signal)
    book.describe([], [])
    assert [book.find(it, "video", None) for it in ("t", "other")] == [{"of": "track"}, None]


def test_the_room_page_has_the_same_id_and_bound() -> None:
    page = (Path(metered_realtime.__file__).parent / "server" / "page" / "names.js").read_text()
    assert f'NAME_ID = "{NAME_ID}"' in page
    assert re.search(rf"shown\(name, max = {MAX_NAME}\)", page)
