"""The errors of this package that a caller may want to tell from any other ValueError."""

from __future__ import annotations


class CatalogError(ValueError):
    """An item, an id or a filter that the catalog cannot take or does not know."""


class TakenError(CatalogError):
    """Items that are in the store already."""


class StoreError(ValueError):
    """A store that is damaged, busy, absent, already there, or made with another model."""


class BusyError(StoreError):
    """A store that another process is writing to."""


class ManifestError(StoreError):
    """A manifest that is damaged or lost; the journals tell what was in it."""
