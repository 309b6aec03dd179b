"""Sources are accepted, replace a silent one, or are refused, each at a constant cost."""

from __future__ import annotations

from metered_realtime.core.media.source_table import MAX_SOURCES, SILENT_AFTER, SourceTable


def test_a_report_has_room_for_every_source() -> None:
    table = SourceTable()
    assert [table.hear(source, 0.0) for source in range(MAX_SOURCES)] == [(True, None)] * MAX_SOURCES
    assert table.hear(1_000, 1.0) == (False, None)
    assert len(table) == MAX_SOURCES == 31
    assert table.refused == 1
    assert all(table.hear(source, 2.0) == (True, None) for source in range(MAX_SOURCES))


def test_a_new_source_takes_the_place_of_the_one_that_is_silent_longest() -> None:
    table = SourceTable()
    for source in range(MAX_SOURCES):
        table.hear(source, source / 100)
    table.hear(0, SILENT_AFTER)
    assert table.hear(99, SILENT_AFTER) == (False, None)
    assert table.hear(99, SILENT_AFTER + 0.02) == (True, 1)
    assert 1 not in table
    assert table.hear(1, SILENT_AFTER + 0.02) == (True, 2)
    assert len(table) == MAX_SOURCES
