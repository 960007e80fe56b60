"""One folder a modality: raw input -> tokens. Names load on first use: opening media needs no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
