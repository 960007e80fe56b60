from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval import Catalog, Item
from retrieval.catalog import CatalogWriter, State
from retrieval.filters import Combined, Compare, Condition, Not, parse_where

A, B, C = Compare("a", "1"), Compare("b", "2"), Compare("c", "3")


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("modality=image", [("modality", "image")]),
        (" label = big dog , year=2020", [("label", "big dog"), ("year", "2020")]),
        ("a=b and c=d AND e=f", [("a", "b"), ("c", "d"), ("e", "f")]),
        ('label="black, and white" and a=b', [("label", "black, and white"), ("a", "b")]),
        (r'label="say \"hi\" \\ bye"', [("label", r'say "hi" \ bye')]),
        ("brand=sand and name=anderson", [("brand", "sand"), ("name", "anderson")]),
        ("origin=oregon, inn=inside", [("origin", "oregon"), ("inn", "inside")]),
        ("empty=", [("empty", "")]),
        ("a=b c=d", [("a", "b c=d")]),
        ("url=http://x/?a=b", [("url", "http://x/?a=b")]),
        ("étiquette=猫", [("étiquette", "猫")]),
        ('"odd (name), = and so on"=x', [("odd (name), = and so on", "x")]),
        ("notes=x and not_yet=1", [("notes", "x"), ("not_yet", "1")]),
        ("not=1", [("not", "1")]),
        ("in=1", [("in", "1")]),
    ],
)
def test_conditions_are_read(where: str, expected: list[tuple[str, str]]) -> None:
    conditions = tuple(Compare(*pair) for pair in expected)
    assert parse_where(where) == (conditions[0] if len(conditions) == 1 else Combined("AND", conditions))


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("a=1 and b=2 or c=3", Combined("OR", (Combined("AND", (A, B)), C))),
        ("a=1 and (b=2 or c=3)", Combined("AND", (A, Combined("OR", (B, C))))),
        ("not a=1 and b=2", Combined("AND", (Not(A), B))),
        ("NOT (a=1 or not b=2)", Not(Combined("OR", (A, Not(B))))),
        ("a != 1", Not(A)),
        ("a == 1", A),
        ("a>=1 and b<2", Combined("AND", (Compare("a", "1", ">="), Compare("b", "2", "<")))),
        ("uri ~ photos/*.jpg", Compare("uri", "photos/*.jpg", "~")),
        ("a in (1, x y)", Combined("OR", (A, Compare("a", "x y")))),
        ('a not in (1,"2, 3")', Not(Combined("OR", (A, Compare("a", "2, 3"))))),
        ("((a=1))", A),
    ],
)
def test_conditions_combine(where: str, expected: Condition) -> None:
    assert parse_where(where) == expected


@pytest.mark.parametrize(
    "where",
    [
        *(
            "",
            "  ",
            "image",
            "=x",
            "a=b,,c=d",
            'a="open',
            'a="x"y',
            "a=black and white",
            "a=1 or",
            "(a=1",
            "a=1)",
            "()",
        ),
        *("a in ()x", "a in 1", "not", "not (a=1", "a=1 b in (2)(", "a in (1", "and a=1", "a=(1)"),
    ],
)
def test_what_cannot_be_read_is_shown(where: str) -> None:
    with pytest.raises(ValueError, match=r"where: ('image' is no condition|expected field=value, got)"):
        parse_where(where)


def test_what_is_too_deep_or_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 50 parentheses"):
        parse_where("(" * 4_000 + "a=1" + ")" * 4_000)
    with pytest.raises(ValueError, match="at most 10000 characters"):
        parse_where("a=" + "x" * 10_000)


@given(st.text())
def test_any_value_can_be_quoted(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    expected = Combined("AND", (Compare("field", value), Compare("other", "x")))
    assert parse_where(f'field="{escaped}", other=x') == expected


def test_a_mapping_means_the_same() -> None:
    assert parse_where({"a": "b, c", "n": 3, "yes": True, "no": None, "some": ["x", 1]}) == Combined(
        "AND",
        (
            Compare("a", "b, c"),
            Compare("n", "3"),
            Compare("yes", "true"),
            Compare("no", "null"),
            Combined("OR", (Compare("some", "x"), Compare("some", "1"))),
        ),
    )
    for wrong in ({}, {"a": []}):
        with pytest.raises(ValueError, match="where: "):
            parse_where(wrong)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("3", 3), ("-2.5", -2.5), ("1e3", 1000.0), ("dog", None), ("", None), (str(2**70), float(2**70))],
        *[("nan", None), ("1_0", None), (".5", 0.5), ("2020-05-01", None), ("1e999", None)],
    ],
)
def test_a_value_is_a_number_where_it_reads_as_one(value: str, number: float | None) -> None:
    assert Compare("n", value).number == number


# What a filter means, said once more in Python.

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": lambda text, pattern: bool(re.fullmatch(as_regular_expression(pattern), text, re.DOTALL)),
}


def as_regular_expression(pattern: str) -> str:
    return "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)


