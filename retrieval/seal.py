"""The checksum of a catalog that nobody is writing to: SQLite keeps none, and changes its file in place."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from .catalog import Catalog
from .durable import replacing
from .errors import CatalogError, StoreError
from .manifest import read_sealed_json, sealed_json

CATALOG_NAME = "catalog.sqlite"
CHECK_NAME = "catalog.check"


def seal_catalog(home: Path) -> None:
    """Write down the checksum of a catalog that nobody writes to any more. Raises CatalogError for one that is none."""
    with replacing(home / CHECK_NAME) as aside:
        aside.write_bytes(sealed_json(_seal(home)))


def read_seal(home: Path) -> dict[str, Any] | None:
    """Return bytes and sha256 of the catalog as its last writer left it; None while one is there, or after a crash.

    Raises StoreError where they are damaged.
    """
    path = home / CHECK_NAME
    try:
        content = read_sealed_json(path)
        return {"bytes": int(content["bytes"]), "sha256": str(content["sha256"])}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged ({error})") from error


def fits(home: Path, seal: dict[str, Any]) -> bool:
    """Tell whether the catalog is as it was when it was sealed."""
    path = home / CATALOG_NAME
    try:
        return path.stat().st_size == seal["bytes"] and _seal(home) == seal
    except CatalogError:
        return False


def _seal(home: Path) -> dict[str, Any]:
    path = home / CATALOG_NAME
    with contextlib.closing(Catalog.open(path)) as catalog:
        return {"bytes": path.stat().st_size, "sha256": catalog.sha256()}
