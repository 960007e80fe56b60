"""The interface as OpenAPI tells it, and whether the service keeps to it (schemathesis)."""

from __future__ import annotations

import subprocess
import sys

import httpx
from running_service import Running

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def test_whatever_fits_the_interface_or_not_gets_an_answer_that_fits_it(running: Running) -> None:
    command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"]
    options = ["--checks", CHECKS, "--max-examples", "20", "--seed", "1", "--generation-deterministic", "--no-color"]
    done = subprocess.run([*command, f"{running.url}/openapi.json", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:]


def test_every_operation_is_told_with_its_errors(http: httpx.Client) -> None:
    told = http.get("/openapi.json").json()
    operations = [(path, method) for path, methods in told["paths"].items() for method in methods]
    assert {
        ("/v1/embeddings", "post"),
        ("/v2/embed", "post"),
        ("/v1/search", "post"),
        ("/v1/ask", "post"),
        ("/v1/ask/album", "post"),
        ("/v1/items", "post"),
        ("/v1/items/upload", "post"),
        ("/v1/items/{index}/{id}", "get"),
        ("/v1/items/{index}/{id}", "delete"),
        ("/v1/classify", "post"),
        ("/v1/predict", "post"),
        ("/v1/predict/upload", "post"),
        ("/v1/models", "get"),
        ("/v1/indexes", "get"),
        ("/health/live", "get"),
        ("/health/ready", "get"),
        ("/metrics", "get"),
    } <= set(operations)
    for path, method in operations:
        operation = told["paths"][path][method]
        assert operation["description"], (path, method)
        refusal = operation["responses"]["400"]["content"]["application/json"]["schema"]
        assert refusal == {"$ref": "#/components/schemas/ErrorResponse"}
    for name in ("Embedding", "Search", "Ask", "Album", "Classify", "Add", "Predict"):
        assert told["components"]["schemas"][f"{name}Request"]["examples"], name
