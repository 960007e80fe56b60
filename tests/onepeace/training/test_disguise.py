"""Tokens of media in other colours and at another pitch, beside details of what is true."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from random_models import write_random_model

from encoders.audio.log_mel_cnn import LogMel, shifted
from encoders.modality import Modality
from encoders.place import WAVES
from onepeace.training.disguise import MOST_BINS, disguised
from onepeace.training.task_data import TaskData
from onepeace.training.task_inputs import TokenSet
from onepeace.training.task_module import TaskModule

DETAILS = 3 * 2 * 2 + 2 * WAVES  # colours of 2 x 2 squares, and where they are


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(2)
    rows = ["image,text,label"]
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{number}.png")
        rows.append(f"{number}.png,a dog,{('yes', 'no')[number % 2]}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("start") / "backbones", "backbones")


def prepared(pack: Path, start: Path, cache: Path, **options: Any) -> tuple[TaskData, TaskModule]:
    data = TaskData([pack / "rows.csv"], [pack / "rows.csv"], ["text", "image"], cache=cache, **options)
    module = TaskModule(str(start), data.task, "fusion", detail=2)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    trainer.strategy.connect(module)
    data.trainer = trainer
    data.setup("fit")
    return data, module


@torch.no_grad()
def test_training_sees_tokens_of_other_colours_and_true_details(pack: Path, start: Path, tmp_path: Path) -> None:
    data, module = prepared(pack, start, tmp_path, disguise=True)
    trained, measured = (data._sets[name] for name in ("train", "validation"))
    assert isinstance(trained, TokenSet)
    assert isinstance(measured, TokenSet)
    adapter: Any = module.model.adapters[Modality.IMAGE].eval()
    orders, width = [], module.model.config.width
    for number, medium in enumerate(trained.distinct.inputs[Modality.IMAGE]):
        pixels = module.reader.preprocessors[Modality.IMAGE](pack / Path(medium.reference).name)  # type: ignore[union-attr]
        order = next(
            order for order in permutations(range(3)) if torch.equal(pixels[list(order)], other(pixels, medium))
        )
        orders.append(order)
        plain = adapter.kept(pixels[None]).embeddings[0]
        swapped = adapter.kept(pixels[list(order)][None]).embeddings[0]
        found = trained.tokens[Modality.IMAGE][number].float()
        close = {"atol": 2e-3 * float(plain.abs().max()), "rtol": 1e-2}  # kept in float16
        torch.testing.assert_close(found[:, :width], swapped[:, :width], **close)
        torch.testing.assert_close(found[:, width:], plain[:, width:], **close)
        torch.testing.assert_close(measured.tokens[Modality.IMAGE][number].float(), plain, **close)
    assert found.shape[1] == width + DETAILS
    assert len(set(orders)) > 2


def other(pixels: torch.Tensor, medium: Any) -> torch.Tensor:
    (seen,) = disguised((pixels[None],), Modality.IMAGE, [medium.key])
    assert seen is not None
    return seen[0]


def test_every_order_of_colours_and_every_pitch_is_as_likely() -> None:
    keys = [f"{number}.jpg" for number in range(1200)]
    colours = torch.arange(3.0).view(1, 3, 1, 1).expand(len(keys), -1, -1, -1)
    (seen,) = disguised((colours,), Modality.IMAGE, keys)
    counts = Counter(tuple(row) for row in seen.flatten(1).tolist())  # type: ignore[union-attr]
    assert len(counts) == 6
    assert max(abs(count - 200) for count in counts.values()) < 60  # 4.6 standard deviations
    *_, shifts = disguised((torch.zeros(1200, 8), torch.full((1200,), 8)), Modality.AUDIO, keys)
    assert shifts is not None
    assert (shifts.min(), shifts.max()) == (-MOST_BINS, MOST_BINS)
    assert abs(float(shifts.float().mean())) < 4 * 2 * MOST_BINS / (12 * 1200) ** 0.5


@torch.no_grad()
def test_a_sound_in_disguise_is_heard_at_another_pitch() -> None:
    """A tone moved by some bins is what the network hears of the tone that lies there; of the rest it hears nothing."""
    torch.manual_seed(0)
    front_end, time = LogMel(), torch.arange(32_000) / 32_000
    tone = front_end(torch.sin(2 * torch.pi * 1000 * time)[None])
    peaks = [int(shifted(tone, torch.tensor([bins]))[0, 0, :, 50].argmax()) for bins in (0, 20, -15)]
    assert peaks[1:] == [peaks[0] + 20, peaks[0] - 15]
    moved = shifted(tone, torch.tensor([20]))
    torch.testing.assert_close(moved[:, :, 20:], tone[:, :, :-20])
    assert (moved[:, :, :20] == tone.min()).all()


def test_colours_must_be_kept_by_details(pack: Path, start: Path, tmp_path: Path) -> None:
    data = TaskData([pack / "rows.csv"], [pack / "rows.csv"], ["text", "image"], disguise=True, cache=tmp_path)
    for way, detail in (("fusion", None), ("head", None), ("all", 2)):
        module = TaskModule(str(start), data.task, way, detail=detail)  # type: ignore[arg-type]
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
        trainer.strategy.connect(module)
        data.trainer = trainer
        with pytest.raises(ValueError, match=r"data\.disguise needs"):
            data.setup("fit")
