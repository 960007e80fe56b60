"""Finding a modality's folder: the one place that turns a Modality into its adapter configs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from encoders.adapter import AdapterConfig
from encoders.config import parse_config
from encoders.modality import Modality


def adapter_kinds(modality: Modality) -> dict[str, type[AdapterConfig]]:
    """Return the adapters of `modality` by the name that a config's `kind` gives them."""
    kinds: dict[str, type[AdapterConfig]] = import_module(f"encoders.{modality}").KINDS
    return kinds


def parse_adapter_config(modality: Modality, data: Mapping[str, Any]) -> AdapterConfig:
    """Return the adapter config that `data` describes; its `kind` chooses the class.

    Raises:
        ValueError: an unknown kind or key, or a value that the adapter refuses.
    """
    kinds = adapter_kinds(modality)
    kind = data.get("kind", next(iter(kinds)))
    if kind not in kinds:
        raise ValueError(f"adapters.{modality}.kind must be one of {', '.join(kinds)}, got {kind!r}")
    return parse_config(kinds[kind], {**data, "kind": kind}, f"adapters.{modality}")
