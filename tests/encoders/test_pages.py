"""Documents made by Pillow and pypdf: which pages come out, in which order, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pypdf
import pytest

from encoders.media import Limits, MediaError
from encoders.pages import Pages, page_pictures, tiff_pages

COLOURS = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]


def document(kind: str) -> bytes:
    pages = [PIL.Image.new("RGB", (60, 40), colour) for colour in COLOURS]
    file = io.BytesIO()
    pages[0].save(file, kind, save_all=True, append_images=pages[1:])
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PDF", "TIFF"])
def test_pages_come_out_in_order_from_a_path_from_bytes_and_from_a_file(kind: str, tmp_path: Path) -> None:
    content = document(kind)
    (tmp_path / "a").write_bytes(content)
    for source in (tmp_path / "a", content, io.BytesIO(content)):
        pictures = list(page_pictures(Pages(source)))
        assert [int(np.asarray(picture)[5, 5].argmax()) for picture in pictures] == [0, 1, 2]
        assert {picture.mode for picture in pictures} == {"RGB"}
        assert {round(picture.width / picture.height, 1) for picture in pictures} == {1.5}


@pytest.mark.parametrize("kind", ["PDF", "TIFF"])
def test_a_page_comes_out_alone(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(document(kind))
    every = list(page_pictures(Pages(tmp_path / "a")))
    (second,) = page_pictures(Pages(tmp_path / "a"), only=2)
    np.testing.assert_array_equal(second, every[1])
    for number in (0, 4):
        with pytest.raises(MediaError, match=f"it has 3 pages and no page {number}"):
            list(page_pictures(Pages(tmp_path / "a"), only=number))
    assert tiff_pages(tmp_path / "a") == (3 if kind == "TIFF" else 1)
    assert tiff_pages(tmp_path / "gone.tif") == 1


def locked(content: bytes) -> bytes:
    writer = pypdf.PdfWriter(io.BytesIO(content))
    writer.encrypt("secret", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    return file.getvalue()


def test_a_document_behind_a_password_says_so() -> None:
    with pytest.raises(MediaError, match="it is behind a password; save it without one"):
        list(page_pictures(Pages(locked(document("PDF")))))


@pytest.mark.parametrize(
    ("content", "limits", "reason"),
    [
        (b"", Limits(), "it is empty"),
        (b"a text", Limits(), "it is neither a PDF nor a TIFF"),
        (document("PDF")[:200], Limits(), "cut short"),
        (document("TIFF")[:2_000], Limits(), "cut short"),
        (document("TIFF"), Limits(max_pixels=60 * 40 - 1), "60 x 40 is more than the limit"),
        (document("PDF"), Limits(max_bytes=100), "larger than the limit"),
    ],
    ids=["empty", "text", "half a PDF", "half a TIFF", "pixels", "bytes"],
)
def test_what_cannot_be_read_is_named_with_the_reason(content: bytes, limits: Limits, reason: str) -> None:
    with pytest.raises(MediaError, match=reason):
        list(page_pictures(Pages(content), limits))
