"""One figure of an evaluation, with its interval and what chance would reach."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One figure.

    >>> figure = Measurement("mine", "text to image", "R@1", 25.0, 40, 40, 12.5, 37.5, chance=2.5)
    >>> figure.times_chance, figure.to_dict()["high"]
    (10.0, 37.5)
    """

    source: str
    task: str  # "text to image", "zero-shot image", ...
    metric: str  # "R@1", "accuracy"
    value: float  # percent
    queries: int
    candidates: int
    low: float  # ends of the 95 % bootstrap interval, percent
    high: float
    chance: float  # what a random order of the candidates is expected to reach, percent
    language: str | None = None  # of the texts, where one was asked for

    @property
    def times_chance(self) -> float:
        """Return how many times chance the figure is."""
        return self.value / self.chance

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"times_chance": self.times_chance}
