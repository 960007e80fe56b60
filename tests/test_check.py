"""`onepeace check`: what works is well, and what was broken on purpose is named, with what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from random_models import write_random_model
from task_models import TASKS, write_task_model
from typer.testing import CliRunner

import onepeace
from onepeace.check import Check, Finding, Outcome, hardware, media, run, speed, versions
from onepeace.check.figures import Figures
from onepeace.model.task_head import TaskConfig
from onepeace.reader import SHIPPED
from retrieval import check as store_checks
from retrieval.check import gallery_samples
from retrieval.cli import app

TINY = "onepeace-tiny"


def asked(*arguments: object) -> tuple[int, dict[str, Any]]:
    """Return the exit code of a quick check in this process, and its rows by name."""
    result = CliRunner().invoke(app, ["check", "--quick", "--json", *map(str, arguments)])
    content = json.loads(result.stdout)
    assert content["ok"] == (result.exit_code == 0)
    return result.exit_code, {f"{row['group']}/{row['check']}": row for row in content["checks"]}


def asked_elsewhere(folder: Path, **variables: str) -> tuple[int, dict[str, Any]]:
    """Return the same of a process of its own, which looks into `folder` first for packages."""
    done = subprocess.run(
        [sys.executable, "-m", "retrieval", "check", "--quick", "--json"],
        env={**os.environ, "PYTHONPATH": str(folder), **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, {f"{row['group']}/{row['check']}": row for row in json.loads(done.stdout)["checks"]}


def failed(rows: dict[str, Any]) -> set[str]:
    return {name for name, row in rows.items() if row["result"] == "failed"}


def metadata(folder: Path, name: str, version: str) -> None:
    """Write the metadata that a package leaves behind."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def copied(tmp_path: Path, name: str = TINY) -> Path:
    return Path(shutil.copytree(SHIPPED / TINY, tmp_path / name))


def test_all_is_well_here_and_extras_are_no_failure() -> None:
    code, rows = asked()
    assert code == 0, [row for row in rows.values() if row["result"] == "failed"]
    for name in ("float32", "bfloat16", "int8"):
        assert rows[f"model/vectors, {name}"]["result"] in ("ok", "skipped")
    assert rows["media/pictures"]["detail"] == "jpg png webp gif bmp tiff"
    assert rows["media/sounds"]["detail"] == "wav flac ogg opus mp3"
    assert rows["store/round trip"]["result"] == "ok"
    absent = [row for row in rows.values() if row["result"] == "not installed"]
    assert all(row["advice"].startswith("pip install 'onepeace[") for row in absent)
    assert "model/alone or not, float32" not in rows  # that is not quick


@pytest.mark.slow
def test_the_whole_check_as_a_user_starts_it() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("onepeace"), "check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "all is well" in done.stdout
    assert "alone or not, float32" in done.stdout
    assert "a second" in done.stdout  # the speed


def test_the_reference_figures_are_of_the_weights_that_ship() -> None:
    model = onepeace.load(TINY, dtype="float32")
    figures = Figures.read()
    assert figures.fingerprint == model.fingerprint, "run: python benchmarks/check_figures.py"
    again = Figures.of(model, gallery_samples())
    for modality, row_D in figures.vectors.items():
        np.testing.assert_allclose(again.vectors[modality], row_D, atol=1e-4)


def test_weights_cut_short_are_named(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    weights = folder / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    code, rows = asked("--model", folder)
    assert code == 1
    assert failed(rows) == {"model/loading"}
    assert "model.safetensors cannot be read" in rows["model/loading"]["detail"]
    assert rows["model/loading"]["advice"] == "copy or export the model folder again"
    assert rows["model/same twice"]["result"] == "skipped"


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    config = folder / "config.json"
    config.write_bytes(config.read_bytes().replace(b"{", b"[", 1))
    code, rows = asked("--model", folder)
    assert code == 1
    assert failed(rows) == {"model/files", "model/loading"}
    assert "config.json cannot be read" in rows["model/files"]["detail"]
    assert "copy the model folder" in rows["model/files"]["advice"]


def test_a_flipped_byte_of_the_shipped_weights_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = copied(tmp_path) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 0x40
    weights.write_bytes(content)
    monkeypatch.setattr("onepeace.reader.SHIPPED", tmp_path)
    code, rows = asked()
    assert code == 1
    assert "model/files" in failed(rows)
    assert rows["model/files"]["advice"] == "pip install --force-reinstall onepeace"
    assert "has changed" in rows["model/files"]["detail"]


def test_a_weight_that_is_no_number_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = copied(tmp_path) / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name, tensor in tensors.items() if tensor.dtype is torch.float32)
    tensors[name].view(-1)[0] = float("nan")
    save_file(tensors, weights)
    code, rows = asked("--model", weights.parent)
    assert code == 1
    assert "NaN or infinite" in rows["model/loading"]["detail"]


def test_another_model_is_checked_without_figures(model_folder: Path) -> None:
    code, rows = asked("--model", model_folder)
    assert code == 0, failed(rows)
    assert rows["model/vectors, float32"]["result"] == "skipped"
    assert "onepeace-tiny as it ships" in rows["model/vectors, float32"]["detail"]


@pytest.mark.parametrize("task", ["ground", "choose"])
def test_a_task_s_model_is_told_and_asked(task: str, tmp_path: Path) -> None:
    start = write_random_model(tmp_path / "start", "official")
    head = write_task_model(tmp_path / "head", start, TaskConfig.from_dict(TASKS[task]))
    code, rows = asked("--model", head)
    assert code == 0, failed(rows)
    assert f"the head of a task ({task})" in rows["model/files"]["detail"]
    assert "float32 on cpu" in rows["model/loading"]["detail"]
    assert rows["model/answers"]["detail"].startswith("4 inputs alone and together: numbers differ by")
    assert [name for name in rows if name.startswith("model/")] == ["model/files", "model/loading", "model/answers"]


