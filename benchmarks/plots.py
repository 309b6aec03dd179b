"""Pictures of the figures in benchmarks/README.md, drawn from its tables: they cannot say anything else.

`python -m benchmarks.plots` draws them into benchmarks/plots; `--check` fails when one is older than its table.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

README = Path(__file__).with_name("README.md")
PLOTS = Path(__file__).with_name("plots")

OURS, BASE = "#0f766e", "#94a3b8"
"""The colours of this project and of what it is compared with; both are told apart in grey, too."""

STYLE = {
    "axes.edgecolor": "#64748b",
    "axes.labelcolor": "#334155",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "white",
    "font.size": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "metered_realtime",
    "text.color": "#334155",
    "xtick.color": "#334155",
    "ytick.color": "#334155",
}

Rows = list[list[str]]


@dataclass(frozen=True)
class Plot:
    """A picture of the first table of one benchmark."""

    benchmark: str
    alt: str
    draw: Callable[[Figure, Rows], None]

    @property
    def path(self) -> Path:
        """Where the picture is."""
        return PLOTS / f"{self.benchmark}.svg"


def first_table(text: str, benchmark: str) -> Rows:
    """Return the cells of the first table below a benchmark's heading, without its header. Empty ones repeat those
    above."""
    section = re.split(r"^## ", text, flags=re.MULTILINE)
    (own,) = [it for it in section if it.startswith(f"`python -m benchmarks.{benchmark}`")]
    lines = next(block for block in own.split("\n\n") if block.startswith("|")).splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    for above, row in pairwise(rows):
        row[:] = [cell or above[index] for index, cell in enumerate(row)]
    return rows


def number(cell: str) -> float:
    """Return the first number in a cell: `15.5 (15.4-16.4)` is 15.5."""
    found = re.search(r"[-−]?[\d,]*\.?\d+", cell)
    if found is None:
        raise ValueError(f"there is no number in {cell!r}")
    return float(found[0].replace(",", "").replace("−", "-"))


def draw_fanout(figure: Figure, rows: Rows) -> None:
    """Draw the sender's CPU time over the number of receivers, a panel for each picture and codec."""
    panels = list(dict.fromkeys((row[0], row[1]) for row in rows))
    figure.set_size_inches(9.5, 2.7)
    axes: Any = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        own = [row for row in rows if (row[0], row[1]) == panel]
        receivers = [number(row[2]) for row in own]
        axis.plot(receivers, [number(row[4]) for row in own], color=BASE, marker="s", label="an encoder per receiver")
        axis.plot(receivers, [number(row[3]) for row in own], color=OURS, marker="o", label="metered_realtime")
        axis.set_title(" ".join(panel), fontsize=10)
        axis.set_xticks(receivers)
        axis.set_xlabel("receivers")
    axes[0].set_ylim(bottom=0)
    axes[0].set_ylabel("CPU s per s of media")
    axes[0].legend(frameon=False, fontsize=8, loc="upper left")


def draw_data_channel(figure: Figure, rows: Rows) -> None:
    """Draw the throughput between two of ours over that between two of aiortc's, for each message size."""
    figure.set_size_inches(9.5, 2.7)
    axis = figure.subplots()
    bars = axis.bar([row[0] for row in rows], [number(row[1]) for row in rows], width=0.55, color=OURS)
    axis.bar_label(bars, [f"{number(row[1]):.1f} ×" for row in rows], padding=2)
    axis.axhline(1, color=BASE, linewidth=2)
    axis.text(len(rows) - 0.62, 1.25, "aiortc", color=BASE, fontsize=9)
    axis.set_ylabel("throughput / aiortc's")
    axis.set_xlabel("message")


PICTURES = (
    Plot("fanout", "CPU time of a sender over the number of its receivers", draw_fanout),
    Plot("data_channel", "Throughput of a data channel beside stock aiortc", draw_data_channel),
)


def digest(rows: Rows) -> str:
    """Return what tells whether a picture was drawn from these rows."""
    return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]


def is_current(plot: Plot, text: str) -> bool:
    """Return whether a picture shows the figures in a text."""
    return plot.path.exists() and digest(first_table(text, plot.benchmark)) in plot.path.read_text()


def draw(plot: Plot, text: str) -> None:
    """Draw a picture of the figures in a text."""
    rows = first_table(text, plot.benchmark)
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained")
        plot.draw(figure, rows)
        PLOTS.mkdir(exist_ok=True)
        figure.savefig(plot.path, metadata={"Title": plot.alt, "Description": digest(rows), "Date": None})


def main() -> None:
    """Draw all pictures, or check them."""
    text = README.read_text()
    if "--check" not in sys.argv[1:]:
        for plot in PICTURES:
            draw(plot, text)
            print(plot.path.relative_to(Path.cwd()))
    elif stale := [plot.benchmark for plot in PICTURES if not is_current(plot, text)]:
        sys.exit(f"older than the table in benchmarks/README.md: {', '.join(stale)}; run python -m benchmarks.plots")


if __name__ == "__main__":
    main()
