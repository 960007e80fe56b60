"""Pictures, sounds and texts as HTML for a notebook: small, whole in itself, and escaped."""

from __future__ import annotations

import base64
from html import escape
from io import BytesIO
from typing import Any

from encoders.media import Audio, Image, Limits, MediaError, Text, open_audio, open_image

SIDE = 96  # pixels, of a thumbnail's longer side
RATE, SECONDS = 16_000, 10.0  # of a player: it has so much of a sound
CHARACTERS = 200  # of a text or a reason
BYTES = 96 * 2**10  # of one picture or sound; a player of noise needs 60 KB
LIMITS = Limits(max_bytes=64 * 2**20, max_pixels=64_000_000)  # beyond these, showing costs more than it tells


def media_html(value: Any, start: float = 0.0) -> str:
    """Return an input of `encode` as HTML: a thumbnail, a player of 10 s from second `start` on, or words.

    What cannot be read is shown as the reason why. Nothing is larger than 96 KB as a file.

    >>> media_html("a <b>dog</b>")
    '<span>a &lt;b&gt;dog&lt;/b&gt;</span>'
    """
    parts = getattr(value, "parts", None)
    if parts is not None:  # a Compose
        return " + ".join(map(media_html, parts))
    try:
        if isinstance(value, Image) or hasattr(value, "getbands"):
            return _embedded("img", f'alt="{escape(_short(repr(value)), quote=True)}"', "image/webp", thumbnail(value))
        if isinstance(value, Audio | dict) or hasattr(value, "get_all_samples"):
            return _embedded("audio", 'controls preload="none" style="width:160px"', "audio/mpeg", clip(value, start))
    except MediaError as error:
        return reason_html(error)
    return f"<span>{escape(_short(value.text if isinstance(value, Text) else str(value)))}</span>"


def reason_html(error: MediaError) -> str:
    """Return why something cannot be shown as HTML."""
    return f'<span style="color:#a00">{escape(_short(str(error)))}</span>'


def thumbnail(source: Any, side: int = SIDE) -> bytes:
    """Return a picture as WebP of at most `side` pixels a side. Raises MediaError."""
    picture = open_image(source, LIMITS, side)
    picture.thumbnail((side, side))
    out = BytesIO()
    picture.save(out, "WEBP", quality=80)
    return out.getvalue()


def clip(source: Any, start: float = 0.0) -> bytes:
    """Return 10 s of a sound, from second `start` on, as MP3. Raises MediaError."""
    import soundfile

    samples = open_audio(source, RATE, LIMITS, start + SECONDS)[round(start * RATE) :].clip(-1, 1)
    out = BytesIO()
    soundfile.write(out, samples, RATE, format="MP3")
    return out.getvalue()


def _embedded(tag: str, attributes: str, kind: str, content: bytes) -> str:
    if len(content) > BYTES:
        return f"<span>{len(content):,} bytes, too large to show</span>"
    data = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<{tag} {attributes} src="{data}">' + ("" if tag == "img" else f"</{tag}>")


def _short(text: str) -> str:
    return text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
