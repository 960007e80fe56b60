"""Filters as a user writes them (`modality=image and label=dog`), turned into SQL with parameters only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

COLUMNS = ("id", "modality", "uri")  # every other field is looked up in an item's metadata

LONGEST = 2_000  # characters; reading costs up to the square of this

# field = "quoted value" or value, then a comma, the word `and`, or the end
_CONDITION = re.compile(
    r"""(?P<field>[^=,"]+)=(?:
        \s*"(?P<quoted>(?:[^"\\]|\\.)*)"\s*(?:,|and\s+|\Z)
        |(?P<bare>[^,"]*?)(?:,|\s+and\s+|\Z)
    )""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)

_IN_METADATA = """EXISTS (SELECT 1 FROM json_each(items.metadata) AS entry WHERE entry.key = :field{n} AND (
    (entry.type = 'text' AND entry.atom = :text{n})
    OR (entry.type IN ('integer', 'real') AND entry.atom = :number{n})
    OR (entry.type IN ('true', 'false', 'null') AND entry.type = :text{n})))"""


@dataclass(frozen=True)
class Equal:
    """One condition: `field` has this value. Numbers compare as numbers, true/false/null as JSON writes them."""

    field: str
    value: str

    @property
    def number(self) -> int | float | None:
        """The value as a number, where it is one that SQLite can hold."""
        try:
            whole = int(self.value)
            return whole if abs(whole) < 2**63 else float(whole)
        except (ValueError, OverflowError):
            pass
        try:
            return float(self.value)
        except ValueError:
            return None


Where = str | Mapping[str, object]


def parse_where(where: Where) -> tuple[Equal, ...]:
    """Read `field=value`, joined by commas or `and`; a value with a comma or ` and ` stands in double quotes.

    A mapping of fields to values means the same. Raises ValueError showing the part that cannot be read.
    """
    if isinstance(where, Mapping):
        return tuple(Equal(field, _written(value)) for field, value in where.items())
    if len(where) > LONGEST:
        raise ValueError(f"where: expected at most {LONGEST} characters, got {len(where)}")
    where = where.strip()
    conditions: list[Equal] = []
    position = 0
    while position < len(where) or not conditions:
        match = _CONDITION.match(where, position)
        if match is None or not match["field"].strip():
            raise ValueError(
                f"where: expected field=value, got {where[position:]!r}; "
                'a value with a comma or the word and stands in quotes: label="black, and white"'
            )
        quoted, bare = match["quoted"], match["bare"]
        value = bare.strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        conditions.append(Equal(match["field"].strip(), value))
        position = match.end()
    return tuple(conditions)


def as_sql(conditions: tuple[Equal, ...]) -> tuple[str, dict[str, str | int | float | None]]:
    """Return a WHERE clause over the table `items`, and its parameters.

    Only our own words and numbers enter the clause; fields and values are parameters. `json_each` rather
    than `json_extract`, whose paths cannot name every key.
    """
    clauses, parameters = [], dict[str, str | int | float | None]()
    for n, condition in enumerate(conditions):
        parameters[f"text{n}"] = condition.value
        if condition.field in COLUMNS:
            clauses.append(f"items.{condition.field} = :text{n}")
        else:
            clauses.append(_IN_METADATA.format(n=n))
            parameters |= {f"field{n}": condition.field, f"number{n}": condition.number}
    return " AND ".join(clauses), parameters


def _written(value: object) -> str:
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
