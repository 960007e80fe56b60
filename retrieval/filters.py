"""Filters as a user writes them (`modality=image and (year>=2020 or label=dog)`), as SQL with parameters only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

COLUMNS = ("id", "modality", "uri")  # every other field is looked up in an item's metadata
LONGEST = 10_000  # characters
DEEPEST = 50  # parentheses and `not` within one another

Where = str | Mapping[str, object]
Parameters = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Compare:
    """One condition on a field.

    Where both sides are numbers they compare as numbers; otherwise only texts compare with texts, by code points. What
    has no such field fulfils nothing.
    """

    field: str
    value: str
    operator: str = "="  # = < <= > >= or ~, which compares with * for anything and ? for one character

    @property
    def number(self) -> int | float | None:
        """The value as a number, where it is one that SQLite can hold."""
        try:
            whole = int(self.value)
            return whole if abs(whole) < 2**63 else float(whole)
        except (ValueError, OverflowError):
            pass
        try:
            number = float(self.value)
        except ValueError:
            return None
        return number if math.isfinite(number) else None

    def fields(self) -> Iterator[str]:
        """Yield the names of the fields that are asked."""
        yield self.field

    def sql(self, parameters: Parameters | None = None) -> tuple[str, Parameters]:
        """Return a condition on the table `items`, and its parameters.

        Only our own words and numbers enter it; fields and values are parameters. `json_each` rather than
        `json_extract`, whose paths cannot name every key.
        """
        parameters = {} if parameters is None else parameters
        n = len(parameters)
        operator = "GLOB" if self.operator == "~" else self.operator
        parameters[f"text{n}"] = self.value
        if self.field in COLUMNS:
            return f"items.{self.field} {operator} :text{n}", parameters
        parameters[f"field{n}"], number = self.field, None if self.operator == "~" else self.number
        either = [f"(entry.type = 'text' AND entry.atom {operator} :text{n})"]
        if number is not None:
            parameters[f"number{n}"] = number
            numbers = f"(entry.type IN ('integer', 'real') AND entry.atom {operator} :number{n})"
            either = [*either, numbers] if self.operator == "=" else [numbers]
        if self.operator == "=":
            either.append(f"(entry.type IN ('true', 'false', 'null') AND entry.type = :text{n})")
        entry = "SELECT 1 FROM json_each(items.metadata) AS entry WHERE"
        return f"EXISTS ({entry} entry.key = :field{n} AND ({' OR '.join(either)}))", parameters


@dataclass(frozen=True)
class Not:
    """What does not fulfil a condition, for lack of the field too."""

    condition: Condition

    def fields(self) -> Iterator[str]:
        """Yield the names of the fields that are asked."""
        yield from self.condition.fields()

    def sql(self, parameters: Parameters | None = None) -> tuple[str, Parameters]:
        """Return a condition on the table `items`, and its parameters."""
        clause, parameters = self.condition.sql(parameters)
        return f"NOT ({clause})", parameters


@dataclass(frozen=True)
class Combined:
    """All of some conditions, or any of them."""

    word: str  # AND or OR
    conditions: tuple[Condition, ...]

    def fields(self) -> Iterator[str]:
        """Yield the names of the fields that are asked."""
        for condition in self.conditions:
            yield from condition.fields()

    def sql(self, parameters: Parameters | None = None) -> tuple[str, Parameters]:
        """Return a condition on the table `items`, and its parameters."""
        parameters = {} if parameters is None else parameters
        clauses = [condition.sql(parameters)[0] for condition in self.conditions]
        return f"({f' {self.word} '.join(clauses)})", parameters


Condition = Compare | Not | Combined


def parse_where(where: Where) -> Condition:
    """Read a filter.

    Conditions are `field=value`, also with != < <= > >= and ~ (a pattern with * and ?), and `field in (a, b)`; `and`
    (or a comma), `or`, `not` and parentheses join them. A value with a comma, a parenthesis or one of these words
    stands in double quotes. A mapping means that every field has its value, or one of a list of values.

    Raises ValueError showing the part that cannot be read.
    """
    if isinstance(where, Mapping):
        if not where:
            raise ValueError("where: expected at least one field")
        return _joined("AND", [_is(field, value) for field, value in where.items()])
    if len(where) > LONGEST:
        raise ValueError(f"where: expected at most {LONGEST} characters, got {len(where)}")
    return _Reader(where).read()


_QUOTED = r'"(?:[^"\\]|\\.)*"'
_FIELD = re.compile(
    rf"""\s*(?P<field>{_QUOTED}|(?!(?:and|or)\s)[^=<>!~,()"\s](?:[^=<>!~,()"]*?[^=<>!~,()"\s])??)
    (?:\s*(?P<operator>==|!=|<=|>=|[=<>~])|\s+(?P<not>not\s+)?in\s*\()""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)
_QUOTED_VALUE = re.compile(rf"\s*(?P<value>{_QUOTED})\s*(?=,|\)|\Z|(?:and|or)\b)", re.DOTALL | re.IGNORECASE)
_BARE_VALUE = re.compile(r'\s*(?P<value>[^,"()]*?)\s*(?=,|\)|\Z|\s(?:and|or)(?:[\s(]|\Z))', re.DOTALL | re.IGNORECASE)
_AND = re.compile(r"\s*(?:,|and\b)", re.IGNORECASE)
_OR = re.compile(r"\s*or\b", re.IGNORECASE)
_NOT = re.compile(r"\s*not(?=[\s(])(?!\s*(?:in\s*\(|[=<>!~]))", re.IGNORECASE)
_OPEN, _CLOSE, _COMMA, _END = (re.compile(pattern) for pattern in (r"\s*\(", r"\s*\)", r"\s*,", r"\s*\Z"))


class _Reader:
    """Reads a filter from left to right."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text, 0, 0

    def read(self) -> Condition:
        condition = self._either()
        if not self._take(_END):
            raise self._unreadable()
        return condition

    def _either(self) -> Condition:
        parts = [self._all()]
        while self._take(_OR):
            parts.append(self._all())
        return _joined("OR", parts)

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._take(_AND):
            parts.append(self._one())
        return _joined("AND", parts)

    def _one(self) -> Condition:
        self.depth += 1
        if self.depth > DEEPEST:
            raise ValueError(f"where: expected at most {DEEPEST} parentheses within one another")
        try:
            if self._take(_NOT):
                return Not(self._one())
            if self._take(_OPEN):
                condition = self._either()
                if not self._take(_CLOSE):
                    raise self._unreadable()
                return condition
            return self._comparison()
        finally:
            self.depth -= 1

    def _comparison(self) -> Condition:
        match = self._take(_FIELD)
        if match is None:
            raise self._unreadable()
        field = _plain(match["field"])
        if match["operator"] == "!=":
            return Not(Compare(field, self._value()))
        if match["operator"]:
            return Compare(field, self._value(), match["operator"].replace("==", "="))
        values = [self._value()]
        while self._take(_COMMA):
            values.append(self._value())
        if not self._take(_CLOSE):
            raise self._unreadable()
        condition = _joined("OR", [Compare(field, value) for value in values])
        return Not(condition) if match["not"] else condition

    def _value(self) -> str:
        match = self._take(_QUOTED_VALUE) or self._take(_BARE_VALUE)
        if match is None:
            raise self._unreadable()
        return _plain(match["value"])

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def _unreadable(self) -> ValueError:
        return ValueError(
            f"where: expected field=value, got {self.text[self.position :].strip()!r}; a value with a comma, a "
            'parenthesis or the words and, or stands in quotes: label="black, and white"'
        )


def _is(field: str, value: object) -> Condition:
    if isinstance(value, list | tuple | set | frozenset):
        if not value:
            raise ValueError(f"where: no values given for {field!r}")
        return _joined("OR", [Compare(field, _written(one)) for one in value])
    return Compare(field, _written(value))


def _joined(word: str, conditions: list[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else Combined(word, tuple(conditions))


def _plain(written: str) -> str:
    """A name or value without its quotes."""
    if written.startswith('"'):
        return re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)
    return written.strip()


def _written(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
