"""Images, text and audio in one embedding space. Names load on first use, so that importing stays quick."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
