"""The files of configs/serve: they parse, lint, and speak of what is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from retrieval.cli import app
from retrieval.service.run import DRAIN_SECONDS

ROOT = Path(__file__).resolve().parents[3]
SERVE = ROOT / "configs" / "serve"
TOOLS = Path(sys.executable).parent  # of the environment that tests run in


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions, each with the rest of its line."""
    text = re.sub(r"^\s*#.*\n", "", (SERVE / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of each stage, those of the stages it begins with included."""
    found: dict[str, list[tuple[str, str]]] = {}
    for name, rest in instructions():
        if name == "FROM":
            base, _, own = rest.partition(" AS ")
            current = found[own] = list(found.get(base, []))
        elif found:
            current.append((name, rest))
    return found


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((SERVE / "compose.yaml").read_text(encoding="utf-8"))
    return content


def unit() -> dict[str, str]:
    lines = (SERVE / "onepeace.service").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def commands() -> list[list[str]]:
    """Return what each file passes to `onepeace`."""
    default = json.loads(next(rest for name, rest in instructions() if name == "CMD"))
    return [default, compose()["services"]["serve"]["command"], unit()["ExecStart"].split()[1:]]


def test_the_dockerfile_has_no_findings() -> None:
    if not (TOOLS / "hadolint").exists():
        pytest.skip("hadolint is not installed: pip install 'onepeace[dev]'")
    done = subprocess.run(
        [TOOLS / "hadolint", "--no-color", SERVE / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    ignored = (SERVE / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert "*" in ignored  # nothing but what is named
    for name, rest in instructions():
        if name != "COPY" or rest.startswith("--from=packages"):
            continue
        for source in rest.split()[:-1]:
            assert (ROOT / source).exists()
            assert f"!{source.split('/')[0]}" in ignored


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_without_root_and_can_be_stopped(target: str) -> None:
    last = dict(stages()[target])
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert last["STOPSIGNAL"] == "SIGTERM"
    assert "/health/ready" in last["HEALTHCHECK"]
    assert json.loads(last["ENTRYPOINT"]) == ["onepeace"]


def test_every_option_exists() -> None:
    import typer

    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {option for parameter in serve.params for option in parameter.opts}
    for command in commands():
        assert command[0] == "serve"
        assert {word for word in command if word.startswith("--")} <= known


def test_the_dockerfiles_extras_exist() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    install = next(rest for name, rest in instructions() if name == "RUN" and "constraints.txt" in rest)
    (extra,) = re.findall(r'"\.\[(\w+)\$\{EXTRAS\}\]"', install)
    assert extra in project["optional-dependencies"]


def test_compose_follows_its_schema() -> None:
    if not (TOOLS / "check-jsonschema").exists():
        pytest.skip("check-jsonschema is not installed: pip install 'onepeace[dev]'")
    command = [TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", SERVE / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_builds_targets_that_are_there_and_gives_up_rights() -> None:
    for service in compose()["services"].values():
        build = service["build"]
        context = (SERVE / build["context"]).resolve()
        assert context == ROOT
        assert (context / build["dockerfile"]).is_file()
        assert build["target"] in stages()
        told = {rest.split("=")[0] for name, rest in instructions() if name == "ARG"}
        assert set(build.get("args", {})) <= told
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert int(service["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS
        named = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith("${")}
        assert named == set(compose()["volumes"])
        assert set(service["secrets"]) == set(compose()["secrets"])


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("systemd-analyze is not installed")
    text = (SERVE / "onepeace.service").read_text(encoding="utf-8")
    program = unit()["ExecStart"].split()[0]
    (tmp_path / "onepeace.service").write_text(text.replace(f"ExecStart={program}", "ExecStart=/bin/true"))
    done = subprocess.run([verifier, "verify", tmp_path / "onepeace.service"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_waits_for_what_was_begun() -> None:
    assert int(unit()["TimeoutStopSec"]) > DRAIN_SECONDS
    assert unit()["KillMode"] == "mixed"  # SIGTERM would end the model's process at once


def test_prometheus_asks_for_what_the_service_has() -> None:
    (job,) = yaml.safe_load((SERVE / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert job["authorization"]["type"] == "Bearer"
    assert job["static_configs"][0]["targets"] == ["127.0.0.1:8000"]
