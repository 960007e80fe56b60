"""What docs/serve.md says of limits and metrics is so; tests/test_docs.py runs its blocks."""

from __future__ import annotations

import re
from pathlib import Path

from retrieval.asking import CANDIDATES
from retrieval.service.app import REFUSALS
from retrieval.service.config import ServiceConfig
from retrieval.service.encoding import PREPARED_BYTES
from retrieval.service.errors import ApiError
from retrieval.service.protocol import HEAD_BYTES, HEAD_SECONDS
from retrieval.service.remote import AT_ONCE
from retrieval.service.routes.classification import LONGEST_PROMPT
from retrieval.service.routes.items import METADATA_BYTES
from retrieval.service.routes.prediction import MOST_CHOICES
from retrieval.service.schemas import LONGEST_ID, LONGEST_QUESTION, MOST_FILES
from retrieval.service.security import BODIES
from retrieval.service.threads import MOST_LEFT

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")


def test_the_limits() -> None:
    service = ServiceConfig()
    mib = 2**20
    for row in (
        f"| body of a request | {service.body_bytes // mib} MiB; whole within {service.body_seconds:g} s |",
        f"| inputs of a request, parts counted | {service.items} (`--max-items`) |",
        f"| a picture | {service.media.max_bytes // mib} MiB, {service.media.max_pixels // 10**6} million pixels |",
        f"| a sound | {service.media.max_bytes // mib} MiB, {service.media.max_seconds:g} s |",
        f"| a text | {service.media.max_characters:,} characters |",
        f"| a question to sequences | {LONGEST_QUESTION:,} characters |",
        f"| files that one question is put to | {CANDIDATES}, or `top_k`, which is {MOST_FILES} at most |",
        f"| requests at once | {service.requests_at_once} (`--max-requests`) |",
        f"| inputs at once, of all requests | {service.items_at_once:,} |",
        f"| time to an answer, once the request is whole | {service.request_seconds:g} s,",
        f"| media of a request to add, fetched | {service.body_bytes // mib} MiB together |",
        f"| media to be added, fetched, of all requests | {BODIES * service.body_bytes // mib} MiB |",
        f"| bodies at once | {BODIES * service.body_bytes // mib} MiB |",
        f"| head of a request | {HEAD_BYTES // 1024} KiB; whole within {HEAD_SECONDS:g} s |",
        f"{AT_ONCE * service.remote_bytes // mib} MiB are held at once, and about as much",
        f"{MOST_LEFT} of a kind hang",
        f"{AT_ONCE} are fetched at once",
        f"| a label in its template | {LONGEST_PROMPT:,} characters |",
        f"| choices of an input of a head; each counts as an input | {MOST_CHOICES} |",
        f"| metadata of an item | {METADATA_BYTES:,} bytes as JSON |",
        f"| an item's id | {LONGEST_ID:,} characters |",
        f"| one batch in the model | {service.batch_seconds:g} s,",
        f"{service.remote_seconds:g} s; {service.remote_bytes // mib} MiB.",
        f"{service.cache_bytes // mib} MiB of the latest vectors are kept",
    ):
        assert row in " ".join(DOCS.split())
    assert AT_ONCE * service.remote_bytes == PREPARED_BYTES


def test_every_status_is_listed() -> None:
    listed = {int(status) for status in re.findall(r"^\| (\d{3}) \|", DOCS, re.MULTILINE)}
    assert listed == set(REFUSALS)
    for status, kind in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", DOCS, re.MULTILINE):
        assert ApiError(int(status), "").body()["error"]["type"] == kind


def test_every_code_is_listed() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "retrieval" / "service").rglob("*.py"))
    codes = set(re.findall(r'code="(\w+)"', sources))
    assert codes <= set(re.findall(r"`(\w+)`", DOCS))


def test_every_metric_is_listed() -> None:
    from retrieval.service.metrics import Metrics

    told = {family.name for family in Metrics().registry.collect()}
    names = {name.removesuffix("_total") for name in re.findall(r"onepeace_[a-z_]+", DOCS)}
    assert told <= names
