"""Every input against every other: cosines to read, and in a notebook to look at. N: rows, M: columns."""

from __future__ import annotations

import os
from dataclasses import dataclass
from html import escape
from typing import Any

from onepeace.reader import FloatMatrix

SHOWN = 20  # rows and columns that are shown; `values` has all
NAME = 24  # characters of a head in the text form


@dataclass(frozen=True, eq=False, repr=False)
class SimilarityTable:
    """The cosines of N inputs with M inputs, as `Embedder.similarity_table` makes them.

    >>> table = model.similarity_table(["a dog", "rain"], ["a puppy"])
    >>> table.values.shape, bool(table.values[0, 0] > table.values[1, 0])
    ((2, 1), True)
    """

    values: FloatMatrix  # (N, M) float32
    rows: list[Any]  # the N inputs
    columns: list[Any]  # the M inputs

    def __repr__(self) -> str:
        names = [_name(value) for value in self.columns[:SHOWN]]
        first = max((len(_name(value)) for value in self.rows[:SHOWN]), default=0)
        lines = [" ".join([" " * first, *(f"{name:>6}" for name in names)])]
        for value, row in zip(self.rows[:SHOWN], self.values, strict=False):
            cells = (f"{cosine:{max(6, len(name))}.2f}" for cosine, name in zip(row, names, strict=False))
            lines.append(" ".join([f"{_name(value):<{first}}", *cells]))
        return "\n".join(lines + ([self._more()] if self._more() else []))

    def _more(self) -> str:
        rows, columns = self.values.shape
        return f"the first {SHOWN} of {rows} x {columns}" if max(rows, columns) > SHOWN else ""

    def _repr_html_(self) -> str:
        from encoders.display import media_html

        shown = self.values[:SHOWN, :SHOWN]
        low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 0.0)
        cell = 'style="padding:4px 6px;text-align:center;max-width:170px;white-space:normal'
        heads = "".join(f'<th {cell}">{media_html(value)}</th>' for value in self.columns[:SHOWN])
        body = ""
        for value, row in zip(self.rows[:SHOWN], shown, strict=False):
            cells = ""
            for cosine in row.tolist():
                part = (cosine - low) / ((high - low) or 1.0)  # light to dark over what this table has
                ink = "#fff" if part > 0.6 else "#000"
                cells += f'<td {cell};background:hsl(210 70% {95 - 60 * part:.0f}%);color:{ink}">{cosine:.2f}</td>'
            body += f'<tr><th {cell}">{media_html(value)}</th>{cells}</tr>'
        more = f"<p>{escape(self._more())}</p>" if self._more() else ""
        return f'<table style="border-collapse:collapse"><tr><th></th>{heads}</tr>{body}</table>{more}'


def _name(value: Any) -> str:
    source = getattr(value, "source", None)
    told = os.path.basename(source) if isinstance(source, str | os.PathLike) else repr(value)
    text = " ".join((value if isinstance(value, str) else os.fsdecode(told)).split())
    return text if len(text) <= NAME else text[: NAME - 1] + "…"