@pytest.mark.parametrize(
    ("arguments", "row", "reason"),
    [
        (["--model", "nowhere"], "model/files", "no model 'nowhere'"),
        (["--device", "cuda:9"], "model/loading", "needs a CUDA GPU"),
        (["--device", "fast"], "model/loading", "device must be"),
    ],
)
def test_a_mistake_in_the_options_is_a_row_and_no_traceback(arguments: list[str], row: str, reason: str) -> None:
    if "cuda:9" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    code, rows = asked(*arguments)
    assert code == 1
    assert reason in rows[row]["detail"]
    assert rows[row]["advice"]


def test_what_is_wrong_with_packages_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    metadata(tmp_path, "torchaudio", "2.9.0")
    metadata(tmp_path, "faiss-gpu-cu12", "1.13.0")
    metadata(tmp_path, "safetensors", "0.2.0")
    # What `pip uninstall av` leaves: neither its metadata nor its modules.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as metadata, sys\n"
        "found = metadata.Distribution.from_name\n"
        "def without(name):\n"
        "    if name == 'av':\n"
        "        raise metadata.PackageNotFoundError(name)\n"
        "    return found(name)\n"
        "metadata.Distribution.from_name = without\n"
        "sys.modules['av'] = None\n"
    )
    code, rows = asked_elsewhere(tmp_path, OMP_NUM_THREADS="1")
    assert code == 1
    assert failed(rows) == {"versions/packages", "versions/torch family", "versions/faiss"}
    assert "safetensors 0.2.0 is not >=0.6" in rows["versions/packages"]["detail"]
    assert "'safetensors>=0.6'" in rows["versions/packages"]["advice"]
    assert "not of one release" in rows["versions/torch family"]["detail"]
    assert "torchaudio==2.11.*" in rows["versions/torch family"]["advice"]
    assert "lie on top of each other" in rows["versions/faiss"]["detail"]
    assert rows["versions/faiss"]["advice"].startswith("pip uninstall faiss-cpu faiss-gpu-cu12")
    assert rows["extras/m4a"]["result"] == "not installed"
    assert rows["extras/m4a"]["advice"] == "pip install 'onepeace[m4a]'"
    assert rows["media/m4a"]["result"] == "not installed"
    if hardware.usable_cores() >= 2:  # one thread is slow, not wrong
        assert rows["machine/threads"]["result"] == "slow"
        assert "unset OMP_NUM_THREADS" in rows["machine/threads"]["advice"]


def test_a_second_onepeace_is_named_with_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata(tmp_path, "onepeace", "0.0.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = versions.copies()
    assert finding.outcome is Outcome.FAILED
    assert f"2 copies: 0.0.1 in {tmp_path}" in finding.detail
    assert "pip uninstall onepeace" in finding.advice


def test_python_m_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "onepeace", "--version"], capture_output=True, text=True, check=True, cwd=SHIPPED
    )
    assert done.stdout == f"onepeace {onepeace.__version__}\n"


def test_a_check_that_stops_with_an_error_is_a_failure_and_the_others_go_on() -> None:
    def broken() -> Finding:
        raise OSError("libsomething.so: cannot open shared object file")

    rows = run([Check("a", "one", broken, "install it again"), Check("a", "two", lambda: Finding(Outcome.OK, ""), "")])
    assert rows[0].finding == Finding(
        Outcome.FAILED, "libsomething.so: cannot open shared object file", "install it again"
    )
    assert rows[1].finding.outcome is Outcome.OK


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.SLOW])
def test_no_failure_is_without_advice(outcome: Outcome) -> None:
    with pytest.raises(ValueError, match="must say what to do"):
        Finding(outcome, "it is broken")


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_limit_of_a_container_is_read(files: dict[str, str], cores: float | None, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert hardware.cgroup_cores(tmp_path) == cores


def test_a_format_that_a_library_lost_fails_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(media.SOUNDS, "mp3", ("MP3", "NO_SUCH_CODEC"))
    finding = media.sounds()
    assert finding.outcome is Outcome.FAILED
    assert finding.detail.startswith("mp3: ")
    assert "soundfile" in finding.advice


def test_a_decoder_that_gives_another_tone_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "open_audio", lambda content, rate: np.zeros(rate // 2, np.float32))
    assert "it lasts 0.50 s" in media.sounds().detail


def test_search_that_finds_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.state import StoreState

    right = StoreState.search
    monkeypatch.setattr(StoreState, "search", lambda *given: tuple(part[:, ::-1] for part in right(*given)))
    assert store_checks.round_trip().outcome is Outcome.FAILED


def test_little_shared_memory_fails_where_the_service_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**20, 0, 2**20))
    finding = store_checks.shared_memory()
    assert finding.outcome is Outcome.FAILED
    assert "--shm-size" in finding.advice


def test_only_an_absurd_speed_is_called_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = onepeace.load(TINY)
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    kind = speed.kind_of_processor()
    usual = speed.EXPECTED[kind]["text"]
    assert speed.measure(model, gallery_samples(), "text").outcome is Outcome.OK
    monkeypatch.setitem(speed.EXPECTED[kind], "text", (1e9, 2e9))
    finding = speed.measure(model, gallery_samples(), "text")
    assert finding.outcome is Outcome.SLOW
    assert usual[0] < usual[1]


def test_the_table_is_readable() -> None:
    result = CliRunner().invoke(app, ["check", "--quick", "--model", "nowhere"])
    assert result.exit_code == 1
    assert "what to do" in result.stdout
    assert result.stdout.strip().splitlines()[-1].startswith("2 of ")
    assert "Traceback" not in result.output
