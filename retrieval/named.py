"""Items by what a user calls them: their ids, or the paths of the files that they came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from .errors import CatalogError
from .filters import Where


class Searched(Protocol):
    """What is asked of a store."""

    def ids(self, where: Where) -> list[str]:
        """Return the ids of the items that pass a filter."""


def ids_named(store: Searched, names: Sequence[str]) -> list[str]:
    """Return the ids of the items that are named, in the order of the names.

    A name is an item's id, or else a path of its file, however it is written; all windows of a sound are meant by the
    sound's path. Raises CatalogError naming those that are neither.
    """
    known = set(store.ids({"id": list(names)}))
    found = {name: [name] if name in known else store.ids({"uri": os.path.abspath(name)}) for name in names}
    if missing := [name for name, ids in found.items() if not ids]:
        shown = ", ".join(repr(name) for name in missing[:3]) + (", ..." if len(missing) > 3 else "")
        folder = ", or of a whole folder --where 'uri ~ */FOLDER/*'" if any(map(os.path.isdir, missing)) else ""
        raise CatalogError(
            f"not in the store: {shown}: give an id that `onepeace search` prints, or the path of a file{folder}"
        )
    return list(dict.fromkeys(item for ids in found.values() for item in ids))
