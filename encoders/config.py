"""Reading a frozen dataclass from plain data (JSON, YAML), refusing unknown keys by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import dacite

T = TypeVar("T")


def parse_config(config_class: type[T], data: Mapping[str, Any], where: str) -> T:
    """Return `config_class` filled from `data`.

    `where` names the place in the user's file, for the error text. Lists become tuples where the field is a tuple.

    Raises:
        ValueError: an unknown key, a missing key, a value of the wrong type, or one that the class refuses.
    """
    try:
        return dacite.from_dict(config_class, dict(data), dacite.Config(strict=True, cast=[tuple]))
    except dacite.UnexpectedDataError as error:
        names = ", ".join(sorted(error.keys))
        known = ", ".join(sorted(config_class.__dataclass_fields__))  # type: ignore[attr-defined]
        raise ValueError(f"{where}: unknown key {names}; known keys: {known}") from error
    except dacite.DaciteError as error:
        raise ValueError(f"{where}: {error}") from error
