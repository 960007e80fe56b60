"""The errors of this package that a caller may want to tell from any other ValueError."""

from __future__ import annotations


class CatalogError(ValueError):
    """An item, an id or a filter that the catalog cannot take or does not know.

    >>> Item("", "text", "notes.txt#0")
    Traceback (most recent call last):
    CatalogError: an item's id must be a string of valid characters, not empty, got ''
    """


class TakenError(CatalogError):
    """Items that are in the store already."""


class StoreError(ValueError):
    """A store that is damaged, busy, absent, already there, or made with another model.

    >>> Store.open("no-such-store")
    Traceback (most recent call last):
    StoreError: no-such-store is not a store (it has no manifest.json): make one with `onepeace index build`
    """


class BusyError(StoreError):
    """A store that another process is writing to."""


class ManifestError(StoreError):
    """A manifest that is damaged or lost; the journals tell what was in it."""
