"""Libraries that take seconds to import: every process that runs tests reads all files, and needs few of them."""

from __future__ import annotations

import importlib
from typing import Any


class Later:
    """A module that is imported when one of its names is used first."""

    def __init__(self, module: str) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # pytest looks for marks of its own
            raise AttributeError(name)
        return getattr(importlib.import_module(self.module), name)
