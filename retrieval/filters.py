"""Filters as a user writes them (`modality=image and (year>=2020 or label=dog)`), as SQL with parameters only."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field

COLUMNS = ("id", "modality", "uri")  # every other field is looked up in an item's metadata
MODALITIES = ("image", "audio", "text")  # that a filter may ask for, also where a store has none of one
LONGEST = 10_000  # characters
MOST = 10_000  # conditions that `or` or `and` joins
DEEPEST = 50  # parentheses and `not` within one another

Parameters = dict[str, str | int | float | None]
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class Compare:
    """One condition on a field.

    Where both sides are numbers they compare as numbers; otherwise only texts compare with texts, by code points. A
    value in quotes is a text, whatever it looks like. What has no such field fulfils nothing.
    """

    field: str
    value: str
    operator: str = "="  # = < <= > >= or ~, which compares with * for anything and ? for one character
    quoted: bool = dataclass_field(default=False, compare=False)

    @property
    def number(self) -> int | float | None:
        """The value as a number, where it is one that SQLite can hold."""
        if self.quoted or not _NUMBER.fullmatch(self.value.strip()):
            return None
        try:
            whole = int(self.value)
            return whole if abs(whole) < 2**63 else float(whole)
        except (ValueError, OverflowError):
            number = float(self.value)
        return number if math.isfinite(number) else None

    @property
    def pattern(self) -> str:
        """The value as SQLite's GLOB reads it, to which brackets would mean sets."""
        return self.value.replace("[", "[[]")

    def fields(self) -> Iterator[str]:
        """Yield the names of the fields that are asked."""
        yield self.field

    def values(self, field: str) -> Iterator[str]:
        """Yield the values that a field is compared with for equality."""
        if (self.field, self.operator) == (field, "="):
            yield self.value

    def sql(self, parameters: Parameters | None = None) -> tuple[str, Parameters]:
        """Return a condition on the table `items`, and its parameters.

        Only our own words and numbers enter it; fields and values are parameters. `json_each` rather than
        `json_extract`, whose paths cannot name every key.
        """
        parameters = {} if parameters is None else parameters
        n = len(parameters)
        operator = "GLOB" if self.operator == "~" else self.operator
        parameters[f"text{n}"] = self.pattern if self.operator == "~" else self.value
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

    def values(self, field: str) -> Iterator[str]:
        """Yield the values that a field is compared with for equality."""
        yield from self.condition.values(field)

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

    def values(self, field: str) -> Iterator[str]:
        """Yield the values that a field is compared with for equality."""
        for condition in self.conditions:
            yield from condition.values(field)

    def sql(self, parameters: Parameters | None = None) -> tuple[str, Parameters]:
        """Return a condition on the table `items`, and its parameters."""
        parameters = {} if parameters is None else parameters
        equal = [one for one in self.conditions if isinstance(one, Compare) and one.operator == "="]
        if self.word == "OR" and len(equal) == len(self.conditions) and len({one.field for one in equal}) == 1:
            return _one_of(equal, parameters), parameters
        return _balanced([condition.sql(parameters)[0] for condition in self.conditions], self.word), parameters


Condition = Compare | Not | Combined
Where = str | Mapping[str, object] | Condition


def _one_of(conditions: Sequence[Compare], parameters: Parameters) -> str:
    """Return the condition that a field has one of many values, which are one parameter."""
    n, field = len(parameters), conditions[0].field
    parameters[f"texts{n}"] = json.dumps([one.value for one in conditions])
    texts = f"(SELECT value FROM json_each(:texts{n}))"
    if field in COLUMNS:
        return f"items.{field} IN {texts}"
    parameters[f"field{n}"] = field
    parameters[f"numbers{n}"] = json.dumps([one.number for one in conditions if one.number is not None])
    either = (
        f"(entry.type = 'text' AND entry.atom IN {texts})",
        f"(entry.type IN ('integer', 'real') AND entry.atom IN (SELECT value FROM json_each(:numbers{n})))",
        f"(entry.type IN ('true', 'false', 'null') AND entry.type IN {texts})",
    )
    entry = "SELECT 1 FROM json_each(items.metadata) AS entry WHERE"
    return f"EXISTS ({entry} entry.key = :field{n} AND ({' OR '.join(either)}))"


def _balanced(clauses: Sequence[str], word: str) -> str:
    """Join clauses as a tree of little depth, which SQLite bounds."""
    if len(clauses) == 1:
        return clauses[0]
    middle = len(clauses) // 2
    return f"({_balanced(clauses[:middle], word)} {word} {_balanced(clauses[middle:], word)})"


def parse_where(where: Where) -> Condition:
    """Read a filter.

    Conditions are `field=value`, also with != < <= > >= and ~ (a pattern with * and ?), and `field in (a, b)`; `and`
    (or a comma), `or`, `not` and parentheses join them. A value with a comma, a parenthesis or one of these words
    stands in double quotes; so does a number that is meant as a text. A mapping means that every field has its value,
    or one of a list of values. What was read already is returned as it is.

    Raises ValueError showing the part that cannot be read.
    """
    if isinstance(where, Condition):
        return where
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
            return Not(self._compared(field))
        if match["operator"]:
            return self._compared(field, match["operator"].replace("==", "="))
        values = [self._compared(field)]
        while self._take(_COMMA):
            values.append(self._compared(field))
        if not self._take(_CLOSE):
            raise self._unreadable()
        condition = _joined("OR", values)
        return Not(condition) if match["not"] else condition

    def _compared(self, field: str, operator: str = "=") -> Compare:
        match = self._take(_QUOTED_VALUE) or self._take(_BARE_VALUE)
        if match is None:
            raise self._unreadable()
        return Compare(field, _plain(match["value"]), operator, match["value"].startswith('"'))

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.position)
        if match:
            self.position = match.end()
        return match

    def _unreadable(self) -> ValueError:
        rest = self.text[self.position :].strip()
        if rest in MODALITIES:
            return ValueError(f"where: {rest!r} is no condition: say modality={rest}")
        return ValueError(
            f"where: expected field=value, got {rest!r}; a value with a comma, a "
            'parenthesis or the words and, or stands in quotes: label="black, and white"'
        )


def _is(field: str, value: object) -> Condition:
    if isinstance(value, list | tuple | set | frozenset):
        if not value:
            raise ValueError(f"where: no values given for {field!r}")
        return _joined("OR", [Compare(field, _written(one)) for one in value])
    return Compare(field, _written(value))


def _joined(word: str, conditions: Sequence[Condition]) -> Condition:
    if len(conditions) > MOST:
        raise ValueError(f"where: expected at most {MOST:,} conditions or values, got {len(conditions):,}")
    return conditions[0] if len(conditions) == 1 else Combined(word, tuple(conditions))


def _plain(written: str) -> str:
    """A name or value without its quotes."""
    if written.startswith('"'):
        return re.sub(r"\\(.)", r"\1", written[1:-1], flags=re.DOTALL)
    return written.strip()


def _written(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
