"""Lines in a picture: one for each name, points joined in their order, axes linear or logarithmic."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

Point = tuple[float, float]
COLOURS = ("#3b6fd4", "#d9822b", "#3a9a5b", "#b8417c", "#7a5cc4", "#5b6472", "#1c9fb0", "#a08a1c")
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 860, 480, 76, 72, 170, 56


def picture(
    title: str,
    below: str,
    axes: tuple[str, str],
    series: Mapping[str, Sequence[Point]],
    logarithmic: tuple[bool, bool] = (False, True),
) -> str:
    """Return an SVG picture of at least one point; on a logarithmic axis all values must be positive."""
    scales = [_Scale([point[axis] for line in series.values() for point in line], logarithmic[axis]) for axis in (0, 1)]

    def x(value: float) -> float:
        return LEFT + scales[0].share(value) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - scales[1].share(value) * (HEIGHT - TOP - BOTTOM)

    drawn = []
    for value in scales[0].ticks:
        drawn.append(f'<path d="M{x(value):.1f} {TOP}V{HEIGHT - BOTTOM}" class="grid"/>')
        drawn.append(_text(x(value), HEIGHT - BOTTOM + 18, _short(value), "middle"))
    for value in scales[1].ticks:
        drawn.append(f'<path d="M{LEFT} {y(value):.1f}H{WIDTH - RIGHT}" class="grid"/>')
        drawn.append(_text(LEFT - 8, y(value) + 4, _short(value), "end"))
    for place, (name, line) in enumerate(series.items()):
        colour, dashes = COLOURS[place % len(COLOURS)], "" if place < len(COLOURS) else ' stroke-dasharray="5 4"'
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in line)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        drawn += [f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="3.5" fill="{colour}"/>' for a, b in line]
        drawn.append(f'<rect x="{WIDTH - RIGHT + 16}" y="{TOP + 22 * place}" width="12" height="12" fill="{colour}"/>')
        drawn.append(_text(WIDTH - RIGHT + 34, TOP + 22 * place + 11, name))
    drawn.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, axes[0], "middle"))
    drawn.append(_text(16, TOP - 12, axes[1]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        "<style>text{font:13px system-ui,sans-serif;fill:#222}.grid{stroke:#e2e5ea}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/><text x="16" y="26" style="font-size:17px;font-weight:600">'
        f'{title}</text><text x="16" y="44" style="fill:#666">{below}</text>{"".join(drawn)}</svg>\n'
    )


class _Scale:
    """Where values lie between the smallest (0) and the largest (1), and round ones to mark."""

    def __init__(self, values: Sequence[float], logarithmic: bool) -> None:
        self.logarithmic = logarithmic
        low, high = min(values), max(values)
        if logarithmic:
            powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            steps = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        else:
            step = 10.0 ** math.floor(math.log10((high - low) or 1))
            step = step / 5 if (high - low) / step < 2 else step / 2 if (high - low) / step < 5 else step
            steps = [n * step for n in range(math.floor(low / step), math.ceil(high / step) + 1)]
        self.low = max((one for one in steps if one <= low * (1 + 1e-9)), default=low)
        self.high = min((one for one in steps if one >= high * (1 - 1e-9)), default=high)
        self.high = self.high if self.high > self.low else self.low * 2 or 1.0
        self.ticks = [one for one in steps if self.low <= one * (1 + 1e-9) and one <= self.high * (1 + 1e-9)]

    def share(self, value: float) -> float:
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)


def _text(x: float, y: float, content: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'


def _short(value: float) -> str:
    for size, name in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{name}"
    return f"{value:.4g}"
