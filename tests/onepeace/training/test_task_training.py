"""A head trained on a frozen model, from the config to the answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from random_models import write_random_model

import onepeace
from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.manifest import Shards, read_manifest
from onepeace.training.cli import main, trained_kind
from onepeace.training.export import export_checkpoint

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "finetune" / "classify_image.yaml"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("start") / "model", "official")


def write_head_config(folder: Path, pack: Path, start: Path, **data: Any) -> Path:
    (callback,) = yaml.safe_load(SHIPPED.read_text())["trainer"]["callbacks"]
    callback["init_args"]["dirpath"] = str(folder / "run")
    config = {
        "seed_everything": 1,
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 15,
            "log_every_n_steps": 1,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
            "callbacks": [callback],
            "default_root_dir": str(folder),
        },
        "model": {"start": str(start), "optimizer": {"lr": 3e-3}, "smoothing": 0.0},
        "data": {
            "train": [str(pack / "manifest.jsonl")],
            "validation": [str(pack / "manifest.jsonl")],
            "where": {"source": "colours"},
            "modalities": ["image"],
            "cache": str(folder / "features"),
            "batch_size": 8,
            **data,
        },
    }
    (folder / "head.yaml").write_text(yaml.safe_dump(config))
    return folder / "head.yaml"


@pytest.fixture(scope="module")
def head(start: Path, small_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("head")
    main(["fit", "--config", str(write_head_config(folder, small_pack, start))])
    export_checkpoint(folder / "run" / "last.ckpt", folder / "exported", "colours", storage=None)
    return folder / "exported"


def test_a_head_learns_and_the_trunk_keeps_its_weights(head: Path, start: Path, small_pack: Path) -> None:
    model = onepeace.load(head)
    assert isinstance(model, onepeace.TaskPredictor)
    assert model.labels == ("blue", "green", "red", "white")
    rows = [row for row in read_manifest(small_pack / "manifest.jsonl") if row["source"] == "colours"]
    shards = Shards(small_pack)
    predictions = model.predict([onepeace.Image(shards.read(row["image"])) for row in rows])
    assert [prediction.label for prediction in predictions] == [row["label"] for row in rows]
    before, after = open_folder(start).model().state_dict(), open_folder(head).task_model().state_dict()
    kept = {name for name in after if not name.startswith("head.")}
    assert kept == {n for n in before if n.startswith(("fusion.", "adapters.image"))} - {
        n for n in before if "experts.text" in n or "experts.audio" in n or "norms.text" in n or "norms.audio" in n
    }
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert "colours | 24 |" in (head / "README.md").read_text()


def test_a_run_goes_on_from_its_last_epoch(start: Path, small_pack: Path, tmp_path: Path) -> None:
    fit = ["fit", "--config", str(write_head_config(tmp_path, small_pack, start))]
    last = tmp_path / "run" / "last.ckpt"
    main([*fit, "--trainer.max_epochs", "1"])
    first = torch.load(last, weights_only=True)
    main([*fit, "--trainer.max_epochs", "2", "--ckpt_path", str(last)])
    second = torch.load(last, weights_only=True)
    assert (first["epoch"], second["epoch"]) == (0, 1)
    assert second["global_step"] == 2 * first["global_step"]
    assert [path.name for path in last.parent.iterdir()] == ["last.ckpt"]


def test_an_answer_is_the_same_alone_and_among_others(head: Path) -> None:
    model = onepeace.load(head)
    pictures = [Image.new("RGB", (20 + 7 * i, 30), (40 * i, 90, 200 - 30 * i)) for i in range(5)]
    together = model.probabilities(pictures)
    np.testing.assert_allclose(together.sum(axis=1), 1.0, rtol=1e-5)
    alone = np.concatenate([model.probabilities([picture], batch_size=1) for picture in pictures])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-6)
    best = model.predict(pictures[:1])[0]
    assert best.probability == max(best.probabilities.values()) == best.probabilities[best.label]


def test_inputs_that_it_does_not_read_are_refused(head: Path) -> None:
    model = onepeace.load(head)
    with pytest.raises(ValueError, match="input 0 is text, and colours reads image only"):
        model.predict(["a red picture"])
    with pytest.raises(TypeError, match="takes a list"):
        model.predict("a.jpg")
    with pytest.raises(CheckpointError, match="does not embed"):
        open_folder(head).model()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"where": {"source": "nothing"}}, "has source=nothing"),
        ({"where": {"label": "red"}}, "one label only: red"),
        ({"modalities": ["audio"]}, "have no audio"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"batch": 4}, "unknown key"),
    ],
)
def test_data_that_cannot_teach_a_head_is_refused(
    data: dict[str, Any], reason: str, start: Path, small_pack: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=reason):
        main(["fit", "--config", str(write_head_config(tmp_path, small_pack, start, **data))])


def test_which_configs_train_a_head(tmp_path: Path) -> None:
    (tmp_path / "head.yaml").write_text("model: {start: onepeace-tiny}")
    (tmp_path / "model.yaml").write_text("model: {model: tiny.yaml}")
    assert trained_kind(["fit", "--config", str(tmp_path / "head.yaml")]) == "task"
    assert trained_kind(["fit", f"--config={tmp_path / 'head.yaml'}"]) == "task"
    assert trained_kind(["fit", "--config", str(tmp_path / "model.yaml")]) == "model"
    assert trained_kind(["fit", "--config", str(tmp_path / "absent.yaml")]) == "model"
    assert trained_kind(["fit", "--config"]) == "model"
