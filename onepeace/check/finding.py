"""What a check finds, and how checks run: one that stops altogether has failed, and the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from onepeace.progress import progress_bar


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    SLOW = "slow"  # right, but much slower than this machine could be
    FAILED = "failed"
    ABSENT = "not installed"  # an extra that nobody asked for
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding:
    """How a check ended, what it saw, and what to do about it: one line each."""

    outcome: Outcome
    detail: str
    advice: str = ""

    def __post_init__(self) -> None:
        if self.outcome in (Outcome.SLOW, Outcome.FAILED) and not self.advice:
            raise ValueError(f"a check that ends with {self.outcome} must say what to do: {self.detail}")


@dataclass(frozen=True)
class Check:
    """Something to look at."""

    group: str
    name: str
    look: Callable[[], Finding]
    advice: str  # where `look` stops with an error


@dataclass(frozen=True)
class Row:
    """A check that ran."""

    group: str
    name: str
    finding: Finding
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether this makes the installation one not to use."""
        return self.finding.outcome is Outcome.FAILED


def run(checks: Sequence[Check]) -> list[Row]:
    """Run checks in their order; progress goes to stderr."""
    rows = []
    with progress_bar(len(checks), "checking") as advance:
        for check in checks:
            start = time.perf_counter()
            try:
                finding = check.look()
            except Exception as error:  # whatever a broken installation raises
                told = " ".join(str(error).split())
                finding = Finding(Outcome.FAILED, told or type(error).__name__, check.advice)
            rows.append(Row(check.group, check.name, finding, time.perf_counter() - start))
            advance(1)
    return rows
