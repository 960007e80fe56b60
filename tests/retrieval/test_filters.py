from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.filters import Equal, parse_where


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("modality=image", [("modality", "image")]),
        (" label = big dog , year=2020", [("label", "big dog"), ("year", "2020")]),
        ("a=b and c=d AND e=f", [("a", "b"), ("c", "d"), ("e", "f")]),
        ('label="black, and white" and a=b', [("label", "black, and white"), ("a", "b")]),
        (r'label="say \"hi\" \\ bye"', [("label", r'say "hi" \ bye')]),
        ("brand=sand and name=anderson", [("brand", "sand"), ("name", "anderson")]),
        ("empty=", [("empty", "")]),
        ("a=b c=d", [("a", "b c=d")]),
        ("url=http://x/?a=b", [("url", "http://x/?a=b")]),
        ("étiquette=猫", [("étiquette", "猫")]),
    ],
)
def test_conditions_are_read(where: str, expected: list[tuple[str, str]]) -> None:
    assert parse_where(where) == tuple(Equal(*pair) for pair in expected)


@pytest.mark.parametrize("where", ["", "  ", "image", "=x", "a=b,,c=d", 'a="open', 'a="x"y', "a=black and white"])
def test_what_cannot_be_read_is_shown(where: str) -> None:
    with pytest.raises(ValueError, match="where: expected field=value, got"):
        parse_where(where)


@given(st.text())
def test_any_value_can_be_quoted(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert parse_where(f'field="{escaped}", other=x') == (Equal("field", value), Equal("other", "x"))


def test_a_mapping_means_the_same() -> None:
    assert parse_where({"a": "b, c", "n": 3, "yes": True, "no": None}) == (
        Equal("a", "b, c"),
        Equal("n", "3"),
        Equal("yes", "true"),
        Equal("no", "null"),
    )


@pytest.mark.parametrize(
    ("value", "number"),
    [("3", 3), ("-2.5", -2.5), ("1e3", 1000.0), ("dog", None), ("", None), (str(2**70), float(2**70))],
)
def test_a_value_is_a_number_where_it_reads_as_one(value: str, number: float | None) -> None:
    assert Equal("n", value).number == number
