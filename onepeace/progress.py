"""The one way to show progress: on stderr, so that what is printed on stdout can be piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

EVERY = 30.0  # seconds between two lines in a log
LATELY = 120.0  # seconds that the rate and the time left are taken from

Advance = Callable[[float], object]
_around: ContextVar[Advance | None] = ContextVar("around", default=None)


@contextmanager
def progress_bar(total: int, title: str = "embedding", show: bool | None = None) -> Iterator[Advance]:
    """Yield a function that moves the progress forward by a count.

    A terminal shows a bar with the rate and the time left. Elsewhere a line is printed every 30 seconds, so that short
    work prints none; with `show` True there is a last one in any case, with False there is nothing at all. Within
    another one there is none either: that one is at a fraction of its next count until this ends.
    """
    around = _around.get()
    if show is False:
        yield lambda count: None
    elif around is not None:
        with _part_of(around, total) as advance:
            yield advance
    elif sys.stderr.isatty():
        with _bar(total, title) as advance, _shown(advance):
            yield advance
    else:
        log = ProgressLog(total, title)
        with _shown(log.advance):
            yield log.advance
        if show or log.printed:
            log.print()


def is_shown() -> bool:
    """Tell whether progress is shown around what runs here."""
    return _around.get() is not None


@contextmanager
def _shown(advance: Advance) -> Iterator[None]:
    token = _around.set(advance)
    try:
        yield
    finally:
        _around.reset(token)


@contextmanager
def _part_of(around: Advance, total: int) -> Iterator[Advance]:
    done = 0.0

    def advance(count: float) -> None:
        nonlocal done
        share = min(count / max(total, 1), 1.0 - done)
        done += share
        around(share)

    yield advance
    around(-done)  # who began this counts it as a whole now


class ProgressLog:
    """Lines about progress, for logs."""

    def __init__(self, total: int, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.printed = False
        self._total, self._title, self._clock = total, title, clock
        self._done = 0.0
        self._before = (clock(), 0.0)  # when the last line was printed, and what was done then

    def advance(self, count: float) -> None:
        """Move forward, and print a line when it is time."""
        self._done += count
        if self._clock() - self._before[0] >= EVERY:
            self.print()

    def print(self) -> None:
        """Print how far it is, how fast it goes since the last line, and how long it will take at that rate."""
        moment, (since, done) = self._clock(), self._before
        rate = (self._done - done) / max(moment - since, 1e-9)
        left = "" if rate == 0 else f", {_duration((self._total - self._done) / rate)} left"
        done = round(self._done, 2)
        shown = f"{self._title} {int(done) if done == int(done) else done}/{self._total}"
        line = f"{shown}, {_rate(rate)}{left if self._done < self._total else ''}"
        print(line, file=sys.stderr, flush=True)  # noqa: T201
        self.printed, self._before = True, (moment, self._done)


@contextmanager
def _bar(total: int, title: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else _rate(speed))

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=LATELY) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


def _rate(rate: float) -> str:
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
