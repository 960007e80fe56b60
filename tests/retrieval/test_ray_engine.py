"""The Ray engine, on a real Ray of this machine: what it stores is what the local engine stores, whoever dies."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from little_media import picture, sound
from random_models import write_random_model
from typer.testing import CliRunner
from video_files import solid, write_video

import onepeace
from retrieval import BuildConfig, RayEngine, Searcher, Store, build_store
from retrieval.cli import app
from retrieval.ray_engine import ATTEMPTS, EmbeddingWorker, shares

ROOT = Path(__file__).resolve().parents[2]

SMALL = BuildConfig(batch_size=3)

# Ray warns of fields that its own constructor sets.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export folder of a tiny random model."""
    return write_random_model(tmp_path_factory.mktemp("model") / "official", "official")


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[RayEngine]:
    """A Ray with two workers, for all tests of this file."""
    with RayEngine(folder, dtype="float32", workers=min(2, os.cpu_count() or 1)) as engine:
        yield engine


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    """Pictures, sounds, texts; some equal, some that cannot be read."""
    pack = tmp_path / "pack"
    pack.mkdir()
    for n in range(16):
        (pack / f"{n:02}.png").write_bytes(picture(n % 13))
    for n in range(5):
        (pack / f"{n}.flac").write_bytes(sound(n))
    (pack / "words.csv").write_text("text,number\n" + "".join(f"a {w} at night,{n}\n" for n, w in enumerate(NOUNS)))
    (pack / "broken.png").write_bytes(b"no picture")
    (pack / "other.md").write_bytes(b"")
    return pack


NOUNS = ("dog", "cat", "bird", "street", "rain", "dog")


def assert_equal_stores(one: Path, other: Path, model: onepeace.Embedder) -> None:
    """Every item once with its vector, and for some queries every item with the same score."""
    with Store.open(one, verify=True) as a, Store.open(other, verify=True) as b:
        by_id = {item.id: item for item in a.catalog}
        assert {item.id: item for item in b.catalog} == by_id
        assert len(a) == len(b) == len(by_id)
        assert {i.id: i.content for i in a.catalog} == {i.id: i.content for i in b.catalog}
        np.testing.assert_allclose(b.vectors(list(by_id)), a.vectors(list(by_id)), atol=1e-6)
        for query in ("a dog in the rain", onepeace.Image(picture(3)), onepeace.Audio(sound(2))):
            best, same = (
                {hit.item.id: hit.score for hit in Searcher(store, model).search(query, top_k=len(by_id))}
                for store in (a, b)
            )
            assert set(best) == set(by_id)
            assert same == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("nonsense", "give HOST:PORT"),
        ("ray://127.0.0.1:10001", "give HOST:PORT"),
    ],
)
def test_an_address_where_no_ray_is_is_refused_in_one_line(folder: Path, address: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^no Ray cluster can be joined at '{address}': .*{words}.*$"):
        RayEngine(folder, address=address).__enter__()


def test_a_ray_that_takes_too_long_to_start_is_told_in_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def slow(*_arguments: Any, **_options: Any) -> None:
        raise Exception("The current node timed out during startup.")  # of no class of its own, as Ray raises it

    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match=r"^Ray cannot be started here: The current node timed out during startup\.$"):
        RayEngine(folder).__enter__()


