"""Learning from teachers: soft labels against their definition, and runs under a random open_clip model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from test_data import PICTURES
from test_training import losses, pytestmark, write_config  # noqa: F401 - pytestmark silences Lightning here too
from training_data import load

from encoders.teachers import Teacher, TeacherConfig
from onepeace.training.cli import main
from onepeace.training.distillation import Distillation, DistillationConfig

LITE0 = TeacherConfig(library="efficientnet_lite0")
NAMES = ("dog", "rain", "tench", "bell", "car")


@pytest.fixture
def names(tmp_path: Path) -> Path:
    path = tmp_path / "names.csv"
    path.write_text("display_name\n" + "\n".join(NAMES))
    return path


class FiveClasses(Teacher):
    width, classes = 8, 5


def labels(names: Path, **options: Any) -> Distillation:
    return Distillation(DistillationConfig(teacher=LITE0, kind="labels", names=names, **options), FiveClasses(), 4)


def test_the_likeliest_classes_that_are_said_share_the_weight(names: Path) -> None:
    probabilities = torch.tensor([[0.1, 0.4, 0.3, 0.15, 0.05], [0.0, 0.0, 1.0, 0.0, 0.0]])
    target = labels(names, top=2, exclude=("tench",)).likeliest(probabilities)
    expected = torch.tensor([[0.0, 0.4 / 0.55, 0.0, 0.15 / 0.55, 0.0], [0.0] * 5])
    torch.testing.assert_close(target, expected)


def test_a_batch_says_the_classes_that_are_seen_in_it(small_pack: Path, names: Path) -> None:
    steps = load(small_pack, PICTURES)
    distillation = labels(names)
    (stream,) = steps.streams
    texts = [numbers[0] for row in stream.texts[0] for numbers in [row]][: len(NAMES)]
    stream.class_texts = {1: [[number] for number in texts]}
    seen = np.random.default_rng(0).dirichlet(np.ones(5), len(stream.sources[0].rows)) * [1, 0, 1, 1, 0]
    stream.sources[0].lessons = {1: distillation.likeliest(torch.from_numpy(seen).float())}
    pair = steps[0].pairs[0]
    assert pair.media_lessons[1].shape == (len(pair), 3)
    torch.testing.assert_close(pair.media_lessons[1].sum(dim=1), torch.ones(len(pair)))
    torch.testing.assert_close(pair.class_ids[1], steps.bank.batch([texts[0], texts[2], texts[3]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0.0}, "must be positive"),
        ({"top": 0}, "at least 1"),
        ({"templates": ("a photo",)}, "need {}"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationConfig(teacher=LITE0, kind="labels", **options)


def test_names_that_do_not_fit_the_teacher_are_refused(names: Path) -> None:
    with pytest.raises(ValueError, match="no class is named zebra"):
        labels(names, exclude=("zebra",))
    names.write_text("display_name\ndog\n")
    with pytest.raises(ValueError, match="knows 5 classes, names lists 1"):
        labels(names)


def test_both_towers_of_an_open_clip_model_teach(small_pack: Path, tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    torch.save(open_clip.create_model("MobileCLIP2-S0").state_dict(), tmp_path / "clip.pt")
    teacher = {"library": "open_clip", "name": "MobileCLIP2-S0", "weights": str(tmp_path / "clip.pt")}
    path = write_config(tmp_path, small_pack, max_epochs=8)
    config = yaml.safe_load(path.read_text())
    config["data"]["streams"] = config["data"]["streams"][:1]
    config["model"]["loss"] = {"contrastive": 0.0}
    config["model"]["distillations"] = [
        {"teacher": teacher, "kind": "cosine"},
        {"teacher": {**teacher, "modality": "text"}, "kind": "cosine"},
    ]
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(ValueError, match=r"data\.cache"):
        main(["fit", "--config", str(path)])
    config["data"]["cache"] = str(tmp_path / "cache")
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path)])
    steps = list(losses(tmp_path).values())
    assert np.mean(steps[-3:]) < 0.5 * np.mean(steps[:3])
    state = torch.load(tmp_path / "kept" / "step=24.ckpt", weights_only=True)["state_dict"]
    assert [name for name in state if name.startswith("distillations")] == [
        f"distillations.{number}.projection.{part}" for number in (0, 1) for part in ("weight", "bias")
    ]
