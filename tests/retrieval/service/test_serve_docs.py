"""What docs/serve.md says of limits and metrics is so; tests/test_docs.py runs its blocks."""

from __future__ import annotations

import re
from pathlib import Path

from retrieval.service.config import ServiceConfig

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
        f"| requests at once | {service.requests_at_once} (`--max-requests`) |",
        f"| inputs at once, of all requests | {service.items_at_once:,} |",
        f"| time to the vectors of a request | {service.request_seconds:g} s |",
        f"| one batch in the model | {service.batch_seconds:g} s,",
        f"{service.remote_seconds:g} s; {service.remote_bytes // mib} MiB.",
        f"{service.cache_bytes // mib} MiB of the latest vectors are kept",
    ):
        assert row in " ".join(DOCS.split())


def test_every_metric_is_listed() -> None:
    from retrieval.service.metrics import Metrics

    told = {family.name for family in Metrics().registry.collect()}
    names = {name.removesuffix("_total") for name in re.findall(r"onepeace_[a-z_]+", DOCS)}
    assert told <= names
