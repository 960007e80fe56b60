"""The figures as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from onepeace.evaluate.measurement import Measurement


def figures_table(measurements: Sequence[Measurement], title: str) -> Table:
    """Return a table with one line a figure; the language has a column where one was asked for."""
    spoken = any(m.language for m in measurements)
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("source", "task", *(["language"] if spoken else []), "metric"):
        table.add_column(name)
    for name in ("percent [95 %]", "chance", "x chance", "queries", "candidates"):
        table.add_column(name, justify="right", no_wrap=name.startswith("percent"))
    for m in measurements:
        table.add_row(
            m.source,
            m.task,
            *([m.language or ""] if spoken else []),
            m.metric,
            with_interval(m),
            f"{m.chance:.1f}",
            times_chance(m),
            str(m.queries),
            str(m.candidates),
        )
    return table


def with_interval(measurement: Measurement) -> str:
    """Return a figure and its interval: 18.9 [17.6, 20.3]."""
    return f"{measurement.value:.1f} [{measurement.low:.1f}, {measurement.high:.1f}]"


def times_chance(measurement: Measurement) -> str:
    """Return how many times chance a figure is, in as many digits as mean something."""
    ratio = measurement.times_chance
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}"
