"""What docs/serve.md shows works as it stands, against a service that was started as it says."""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import onepeace
from retrieval import ModelTag, Store
from retrieval.gallery import GALLERY
from retrieval.service.app import REFUSALS
from retrieval.service.config import ServiceConfig
from retrieval.service.encoding import PREPARED_BYTES
from retrieval.service.errors import ApiError
from retrieval.service.protocol import HEAD_BYTES, HEAD_SECONDS
from retrieval.service.remote import AT_ONCE
from retrieval.service.routes.classification import LONGEST_PROMPT
from retrieval.service.routes.items import METADATA_BYTES
from retrieval.service.schemas import LONGEST_ID
from retrieval.service.security import BODIES
from retrieval.service.threads import MOST_LEFT

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would stand: with a picture and a sound."""
    path = tmp_path_factory.mktemp("docs")
    shutil.copy(sorted((GALLERY / "pictures").iterdir())[0], path / "dog.jpg")
    shutil.copy(GALLERY / "sounds" / "rain-falling-steadily.ogg", path / "rain.ogg")
    return path


@pytest.fixture(scope="module")
def url(folder: Path, embedder: onepeace.Embedder) -> Iterator[str]:
    Store.create(folder / "my-store", [], embedder.encode(["none"])[:0], model=ModelTag.of(embedder)).close()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "retrieval", "serve", "--index", "photos=my-store", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                if httpx.get(f"{address}/health/ready").is_success:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None
            time.sleep(0.1)
        try:
            yield address
        finally:
            process.terminate()


def test_the_python_examples(url: str, folder: Path) -> None:
    script = "\n".join(blocks("python")).replace("http://127.0.0.1:8000", url)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_examples(url: str, folder: Path) -> None:
    commands = "".join(block for block in blocks("sh") if "curl" in block)
    script = "set -e\n" + re.sub(r"^curl ", "curl -sS --fail-with-body ", commands, flags=re.MULTILINE)
    done = subprocess.run(
        ["bash", "-c", script.replace("localhost:8000", url)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"deleted":1') == 1


def test_probabilities_are_as_the_model_folder_is_calibrated(
    url: str, folder: Path, embedder: onepeace.Embedder
) -> None:
    labels, templates = ["a dog", "rain", "a violin"], ["{}", "this is {}"]
    body = {
        "input": [
            {"image": base64.b64encode((folder / "dog.jpg").read_bytes()).decode()},
            {"audio": base64.b64encode((folder / "rain.ogg").read_bytes()).decode()},
        ],
        "labels": labels,
        "templates": templates,
    }
    assert set(embedder.folder.calibrations()) == {"image", "audio"}
    classifier = onepeace.ZeroShotClassifier(embedder, labels, templates)
    told = classifier.predict([onepeace.Image(folder / "dog.jpg"), onepeace.Audio(folder / "rain.ogg")])
    data = httpx.post(f"{url}/v1/classify", json=body, timeout=60).json()["data"]
    for entry, expected in zip(data, told, strict=True):
        found = {one["label"]: one["probability"] for one in entry["labels"]}
        assert found == pytest.approx(expected.probabilities, abs=0.03)  # the service computes in bfloat16


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
        f"| time to an answer, once the request is whole | {service.request_seconds:g} s,",
        f"| media of a request to add, fetched | {service.body_bytes // mib} MiB together |",
        f"| media to be added, fetched, of all requests | {BODIES * service.body_bytes // mib} MiB |",
        f"| bodies at once | {BODIES * service.body_bytes // mib} MiB |",
        f"| head of a request | {HEAD_BYTES // 1024} KiB; whole within {HEAD_SECONDS:g} s |",
        f"{AT_ONCE * service.remote_bytes // mib} MiB are held at once, and about as much",
        f"{MOST_LEFT} of a kind hang",
        f"{AT_ONCE} are fetched at once",
        f"| a label in its template | {LONGEST_PROMPT:,} characters |",
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
