"""Models by name, shared by all that ask for the same one: pipelines copy their members freely."""

from __future__ import annotations

from functools import lru_cache

from onepeace.embedder import Embedder
from onepeace.loading import load_embedder


@lru_cache(maxsize=2)  # one is in use; another while one goes over to it
def loaded(model: str, device: str = "auto", dtype: str = "auto") -> Embedder:
    """Return `onepeace.load` of these arguments, from memory where it was asked for before."""
    return load_embedder(model, device=device, dtype=dtype)