def fulfils(item: Item, condition: Condition) -> bool:
    if isinstance(condition, Not):
        return not fulfils(item, condition.condition)
    if isinstance(condition, Combined):
        join = all if condition.word == "AND" else any
        return join(fulfils(item, one) for one in condition.conditions)
    if condition.field in ("id", "modality", "uri"):
        return OPERATORS[condition.operator](getattr(item, condition.field), condition.value)
    if condition.field not in item.metadata:
        return False
    value, compare = item.metadata[condition.field], OPERATORS[condition.operator]
    if isinstance(value, bool) or value is None:
        return condition.operator == "=" and json.dumps(value) == condition.value
    try:
        number = None if condition.operator == "~" or condition.quoted else float(condition.value)
    except ValueError:
        number = None
    if isinstance(value, str):
        return compare(value, condition.value) if number is None or condition.operator == "=" else False
    return number is not None and not isinstance(value, list | dict) and compare(value, number)


FIELDS = {
    "modality": ["image", "audio", "text"],
    "uri": ["/x/1.jpg", "/x/2.wav", "*.jpg", "/x/?.*", "*[3].wav", "/x/[12].jpg"],
    "label": ["dog", "cat", "Dog", "a dog", "2020", ""],
    "year": ["2019", "2020", "2020.5", "2021", "-1", "1e3"],
    "mixed": ["1", "true", "null", "x", "10"],
    "never": ["1"],
}


def random_condition(rng: np.random.Generator, depth: int = 3) -> Condition:
    kind = rng.choice(["compare", "compare", "not", "and", "or"]) if depth else "compare"
    if kind == "not":
        return Not(random_condition(rng, depth - 1))
    if kind != "compare":
        parts = [random_condition(rng, depth - 1) for _ in range(rng.integers(2, 4))]
        return Combined(kind.upper(), tuple(parts))
    field = str(rng.choice(sorted(FIELDS)))
    value = str(rng.choice(FIELDS[field]))
    quoted = not value or bool(rng.integers(2))
    return Compare(field, value, str(rng.choice(sorted(OPERATORS))), quoted)


def as_text(condition: Condition) -> str:
    if isinstance(condition, Not):
        return f"not ({as_text(condition.condition)})"
    if isinstance(condition, Combined):
        return "(" + f" {condition.word.lower()} ".join(map(as_text, condition.conditions)) + ")"
    value = f'"{condition.value}"' if condition.quoted else condition.value
    return f"{condition.field} {condition.operator} {value}"


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Catalog, list[Item]]:
    rng = np.random.default_rng(5)
    mixed = [1, 10, 1.5, True, False, None, "x", "1", "true", ["x"], {"a": 1}]
    items = []
    for n in range(300):
        metadata: dict[str, Any] = {}
        if rng.random() < 0.8:
            metadata["label"] = str(rng.choice(["dog", "cat", "Dog", "a dog", "2020", ""]))
        if rng.random() < 0.8:
            metadata["year"] = [2019, 2020, 2021, 2020.5, "2020", -1][rng.integers(6)]
        if rng.random() < 0.8:
            metadata["mixed"] = mixed[rng.integers(len(mixed))]
        if n == 0:
            metadata["never"] = 2
        modality = ["image", "audio", "text"][rng.integers(3)]
        name = f"[{n % 7}]" if n % 3 == 0 else f"{n % 7}"
        items.append(Item(f"{n}", modality, f"/x/{name}{['.jpg', '.wav'][n % 2]}", metadata))
    path = tmp_path_factory.mktemp("filters") / "catalog.sqlite"
    writer = CatalogWriter(path)
    writer.apply(State(1, 1, 0, len(items), len(items)), list(enumerate(items)))
    writer.close()
    return Catalog.open(path), items


def test_a_thousand_random_filters_keep_what_brute_force_keeps(filtered: tuple[Catalog, list[Item]]) -> None:
    catalog, items = filtered
    rng = np.random.default_rng(6)
    for _ in range(1_000):
        condition = random_condition(rng)
        written = as_text(condition)
        assert parse_where(written) == condition
        expected = [row for row, item in enumerate(items) if fulfils(item, condition)]
        assert catalog.select(written).tolist() == expected, written


def test_a_number_in_quotes_is_a_text(filtered: tuple[Catalog, list[Item]]) -> None:
    catalog, items = filtered
    as_texts = [row for row, item in enumerate(items) if item.metadata.get("year") == "2020"]
    assert as_texts
    assert catalog.select('year="2020"').tolist() == as_texts
    assert catalog.select('year>="2020"').tolist() == as_texts
    numbers = [row for row, item in enumerate(items) if isinstance(item.metadata.get("year"), int | float)]
    assert catalog.select("year>=-1").tolist() == numbers


def test_thousands_of_values_and_conditions_are_no_trouble(filtered: tuple[Catalog, list[Item]]) -> None:
    catalog, items = filtered
    half = [item.id for item in items[::2]] + [f"none of them {n}" for n in range(9_000)]
    assert catalog.select({"id": half}).tolist() == list(range(0, 300, 2))
    some = [row for row, item in enumerate(items) if item.metadata.get("year") in (2019, 2021)]
    assert catalog.select({"year": [2019, 2021, *range(5_000, 9_000)]}).tolist() == some
    assert catalog.select(" or ".join(["label=dog", "uri=x"] * 450)).tolist() == catalog.select("label=dog").tolist()
    with pytest.raises(ValueError, match="at most 10,000 conditions or values, got 10,001"):
        parse_where({"id": [str(n) for n in range(10_001)]})
