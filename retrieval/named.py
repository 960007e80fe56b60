"""Items by what a user calls them: their ids, or the paths of the files that they came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from .errors import CatalogError
from .filters import Where

WILD = frozenset('*?"\\')  # characters that a pattern reads otherwise


class Searched(Protocol):
    """What is asked of a store."""

    def ids(self, where: Where) -> list[str]:
        """Return the ids of the items that pass a filter."""


def ids_named(store: Searched, names: Sequence[str]) -> list[str]:
    """Return the ids of the items that are named, in the order of the names.

    A name is an item's id, or else a path of its file, however it is written; that of a sound, video or document means
    all parts of it, that of a table or a text file all its lines. Raises CatalogError naming those that are neither.
    """
    known = set(store.ids({"id": list(names)}))
    found = {name: [name] if name in known else _of_file(store, os.path.abspath(name)) for name in names}
    if missing := [name for name, ids in found.items() if not ids]:
        shown = ", ".join(repr(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise CatalogError(f"not in the store: {shown}: {_way_out(store, missing[0])}")
    return list(dict.fromkeys(item for ids in found.values() for item in ids))


def _of_file(store: Searched, path: str) -> list[str]:
    return store.ids({"uri": path}) or ([] if WILD & set(path) else store.ids(f'uri ~ "{path}#*"'))


def _way_out(store: Searched, name: str) -> str:
    if os.path.isdir(name):
        return f"of a whole folder say --where 'uri ~ {os.path.abspath(name)}/*'"
    alike = [] if WILD & set(name) else store.ids(f'id ~ "*/{name}"')
    if alike:
        return f"do you mean {alike[0]}?"
    return "give an id that `onepeace search` prints, or the path of a file that was embedded"