def test_a_build_on_ray_stores_what_a_local_one_does_though_a_worker_is_killed(
    pack: Path, tmp_path: Path, folder: Path, running: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = str(tmp_path / "killed")

    class DiesOnce(EmbeddingWorker):
        def __call__(self, batch: Any) -> Any:
            answer = super().__call__(batch)
            if not os.path.exists(marker):
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

    monkeypatch.setattr(running, "worker", DiesOnce)
    far = build_store([pack], tmp_path / "far", running, SMALL)
    assert os.path.exists(marker)
    model = onepeace.load(folder, dtype="float32")
    near = build_store([pack], tmp_path / "near", model, SMALL)
    assert (far.added, far.reused, far.ignored) == (near.added, near.reused, near.ignored) == (27, 4, near.ignored)
    assert far.failed == near.failed
    assert [Path(failure.uri).name for failure in far.failed] == ["broken.png"]
    assert_equal_stores(tmp_path / "near", tmp_path / "far", model)


@pytest.mark.slow
def test_a_build_on_ray_goes_on_with_what_is_there_and_lists_what_kills_its_workers(
    pack: Path, tmp_path: Path, folder: Path, running: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class DiesOfOnePicture(EmbeddingWorker):
        def __call__(self, batch: Any) -> Any:
            answer = super().__call__(batch)
            if "07.png" in batch["items"][0].as_py() and not answer["deadly"][0].as_py():
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

    build_store([pack / "words.csv"], tmp_path / "store", running, SMALL)
    (tmp_path / "pack" / "again.csv").write_text("text\na dog at night\n")
    monkeypatch.setattr(running, "worker", DiesOfOnePicture)
    paths = [pack / f"{n:02}.png" for n in range(4, 10)]
    report = build_store([*paths, pack / "words.csv", pack / "again.csv"], tmp_path / "store", running, SMALL)
    assert (report.added, report.present, report.reused) == (6, 6, 1)
    assert [(Path(uri).name, f"{ATTEMPTS} times" in reason) for uri, reason in report.failed] == [("07.png", True)]
    monkeypatch.undo()
    assert build_store(paths, tmp_path / "store", running, SMALL).added == 1
    model = onepeace.load(folder, dtype="float32")
    build_store([*paths, pack / "words.csv", pack / "again.csv"], tmp_path / "near", model, SMALL)
    assert_equal_stores(tmp_path / "near", tmp_path / "store", model)


@pytest.mark.slow
def test_videos_and_documents_are_cut_on_ray_as_locally(
    folder: Path, running: RayEngine, pack: Path, tmp_path: Path
) -> None:
    (tmp_path / "films").mkdir()
    pages = [PIL.Image.open(io.BytesIO(picture(n))).convert("RGB") for n in range(3)]
    pages[0].save(tmp_path / "films" / "deck.pdf", save_all=True, append_images=pages[1:])
    write_video(tmp_path / "films" / "clip.mp4", [solid((80 * n, 0, 0)) for n in range(3)], range(3))
    (tmp_path / "films" / "torn.mp4").write_bytes(b"no video")
    model = onepeace.load_embedder(folder, dtype="float32")
    paths = [pack, tmp_path / "films"]
    near = build_store(paths, tmp_path / "near", model, SMALL)
    far = build_store(paths, tmp_path / "far", running, SMALL)
    assert (far.added, sorted(far.failed)) == (near.added, sorted(near.failed))
    assert_equal_stores(tmp_path / "near", tmp_path / "far", model)
    with Store.open(tmp_path / "far") as store:
        assert {"films/deck.pdf#page=3", "films/clip.mp4#t=2.0"} <= {item.id for item in store.catalog}


@pytest.mark.slow
def test_another_model_on_a_worker_is_refused_in_one_line_and_leaves_no_store(
    pack: Path, tmp_path: Path, running: RayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "fingerprint", "beef" * 4)
    with pytest.raises(ValueError, match=r"^the workers gave up: .*is another one on a worker.*beef.*[^\n]*$"):
        build_store([pack], tmp_path / "store", running, SMALL)
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_the_command_prints_only_json_and_the_shipped_model_gives_what_it_gives_locally(
    pack: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "retrieval", "index", "build", str(pack), "--json", "--dtype", "float32"]
    run = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT)
    far = run([*command, "--store", str(tmp_path / "far"), "--engine", "ray", "--workers", "1"])
    near = run([*command, "--store", str(tmp_path / "near")])
    assert (far.returncode, near.returncode) == (3, 3), far.stderr
    told, expected = json.loads(far.stdout), json.loads(near.stdout)
    assert told | {"out": ""} == expected | {"out": ""}
    assert far.stderr == near.stderr
    assert_equal_stores(tmp_path / "near", tmp_path / "far", onepeace.load(dtype="float32"))


def test_an_engine_that_is_not_open_is_refused(folder: Path, pack: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the Ray engine is not open"):
        build_store([pack], tmp_path / "store", RayEngine(folder))
    assert not (tmp_path / "store").exists()


def test_without_ray_the_error_names_the_extra(
    pack: Path, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["index", "build", str(pack), "--store", str(tmp_path / "s"), "--model", str(folder), "--engine", "ray"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: the Ray engine needs Ray: pip install 'onepeace[scale]'")


def test_options_of_ray_are_refused_without_it(pack: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["index", "build", str(pack), "--store", str(tmp_path / "s"), "--workers", "2"])
    assert (result.exit_code, result.stderr) == (1, "error: --ray-address and --workers go with --engine ray\n")


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        ([{"CPU": 2.0}], None, "auto", (1, 2, 0)),
        ([{"CPU": 16.0}], None, "auto", (4, 4, 0)),
        ([{"CPU": 2.0}], 2, "auto", (2, 1, 0)),
        ([{"CPU": 16.0}, {"CPU": 16.0}], 3, "cpu", (3, 8, 0)),  # 16 would leave the third without a place
        ([{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}], None, "auto", (2, 8, 1)),
        ([{"CPU": 4.0, "GPU": 2.0}, {"CPU": 64.0}], None, "auto", (2, 2, 1)),  # places are where GPUs are
        ([{"CPU": 16.0, "GPU": 2.0}], None, "cpu", (4, 4, 0)),
    ],
)
def test_cores_and_gpus_are_shared_out_so_that_every_worker_finds_a_place(
    nodes: list[dict[str, float]], workers: int | None, device: str, expected: tuple[int, int, int]
) -> None:
    assert shares(nodes, workers, device) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "words"),
    [
        ([{"CPU": 2.0}], 3, "auto", "2 CPU cores: at most"),
        ([{"CPU": 16.0, "GPU": 1.0}], 2, "auto", "1 GPUs: at most"),
        ([{"CPU": 16.0}], 1, "cuda", "needs a GPU"),
    ],
)
def test_more_workers_than_have_a_place_are_refused(
    nodes: list[dict[str, float]], workers: int, device: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        shares(nodes, workers, device)
