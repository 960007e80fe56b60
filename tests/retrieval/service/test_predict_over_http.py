"""Heads over HTTP: the same answers as in process, in crowds, and what is refused."""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from little_media import picture, sound
from running_service import Running, start, stop
from task_models import TASKS, write_task_models
from test_openapi import CHECKS
from typer.testing import CliRunner

import onepeace
from onepeace.checkpoint import CheckpointError
from retrieval.cli import app
from retrieval.client import AsyncClient, Client, ServiceError
from retrieval.service.config import ServiceConfig
from retrieval.service.security import ApiKeys
from retrieval.service.service import Service
from retrieval.service.worker import ModelSource

HEADS = ("classify", "pair", "both", "choose", "ground", "detect", "locate")
WORDS = ["a dog", "the cat in the rain at night", "bird", "a photo of the street"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_models(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Running]:
    source = ModelSource("onepeace-tiny", "cpu", "float32", {name: str(folder / name) for name in HEADS})
    started, thread = start(Service(source, {}, ServiceConfig()))
    yield started
    stop(started, thread)


@pytest.fixture
def http(served: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.url, timeout=60) as client:
        yield client


def inputs_of(head: str) -> list[dict[str, Any]]:
    parts: dict[str, list[Any]] = {
        "text": WORDS,
        "image": [onepeace.Image(picture(seed)) for seed in range(4)],
        "image2": [onepeace.Image(picture(7 + seed)) for seed in range(4)],
        "audio": [onepeace.Audio(sound(seed)) for seed in range(4)],
        "choices": [["dog", "cat"], ["a", "b", "c", "d"], ["rain", "a bird", "night", "street", "dog"], ["x", "y"]],
    }
    reads = [*TASKS[head]["modalities"], *["image2"] * (head == "pair"), *["choices"] * (head == "choose")]
    return [{part: parts[part][i] for part in reads} for i in range(4)]


def plain(answers: list[Any]) -> list[Any]:
    """Answers as numbers and words that may be compared."""

    def numbers(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: numbers(one) for name, one in value.items()}
        return [numbers(one) for one in value] if isinstance(value, list) else value

    return [numbers(answer.to_dict()) for answer in answers]


def near(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            near(a[name], b[name])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            near(one, other)
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=2e-3)  # pixels, of which three digits are told
    else:
        assert a == b


def test_answers_are_those_in_process_alone_and_in_crowds(served: Running, folder: Path) -> None:
    with Client(served.url) as client, ThreadPoolExecutor(6) as pool:
        crowds = {head: pool.submit(client.predict, inputs_of(head), model=head, threshold=0.2) for head in HEADS}
        alone = {
            head: [pool.submit(client.predict, [one], model=head, threshold=0.2) for one in inputs_of(head)]
            for head in HEADS
        }
        for head in HEADS:
            expected = onepeace.load_task(folder / head).predict(inputs_of(head), threshold=0.2)
            crowd = crowds[head].result()
            assert [type(one) for one in crowd] == [type(one) for one in expected]
            near(plain(crowd), plain(expected))
            near(plain([one.result()[0] for one in alone[head]]), plain(expected))


def test_the_clients_answers_can_be_drawn(served: Running) -> None:
    (asked, *_) = inputs_of("ground")
    with Client(served.url) as client:
        (found,) = client.predict([asked], model="ground")
        (bare,) = client.predict([onepeace.Image(picture(1))], model="classify", top=2)
    assert (found.text, found.draw().mode) == ("a dog", "RGB")
    assert len(bare.probabilities) == 2

    async def asynchronously() -> list[Any]:
        async with AsyncClient(served.url) as client:
            return await client.predict([asked], model="ground")

    near(plain(asyncio.run(asynchronously())), plain([found]))


def test_many_inputs_go_in_requests_that_fit(served: Running) -> None:
    asked = inputs_of("choose") * 20  # 80 inputs count as 4 * 80 and more, a request takes 256
    with Client(served.url) as client:
        answers = client.predict(asked, model="choose")
    assert len(answers) == 80
    near(plain(answers[76:]), plain(answers[:4]))


def test_the_json_is_what_the_interface_tells(http: httpx.Client) -> None:
    image = base64.b64encode(picture(0)).decode()
    asked = {"image": f"data:image/png;base64,{image}", "text": "a dog"}
    told = http.post("/v1/predict", json={"model": "ground", "input": asked}).json()
    assert {name: told[name] for name in ("object", "model", "task")} == {
        "object": "list",
        "model": "ground",
        "task": "ground",
    }
    (entry,) = told["data"]
    assert entry["index"] == 0
    assert entry["answer"]["size"] == [60, 60]
    assert len(entry["answer"]["box"]) == 4
    bare = http.post("/v1/predict", json={"model": "classify", "input": [image, image]}).json()["data"]
    assert bare[0]["answer"] == bare[1]["answer"]
    assert bare[0]["answer"]["label"] in ("red", "green", "blue")


def test_files_of_a_form(http: httpx.Client) -> None:
    files = [("files", ("a.png", picture(0))), ("files", ("b.png", picture(1)))]
    form = http.post("/v1/predict/upload", files=files, data={"model": "detect", "text": "a dog", "threshold": "0"})
    inputs = [{"image": base64.b64encode(picture(seed)).decode(), "text": "a dog"} for seed in range(2)]
    body = http.post("/v1/predict", json={"model": "detect", "input": inputs, "threshold": 0}).json()
    near(form.json()["data"], body["data"])
    heard = http.post(
        "/v1/predict/upload",
        files=[("files", ("a.flac", sound(1)))],
        data={"model": "choose", "text": "what", "choices": '["a dog", "rain"]'},
    ).json()
    assert heard["data"][0]["answer"]["choice"] in ("a dog", "rain")
    for data, files, reason in [
        ({"model": "detect"}, [("files", ("a.png", picture(0)))], "files[0] has no text"),
        ({"model": "detect", "text": "a"}, [("files", ("a.txt", b"words"))], "files[0] must be a picture or sound"),
        ({"model": "detect", "text": "a"}, [("files", ("a.flac", sound(1)))], "files[0] has audio, and detect reads"),
        ({"model": "choose", "choices": "a,b"}, [("files", ("a.flac", sound(1)))], "choices must be a JSON list"),
    ]:
        answer = http.post("/v1/predict/upload", files=files, data=data)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"].startswith(reason)


IMAGE = base64.b64encode(picture(0)).decode()


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"input": [{"image": IMAGE, "text": "a"}]}, 400, "say which head: model must be one of classify, pair"),
        ({"model": "finder", "input": []}, 404, "no head 'finder' here: there is classify, pair"),
        ({"model": "onepeace-tiny", "input": []}, 404, "no head 'onepeace-tiny' here"),
        ({"model": "ground", "input": []}, 400, "input is empty"),
        ({"model": "ground"}, 422, "input"),
        ({"model": "ground", "input": "a dog"}, 400, 'input[0] must be an object: {"text": ..., "image": ...}'),
        (
            {"model": "ground", "input": [{"image": IMAGE}]},
            400,
            "input[0] has no text, and ground reads",
        ),
        (
            {"model": "ground", "input": [{"image": IMAGE, "text": "a", "x": 1}]},
            400,
            "input[0] has x, and ground",
        ),
        ({"model": "ground", "input": [{"image": IMAGE, "text": " "}]}, 400, "input[0].text is empty"),
        ({"model": "ground", "input": [{"image": "AAAA", "text": "a"}]}, 400, "cannot read image"),
        (
            {"model": "ground", "input": [{"image": "https://a.org/b", "text": "a"}]},
            400,
            "cannot fetch remote media: remote media are off",
        ),
        ({"model": "ground", "input": [{"image": IMAGE, "text": "a"}] * 200}, 400, "a request may have 256 inputs"),
        ({"model": "ground", "input": [{"image": IMAGE, "text": "a"}], "threshold": 2}, 422, "threshold"),
        ({"model": "choose", "input": [{"audio": IMAGE, "choices": "ab"}]}, 400, "input[0].choices must be a list"),
        (
            {"model": "choose", "input": [{"audio": IMAGE, "choices": ["a", "a"]}]},
            400,
            "input[0].choices: choices m",
        ),
        (
            {"model": "choose", "input": [{"audio": IMAGE, "choices": [*map(str, range(101))]}]},
            400,
            "input[0].choices m",
        ),
        ({"model": "choose", "input": [{"audio": IMAGE, "choices": ["a", "b"]}]}, 400, "cannot read audio"),
    ],
)
def test_what_is_refused(http: httpx.Client, body: dict[str, Any], status: int, reason: str) -> None:
    answer = http.post("/v1/predict", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"].startswith(reason)


def test_one_bad_input_may_cost_the_others_nothing(http: httpx.Client) -> None:
    good = {"image": IMAGE, "text": "a dog"}
    body = {"model": "ground", "input": [good, {"image": "AAAA", "text": "a"}, {"image": IMAGE}, good]}
    told = http.post("/v1/predict", json=body | {"errors": "per_item"}).json()["data"]
    near(told[0]["answer"], told[3]["answer"])
    assert [(one["answer"], one["error"]["code"]) for one in told[1:3]] == [
        (None, "unreadable_input"),
        (None, "invalid_input"),
    ]
    with Client(str(http.base_url)) as client, pytest.raises(ServiceError, match="input\\[0\\] has no text"):
        client.predict([{"image": picture(0)}], model="ground")


def test_heads_are_listed_and_counted(http: httpx.Client) -> None:
    http.post("/v1/predict", json={"model": "classify", "input": [IMAGE]}).raise_for_status()
    models = {model["id"]: model for model in http.get("/v1/models").json()["data"]}
    assert list(models) == ["onepeace-tiny", *HEADS]
    assert models["pair"]["task"] == "classify"
    assert models["pair"]["reads"] == ["text", "image", "image2"]
    assert models["pair"]["labels"] == ["true", "false"]
    assert "task" not in models["onepeace-tiny"]
    assert models["onepeace-tiny"]["dimensions"] == 512
    with openai.OpenAI(base_url=f"{http.base_url}/v1", api_key="none") as client:
        assert [model.id for model in client.models.list()] == list(models)
    told = http.post("/v1/embeddings", json={"input": "a", "model": "pair"})
    assert told.status_code == 404
    assert "'pair' is a head and embeds nothing" in told.json()["error"]["message"]
    metrics = http.get("/metrics").text
    assert 'onepeace_items_total{modality="head:classify",outcome="answered"}' in metrics
    assert 'onepeace_batch_windows_count{modality="head:classify"}' in metrics


def test_whatever_fits_the_interface_or_not_gets_an_answer_that_fits_it(served: Running) -> None:
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = ["--checks", CHECKS, "--max-examples", "30", "--seed", "1", "--generation-deterministic", "--no-color"]
    some = ["--include-path-regex", "/v1/predict|/v1/models"]
    done = subprocess.run([*command, f"{served.url}/openapi.json", *options, *some], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_vectors_are_the_same_beside_heads(http: httpx.Client) -> None:
    row = http.post("/v1/embeddings", json={"input": ["a dog"]}).json()["data"][0]["embedding"]
    expected = onepeace.load_embedder("onepeace-tiny", dtype="float32").encode("a dog")
    np.testing.assert_allclose(row, expected, atol=1e-5)


def test_keys_guard_heads_too(folder: Path) -> None:
    source = ModelSource("onepeace-tiny", "cpu", "float32", {"classify": str(folder / "classify")})
    started, thread = start(Service(source, {}, ServiceConfig()), ApiKeys(["a" * 20]))
    try:
        body = {"input": [IMAGE]}  # there is one head, so nobody needs to say which
        assert httpx.post(f"{started.url}/v1/predict", json=body).status_code == 401
        with Client(started.url, api_key="a" * 20) as client:
            assert client.predict([onepeace.Image(picture(0))])[0].label in ("red", "green", "blue")
    finally:
        stop(started, thread)


def test_without_heads_the_route_says_so(folder: Path) -> None:
    service = Service(ModelSource("onepeace-tiny"), {}, ServiceConfig())
    with pytest.raises(Exception, match="start the service with --head NAME=FOLDER"):
        service.head(None)
    with pytest.raises(ValueError, match="cannot be called as the model is"):
        Service(ModelSource("onepeace-tiny", heads={"onepeace-tiny": str(folder / "pair")}), {}, ServiceConfig())
    with pytest.raises(CheckpointError, match="start holds a model that embeds, and no task's head"):
        Service(ModelSource("onepeace-tiny", heads={"start": str(folder / "start")}), {}, ServiceConfig())


@pytest.mark.parametrize(
    "command",
    [
        "serve --port 0 --model {head}",
        "demo --model {head} --out out",
        "index build {pictures} --store store --model {head}",
        "index build {pictures} --store store --engine ray --workers 1 --model {head}",
        "embed {pictures} --out vectors.jsonl --model {head}",
        "classify {pictures} --labels a,b --model {head}",
        "eval {pictures} --model {head}",
        "bench --model {head}",
    ],
)
def test_a_head_where_an_embedding_model_is_wanted_is_one_clear_line(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        (tmp_path / "pictures" / name / f"{name}.png").write_bytes(picture(len(name)))
    given = command.format(head=folder / "ground", pictures=tmp_path / "pictures")
    told = CliRunner().invoke(app, given.split())
    assert told.exit_code == 1
    (line,) = told.stderr.strip().splitlines()
    assert f"{folder / 'ground'} holds the head of a task (ground) and embeds nothing" in line
