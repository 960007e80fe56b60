"""What was found, as a table or as JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from onepeace.check.finding import Outcome, Row

STYLES = {
    Outcome.OK: "green",
    Outcome.SLOW: "yellow",
    Outcome.FAILED: "bold red",
    Outcome.ABSENT: "dim",
    Outcome.SKIPPED: "dim",
}
WIDE = 160  # columns, of what is piped or kept


def print_rows(rows: Sequence[Row]) -> None:
    """Print a table, and below it the outcome in a line."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "result", "detail", "what to do", box=SIMPLE_HEAD)
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        finding = row.finding
        table.add_row(
            Text(row.name),
            Text(finding.outcome, style=STYLES[finding.outcome]),
            Text(finding.detail),
            Text(finding.advice),
            end_section=following is not None and following.group != row.group,
        )
    console = Console(width=None if sys.stdout.isatty() else WIDE)
    console.print(table)
    console.out(summary(rows), highlight=False)


def summary(rows: Sequence[Row]) -> str:
    """Return the outcome in a line."""
    failed = [row.name for row in rows if row.wrong]
    slow = [row.name for row in rows if row.finding.outcome is Outcome.SLOW]
    seconds = sum(row.seconds for row in rows)
    told = f"{len(failed)} of {len(rows)} checks failed: {', '.join(failed)}" if failed else "all is well"
    return told + (f"; slow: {', '.join(slow)}" if slow else "") + f" ({seconds:.0f} s)"


def to_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "ok": not any(row.wrong for row in rows),
        "checks": [
            {
                "group": row.group,
                "check": row.name,
                "result": str(row.finding.outcome),
                "detail": row.finding.detail,
                "advice": row.finding.advice,
                "seconds": round(row.seconds, 3),
            }
            for row in rows
        ],
    }
