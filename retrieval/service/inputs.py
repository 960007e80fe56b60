"""What a client may send as one item, whatever its dialect: words, pictures and sounds, or several of them together."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .errors import ApiError

KINDS = ("text", "image", "audio")
LONGEST_HEAD = 256  # characters of a data: address before its content
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Remote:
    """Media that lie at an address."""

    url: str


@dataclass(frozen=True)
class ItemPart:
    """Words, a picture or a sound, and its weight in the item."""

    kind: str  # of KINDS; or "item": one of the store, for queries
    content: str | bytes | Remote  # words and ids are a str
    weight: float = 1.0
    where: str | None = None  # its place in the request


Item = tuple[ItemPart, ...]  # of one vector


def bad(message: str, param: str) -> ApiError:
    """Return the error of an input that is not as it should be."""
    return ApiError(400, message, param=param, code="invalid_input")


def media(kind: str, text: Any, where: str, weight: float = 1.0) -> ItemPart:
    """Return a picture or sound given as base64, a data: address, or another address."""
    if not isinstance(text, str):
        raise bad(f"{where} must be a string: base64, a data: address, or an https:// address", where)
    if text[:5].lower() == "data:":
        head, comma, content = text.partition(",")
        if not comma or len(head) > LONGEST_HEAD or not head.lower().endswith(";base64"):
            raise bad(f"{where} must be base64: data:image/png;base64,...", where)
        return ItemPart(kind, _decoded(content, where), weight, where)
    # Base64 has no colon, so whatever begins like an address is one.
    if _REMOTE.match(text):
        return ItemPart(kind, Remote(text), weight, where)
    return ItemPart(kind, _decoded(text, where), weight, where)


def _decoded(text: str, where: str) -> bytes:
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad(f"{where} is neither an address nor base64", where) from None
    if not content:
        raise bad(f"{where} is empty", where)
    return content


def words(text: Any, where: str, weight: float = 1.0) -> ItemPart:
    """Return a text."""
    if not isinstance(text, str):
        raise bad(f"{where} must be a string", where)
    if not text.strip():
        raise bad(f"{where} is empty", where)
    return ItemPart("text", text, weight, where)


def item(value: Any, where: str, modality: str = "text") -> Item:
    """Return the item that one entry of `input` stands for.

    That is a string of the request's modality (OpenAI, infinity), an object with `text`, `image` or `audio` (Jina),
    with several of them and `weights` for one vector of all, or with `content`, a list of parts (Cohere, vLLM).
    """
    if isinstance(value, str):
        return (words(value, where) if modality == "text" else media(modality, value, where),)
    if not isinstance(value, Mapping):
        raise bad(f"{where} must be a string, or an object with text, image or audio", where)
    if "content" in value:
        return content_parts(value["content"], f"{where}.content")
    given = [kind for kind in KINDS if value.get(kind) is not None]
    if not given:
        raise bad(f"{where} needs one of {', '.join(KINDS)}", where)
    weights = value.get("weights") or {}
    if not isinstance(weights, Mapping):
        raise bad(f"{where}.weights must be an object: a number for each of {', '.join(given)}", where)
    parts = []
    for kind in given:
        weight = _number(weights.get(kind, 1.0), f"{where}.weights.{kind}")
        read = words if kind == "text" else lambda text, at, by, kind=kind: media(kind, text, at, by)
        parts.append(read(value[kind], f"{where}.{kind}", weight))
    return tuple(parts)


def content_parts(content: Any, where: str) -> Item:
    """Return the item of a message's content: a string, or parts of type text, image_url, audio_url, input_audio."""
    if isinstance(content, str):
        return (words(content, where),)
    if not isinstance(content, Sequence) or not content:
        raise bad(f"{where} must be a string or a list of parts", where)
    return tuple(_part(part, f"{where}[{number}]") for number, part in enumerate(content))


def _part(part: Any, where: str) -> ItemPart:
    if isinstance(part, str):
        return words(part, where)
    if not isinstance(part, Mapping):
        raise bad(f"{where} must be an object with a type", where)
    weight = _number(part.get("weight", 1.0), f"{where}.weight")
    kind = part.get("type")
    if kind == "text":
        return words(part.get("text"), f"{where}.text", weight)
    if kind in ("image_url", "audio_url"):
        address = part.get(kind)
        if isinstance(address, Mapping):
            address = address.get("url")
        return media(kind.removesuffix("_url"), address, f"{where}.{kind}", weight)
    if kind in ("image", "audio"):  # Cohere's and our own
        return media(kind, part.get(kind), f"{where}.{kind}", weight)
    if kind == "item":
        return replace(words(part.get("id"), f"{where}.id", weight), kind="item")
    if kind == "input_audio":
        sound = part.get("input_audio")
        if not isinstance(sound, Mapping):
            raise bad(f"{where}.input_audio must be an object with data", where)
        return media("audio", sound.get("data"), f"{where}.input_audio.data", weight)
    raise bad(f"{where}.type must be text, image_url, audio_url or input_audio, got {str(kind)[:40]!r}", where)


def messages(value: Any) -> list[Item]:
    """Return the items of `messages`: one conversation is one item, a list of conversations several (vLLM)."""
    if not isinstance(value, list) or not value:
        raise bad("messages must be a list of messages", "messages")
    if all(isinstance(entry, list) for entry in value):
        return [_conversation(entry, f"messages[{number}]") for number, entry in enumerate(value)]
    return [_conversation(value, "messages")]


def _conversation(value: list[Any], where: str) -> Item:
    parts: list[ItemPart] = []
    for number, message in enumerate(value):
        at = f"{where}[{number}]"
        if not isinstance(message, Mapping) or "content" not in message:
            raise bad(f"{at} must be an object with content", at)
        parts += content_parts(message["content"], f"{at}.content")
    if not parts:
        raise bad(f"{where} is empty", where)
    return tuple(parts)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e6:
        raise bad(f"{where} must be a number", where)
    return float(value)
