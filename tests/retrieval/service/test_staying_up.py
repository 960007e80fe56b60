"""A service that lost its model's process, has too much to do, or is told to end."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from running_service import TINY, start, stop
from typer.testing import CliRunner

import onepeace
from retrieval import Item, ModelTag, Store
from retrieval.cli import app
from retrieval.service import indexes
from retrieval.service.config import ServiceConfig
from retrieval.service.service import Service
from retrieval.service.worker import LANES, ModelSource, ModelWorker, Pending

SECRET = "words that no log may hold"


def test_a_killed_worker_is_replaced_and_every_request_gets_an_answer(embedder: onepeace.Embedder) -> None:
    running, thread = start(Service(TINY, {}, ServiceConfig(cache_bytes=0)))
    killed = threading.Event()
    statuses: Counter[int] = Counter()

    def ask(client: httpx.Client, n: int) -> None:
        begun_after = killed.is_set()
        answer = client.post("/v1/embeddings", json={"input": [f"sentence {n} {i}" for i in range(8)]})
        statuses[answer.status_code] += 1
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["code"] == "not_ready"
        else:
            assert answer.status_code == 200
            rows = [entry["embedding"] for entry in answer.json()["data"]]
            expected = embedder.encode([f"sentence {n} {i}" for i in range(8)]) if begun_after else None
            if expected is not None:
                np.testing.assert_allclose(rows, expected, atol=1e-5)

    try:
        first = running.service.worker.pid
        assert first is not None
        with httpx.Client(base_url=running.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, client, n) for n in range(60)]
            while sum(statuses.values()) < 10:
                time.sleep(0.01)
            os.kill(first, signal.SIGKILL)
            killed.set()
            for one in asked:
                one.result(60)
            while client.get("/health/ready").status_code != 200:
                time.sleep(0.05)
            ask(client, 1000)
        assert sum(statuses.values()) == 61
        assert statuses[503] >= 1
        assert running.service.worker.pid != first
        assert running.service.worker.starts == 2
    finally:
        stop(running, thread)


def test_readiness_tells_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    running, thread = start(Service(TINY, {}, ServiceConfig()))
    try:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            assert client.get("/health/ready").json() == {"status": "ready"}
            pid = running.service.worker.pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            seen = set()
            while "ready" not in seen or len(seen) < 2:
                answer = client.get("/health/ready")
                seen.add("ready" if answer.is_success else answer.json()["error"]["message"])
                assert client.get("/health/live").status_code == 200
            assert seen == {"ready", "the model is being started"}
    finally:
        stop(running, thread)


def test_a_worker_that_is_stuck_is_replaced() -> None:
    worker = ModelWorker(TINY, batch_seconds=1.0)
    worker.start()
    try:
        first = worker.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)

        async def ask() -> None:
            await worker.embed("text", [np.zeros(4, np.int64)])

        with pytest.raises(Exception, match="has ended"):
            asyncio.run(ask())
        while not worker.ready:
            time.sleep(0.05)
        assert worker.pid != first
    finally:
        worker.close()


def test_a_batch_that_never_ends_is_noticed_while_others_are_answered_beside_it() -> None:
    worker = ModelWorker(TINY, batch_seconds=60.0)
    begun = time.monotonic() - 61
    try:
        worker._pending = {n: Pending(Future(), begun, None) for n in range(LANES + 2)}  # the last two wait
        for done in range(1, LANES):
            worker._answer(done, np.zeros((1, 4), np.float32))
            assert worker._is_stuck(None)  # the first is as old as ever
        worker._answer(0, np.zeros((1, 4), np.float32))
        assert not worker._is_stuck(None)  # the two that waited began just now
    finally:
        worker.close()


def test_a_model_that_cannot_be_loaded_ends_the_start() -> None:
    worker = ModelWorker(ModelSource("no such model", "cpu", "float32"))
    with pytest.raises(ValueError, match="no model 'no such model'"):
        worker.start()
    result = CliRunner().invoke(app, ["serve", "--model", "no such model"])
    assert result.exit_code == 1
    assert "no model 'no such model'" in result.output


def test_too_many_requests_are_told_when_to_come_back() -> None:
    running, thread = start(Service(TINY, {}, ServiceConfig(requests_at_once=2, items_at_once=64, cache_bytes=0)))
    try:
        with httpx.Client(base_url=running.url, timeout=60) as client, ThreadPoolExecutor(16) as pool:
            long = "a long sentence " * 30

            def ask(n: int) -> httpx.Response:
                return client.post("/v1/embeddings", json={"input": [f"{n} {i} {long}" for i in range(30)]})

            answers = list(pool.map(ask, range(64)))
            statuses = Counter(answer.status_code for answer in answers)
            assert set(statuses) == {200, 429}
            for answer in answers:
                if answer.status_code == 429:
                    assert int(answer.headers["retry-after"]) >= 1
                    assert answer.json()["error"]["type"] == "rate_limit_error"
            assert client.post("/v1/embeddings", json={"input": "a dog"}).status_code == 200
    finally:
        stop(running, thread)


def test_equal_inputs_in_flight_are_computed_once_and_kept(embedder: onepeace.Embedder) -> None:
    service, thread = start(Service(TINY, {}, ServiceConfig()))
    try:
        with httpx.Client(base_url=service.url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
            body = {"input": ["the same sentence"] * 20}
            answers = list(pool.map(lambda _: client.post("/v1/embeddings", json=body).json(), range(8)))
            rows = np.array([entry["embedding"] for answer in answers for entry in answer["data"]])
            np.testing.assert_allclose(rows, np.tile(embedder.encode("the same sentence"), (160, 1)), atol=1e-5)
            assert metric(client, "onepeace_batch_windows_sum", modality="text") == 1
            assert metric(client, "onepeace_items_total", modality="text", outcome="embedded") == 160
    finally:
        stop(service, thread)


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(f"no metric {name} {labels}")


def served(*options: str) -> tuple[subprocess.Popen[str], str]:
    """Run `onepeace serve` on a free port and wait until it listens; return its address too."""
    process = subprocess.Popen(
        [sys.executable, "-m", "retrieval", "serve", "--port", "0", "--device", "cpu", "--dtype", "float32", *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "running on" in line:
            return process, json.loads(line)["message"].split()[3]
    raise AssertionError("it ended before it listened")


def test_sigterm_answers_what_was_asked_and_logs_hold_no_payload(tmp_path: Path) -> None:
    process, url = served()
    answers: list[httpx.Response] = []

    def ask() -> None:
        body = {"input": [f"{SECRET} {n} " + "and so on " * 40 for n in range(200)]}
        answers.append(httpx.post(f"{url}/v1/embeddings", json=body, headers={"X-Request-Id": "mine"}, timeout=60))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    asking.join(60)
    assert process.stderr is not None
    with process:
        log = process.stderr.read()
    assert process.returncode == -signal.SIGTERM  # what it was told, and not a fault
    assert [answer.status_code for answer in answers] == [200]
    assert answers[0].headers["x-request-id"] == "mine"
    assert len(answers[0].json()["data"]) == 200
    assert SECRET not in log
    lines = [json.loads(line) for line in log.splitlines()]
    (told,) = [line for line in lines if line["message"] == "request"]
    assert told["request"] == "mine"
    assert (told["method"], told["route"], told["status"]) == ("POST", "/v1/embeddings", 200)


def test_mistakes_of_the_command_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "short.txt").write_text("abc\n")
    taken = socket.create_server(("127.0.0.1", 0))
    for arguments, why in [
        (["--index", "nowhere"], "nowhere"),
        (["--index", "my photos"], "'my photos' cannot be part of an address: give another name"),
        (["--index", "a=x", "--index", "a=y"], "two stores are called 'a'"),
        (["--keys", str(tmp_path / "empty.txt")], "holds no API key"),
        (["--keys", str(tmp_path / "short.txt")], "at least 16 characters"),
        (["--port", str(taken.getsockname()[1])], "(Address already in use): something else listens there"),
        (["--host", "192.0.2.1"], "give an address of this machine as --host"),
    ]:
        result = CliRunner().invoke(app, ["serve", *arguments])
        assert result.exit_code == 1
        assert why in result.output
        assert len(result.output.strip().splitlines()) == (1 if "--host" not in arguments else 2)  # a warning before
    taken.close()


def test_a_process_that_cannot_be_started_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    running, thread = start(Service(TINY, {}, ServiceConfig()))
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            assert client.get("/health/ready").status_code == 200  # over a connection that stays
            pid = running.service.worker.pid
            assert pid is not None
            caplog.clear()
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))  # nothing more can be opened: no pipe, no process
            try:
                os.kill(pid, signal.SIGKILL)
                while caplog.text.count("cannot be started") < 3:
                    time.sleep(0.05)
                assert client.get("/health/ready").status_code == 503
                assert client.get("/health/live").status_code == 200
                refused = client.post("/v1/embeddings", json={"input": "a dog"})
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "not_ready")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, most)
            while client.get("/health/ready").status_code != 200:
                time.sleep(0.05)
            assert client.post("/v1/embeddings", json={"input": "a dog"}).status_code == 200
    finally:
        stop(running, thread)


def test_a_model_whose_first_process_cannot_be_started_ends_the_start() -> None:
    worker = ModelWorker(TINY)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
    try:
        with pytest.raises(ValueError, match="Too many open files"):
            worker.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, most)


def test_a_store_that_is_damaged_while_served_is_served_as_it_was(
    tmp_path: Path, embedder: onepeace.Embedder, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "notes"
    texts = ["a dog", "rain"]
    items = [Item(text, "text", text, {"text": text}) for text in texts]
    Store.create(folder, items, embedder.encode(texts), model=ModelTag.of(embedder)).close()
    caplog.set_level(logging.INFO, "onepeace.serve")
    running, thread = start(Service(TINY, {"notes": folder}, ServiceConfig()))
    manifest = next(path for path in folder.iterdir() if path.name.startswith("manifest"))
    whole = manifest.read_bytes()

    def found(client: httpx.Client) -> set[str]:
        answer = client.post("/v1/search", json={"query": "a dog"})
        return {hit["id"] for hit in answer.json()["hits"]}

    try:
        with httpx.Client(base_url=running.url, timeout=60) as client:
            for damage in (lambda: manifest.write_bytes(b"\0" * 50), manifest.unlink):
                caplog.clear()
                damage()
                while "cannot be refreshed" not in caplog.text:
                    time.sleep(0.05)
                time.sleep(2.5 * indexes.REFRESH_SECONDS)
                assert caplog.text.count("cannot be refreshed") == 1
                assert found(client) == set(texts)
                manifest.write_bytes(whole)
                while "is refreshed again" not in caplog.text:
                    time.sleep(0.05)
            with Store.open(folder) as other:
                other.add([Item("theirs", "text", "x", {"text": "x"})], embedder.encode(["a cat"]))
            while "theirs" not in found(client):
                time.sleep(0.05)
    finally:
        stop(running, thread)
