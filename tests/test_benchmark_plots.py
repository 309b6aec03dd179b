"""The pictures of benchmarks show what their tables say."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import plots

TEXT = """# Benchmarks

## `python -m benchmarks.other`

| a |
|---|
| 1 |

## `python -m benchmarks.fanout`

Words.

| picture | codec | receivers | CPU | per peer |
|---|---|---|---|---|
| 64x48 | VP8 | 1 | 0.5 | 1.5 |
| | | 2 | 0.6 (0.5–0.7) | 3.0 |
"""


@pytest.mark.parametrize("plot", plots.PICTURES, ids=lambda plot: plot.benchmark)
def test_every_picture_is_as_old_as_its_table(plot: plots.Plot) -> None:
    assert plots.is_current(plot, plots.README.read_text()), "run python -m benchmarks.plots"


def test_a_picture_of_other_figures_is_not_current(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plots, "PLOTS", tmp_path / "plots")
    plot = plots.PICTURES[0]
    assert not plots.is_current(plot, TEXT)
    plots.draw(plot, TEXT)
    assert plots.is_current(plot, TEXT)
    assert not plots.is_current(plot, TEXT.replace("0.6", "0.7"))
    assert plot.path.read_text().startswith("<?xml")


def test_empty_cells_repeat_those_above() -> None:
    assert plots.first_table(TEXT, "fanout")[1] == ["64x48", "VP8", "2", "0.6 (0.5–0.7)", "3.0"]


@pytest.mark.parametrize(
    ("cell", "value"), [("15.5 (15.4–16.4)", 15.5), ("18.8 MB/s, 293,979/s", 18.8), ("−45.6", -45.6), ("1,200", 1200)]
)
def test_numbers_in_cells(cell: str, value: float) -> None:
    assert plots.number(cell) == value


def test_a_cell_without_a_number_is_an_error() -> None:
    with pytest.raises(ValueError, match="none came back"):
        plots.number("none came back")
