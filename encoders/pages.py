"""Pages of a PDF (pdfium) or a TIFF with several pictures, one at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import PIL.Image
from PIL.TiffImagePlugin import TiffImageFile

from .media import DEFAULT_LIMITS, Limits, _check_pixels, _name, _opened, _Refusal, _telling, _upright_rgb

if TYPE_CHECKING:
    from .media import FileSource

SIDE = 1024  # pixels of a PDF page's longer side
MOST_PAGES = 10_000
_PDF, _TIFF = b"%PDF-", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PDFIUM = threading.Lock()  # it works for one thread at a time
_PASSWORD = 4  # pdfium's FPDF_ERR_PASSWORD


@dataclass(frozen=True, eq=False, repr=False)
class Pages:
    """A document: a path, encoded bytes or a binary file; a PDF, or a TIFF with one or several pictures.

    Nothing is opened before it is embedded, and what cannot be read raises MediaError then.

    >>> Pages("slides.pdf")
    Pages('slides.pdf')
    """

    source: FileSource

    def __repr__(self) -> str:
        """Name the source in a few words, never in full."""
        return f"Pages({_name(self.source)})"


def page_pictures(pages: Pages, limits: Limits = DEFAULT_LIMITS, only: int | None = None) -> Iterator[PIL.Image.Image]:
    """Yield the pages in order, RGB, each drawn when it is asked for; a PDF's on white, 1,024 pixels long.

    With `only` that page is drawn alone; 1 is the first.

    Raises:
        MediaError: missing, damaged, empty, behind a password, beyond the limits, or neither PDF nor TIFF.
    """
    name = _name(pages.source)
    with _telling("document", name), _opened(pages.source, limits) as file:
        start = file.read(1024)
        file.seek(0)
        if start.startswith(_TIFF):
            yield from _of_tiff(file, limits, only)
        elif _PDF in start:  # readers allow other bytes in front
            yield from _of_pdf(file, only)
        else:
            raise _Refusal("it is neither a PDF nor a TIFF", "convert it to one of them")


def tiff_pages(path: str | os.PathLike[str]) -> int:
    """Return how many pictures a TIFF lists; 1 for what is no TIFF, or cannot be read.

    >>> tiff_pages("dog.jpg")
    1
    """
    try:
        with open(path, "rb") as file, TiffImageFile(file) as image:
            return image.n_frames
    except Exception:  # whatever damaged data bring about; reading the file says what
        return 1


def _of_tiff(file: BinaryIO, limits: Limits, only: int | None) -> Iterator[PIL.Image.Image]:
    with TiffImageFile(file) as image:
        for number in _numbers(image.n_frames, only):
            image.seek(number)
            _check_pixels(image, limits)
            yield _upright_rgb(image.copy(), limits)


def _of_pdf(file: BinaryIO, only: int | None) -> Iterator[PIL.Image.Image]:
    try:
        import pypdfium2
    except ImportError as error:
        raise _Refusal("PDFs need one more package", "pip install 'onepeace[sequences]'") from error
    try:
        with _PDFIUM:
            document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD:
            raise _Refusal("it is behind a password", "save it without one") from error
        raise
    try:
        for number in _numbers(len(document), only):
            with _PDFIUM:
                page = document[number]
                picture = page.render(scale=SIDE / max(page.get_size())).to_pil().convert("RGB")
                page.close()
            yield picture
    finally:
        with _PDFIUM:
            document.close()


def _numbers(count: int, only: int | None) -> Sequence[int]:
    """Return which of `count` pages are drawn, from 0."""
    if count == 0:
        raise _Refusal("it has no pages", "replace it or leave it out")
    if count > MOST_PAGES:
        raise _Refusal(f"it has {count:,} pages, more than the limit of {MOST_PAGES:,}", "split it")
    if only is None:
        return range(count)
    if not 1 <= only <= count:
        raise _Refusal(f"it has {count:,} pages and no page {only:,}", "replace it or leave it out")
    return [only - 1]
