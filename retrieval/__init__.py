"""Vectors -> index -> hits. Names load on first use, so that the command line starts quickly."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
