"""Tokens of pictures in other colours, beside details of the true ones."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image
from random_models import write_random_model

from encoders.modality import Modality
from onepeace.training.task_data import TaskData
from onepeace.training.task_inputs import TokenSet, channel_order
from onepeace.training.task_module import TaskModule

DETAILS = 3 * 2 * 2


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
    data, module = prepared(pack, start, tmp_path, swap_channels=True)
    trained, measured = (data._sets[name] for name in ("train", "validation"))
    assert isinstance(trained, TokenSet)
    assert isinstance(measured, TokenSet)
    adapter: Any = module.model.adapters[Modality.IMAGE].eval()
    orders, width = [], module.model.config.width
    for number, medium in enumerate(trained.distinct.inputs[Modality.IMAGE]):
        pixels = module.reader.preprocessors[Modality.IMAGE](pack / Path(medium.reference).name)  # type: ignore[union-attr]
        order = channel_order(medium.key)  # type: ignore[union-attr]
        orders.append(tuple(order))
        plain = adapter.kept(pixels[None]).embeddings[0]
        swapped = adapter.kept(pixels[order][None]).embeddings[0]
        found = trained.tokens[Modality.IMAGE][number].float()
        close = {"atol": 2e-3 * float(plain.abs().max()), "rtol": 1e-2}  # kept in float16
        torch.testing.assert_close(found[:, :width], swapped[:, :width], **close)
        torch.testing.assert_close(found[:, width:], plain[:, width:], **close)
        torch.testing.assert_close(measured.tokens[Modality.IMAGE][number].float(), plain, **close)
    assert found.shape[1] == width + DETAILS
    assert len(set(orders)) > 2


def test_every_order_is_as_likely() -> None:
    counts = Counter(tuple(channel_order(f"{number}.jpg")) for number in range(1200))
    assert len(counts) == 6
    assert max(abs(count - 200) for count in counts.values()) < 60  # 4.6 standard deviations


def test_colours_must_be_kept_by_details(pack: Path, start: Path, tmp_path: Path) -> None:
    data = TaskData([pack / "rows.csv"], [pack / "rows.csv"], ["text", "image"], swap_channels=True, cache=tmp_path)
    for way, detail in (("fusion", None), ("head", None), ("all", 2)):
        module = TaskModule(str(start), data.task, way, detail=detail)  # type: ignore[arg-type]
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
        trainer.strategy.connect(module)
        data.trainer = trainer
        with pytest.raises(ValueError, match=r"data\.swap_channels needs"):
            data.setup("fit")
