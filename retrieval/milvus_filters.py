"""Filters as Milvus's expressions, for what Milvus decides as SQLite does; the rest is left to SQLite.

What an item's metadata say lies in dynamic fields whose names tell its kind, so that numbers meet only numbers and
texts only texts: Milvus's own rules for other kinds, and for keys that are not there, differ between versions.
"""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from .filters import COLUMNS, Combined, Compare, Condition, Not

WORDS = ("true", "false", "null")
TEXT, NUMBER, WORD = "t_", "n_", "w_"  # what the names of dynamic fields begin with
EXACT = 2**53  # from here on Milvus may compare whole numbers as rounded ones
_PLAIN = frozenset(string.ascii_letters + string.digits)
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def dynamic_fields(metadata: Mapping[str, Any]) -> dict[str, str | int | float]:
    """Return what a filter can ask of an item's metadata; lists and objects fulfil nothing, and are left out."""
    fields: dict[str, str | int | float] = {}
    for name, value in metadata.items():
        if isinstance(value, str):
            fields[TEXT + _key(name)] = value
        elif value is None or isinstance(value, bool):
            fields[WORD + _key(name)] = json.dumps(value)
        elif isinstance(value, int | float):
            fields[NUMBER + _key(name)] = value if abs(value) < 2**63 else _rounded(value)
    return fields


def divided(condition: Condition) -> tuple[str, Condition | None]:
    """Return an expression, empty where nothing can be asked, and what is left for SQLite of what passes it."""
    whole = _expression(condition)
    if whole is not None:
        return whole, None
    if not isinstance(condition, Combined) or condition.word != "AND":
        return "", condition
    parts = [(part, _expression(part)) for part in condition.conditions]
    left = tuple(part for part, expression in parts if expression is None)
    asked = [expression for _, expression in parts if expression is not None]
    return " and ".join(asked), left[0] if len(left) == 1 else Combined("AND", left)


def one_of(field: str, values: Iterable[str]) -> str:
    """Return the expression that a field holds one of some texts."""
    return f"{field} in [{', '.join(map(literal, values))}]"


def literal(text: str) -> str:
    """Return a text as an expression holds it."""
    return f'"{text.translate(_ESCAPES)}"'


def _expression(condition: Condition) -> str | None:
    """Return an expression that is true or false, never unknown; None where Milvus cannot say."""
    if isinstance(condition, Not):
        inner = _expression(condition.condition)
        return None if inner is None else f"(not {inner})"
    if isinstance(condition, Combined):
        parts = [part for part in map(_expression, condition.conditions) if part is not None]
        return f"({f' {condition.word.lower()} '.join(parts)})" if len(parts) == len(condition.conditions) else None
    return _comparison(condition)


def _comparison(condition: Compare) -> str | None:
    text = _text_test(condition)
    if condition.field in COLUMNS:
        return None if text is None else f"({condition.field} {text})"
    key, number = _key(condition.field), None if condition.operator == "~" else condition.number
    options = []
    if number is not None:
        if abs(number) >= EXACT:
            return None
        options.append(_where_there(NUMBER + key, f"{_operator(condition)} {number!r}"))
    if number is None or condition.operator == "=":
        if text is None:
            return None
        options.append(_where_there(TEXT + key, text))
        if condition.operator == "=" and condition.value in WORDS:
            options.append(_where_there(WORD + key, text))
    return f"({' or '.join(options)})"


def _text_test(condition: Compare) -> str | None:
    if condition.operator != "~":
        return f"{_operator(condition)} {literal(condition.value)}"
    if set(condition.value) & set("?%_\\"):  # one character and escapes are not the same everywhere
        return None
    if "*" not in condition.value:
        return f"== {literal(condition.value)}"
    return f"like {literal(condition.value.replace('*', '%'))}"


def _operator(condition: Compare) -> str:
    return "==" if condition.operator == "=" else condition.operator


def _where_there(field: str, test: str) -> str:
    """`exists` first: what a test of a missing key gives, and its negation, is not the same everywhere."""
    return f'(exists $meta["{field}"] and $meta["{field}"] {test})'


def _key(name: str) -> str:
    """A name of letters and digits, another for each: paths into JSON give some characters a meaning."""
    return "".join(chr(byte) if chr(byte) in _PLAIN else f"_{byte:02x}" for byte in name.encode())


def _rounded(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return sys.float_info.max if number > 0 else -sys.float_info.max
