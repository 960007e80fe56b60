"""A step of ONE-PEACE's first stage, beside the same step written down in the obvious way.

    python benchmarks/train_step.py [--batch 16] [--rounds 5] [--size small]

Both run in bfloat16 autocast on the same weights, pictures, texts and masks, and must give the same loss (1e-3). The
obvious way asks the adapters anew for each of the six passes, attends with torch's fused kernel, steps with torch's
default AdamW, and has memory as the C library gives it. Ours computes contents once, attends with plain products where
that is faster, fuses AdamW, and keeps freed memory. Each has a process of its own; they take turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from encoders.modality import Modality
from onepeace.bench.measure import machine_facts
from onepeace.memory import keep_freed_memory
from onepeace.model import ModelConfig, OnePeace
from onepeace.model.decoder import Decoder, DecoderConfig
from onepeace.training.losses import symmetric_contrastive_loss
from onepeace.training.optim import OptimizerConfig, build_optimizer, parameter_groups
from onepeace.training.pretraining import STAGE1, MaskedView, Passes, denoising_terms, draw_views, pretraining_passes

ROOT = Path(__file__).resolve().parents[1]
IDS = 32


def obvious_passes(
    model: OnePeace, decoder: Decoder, ids_BL: Tensor, pixels_BCHW: Tensor, views: dict[str, MaskedView]
) -> Passes:
    """Return the passes of stage 1, each from raw input."""
    text: Any = model.adapters[Modality.TEXT]
    image: Any = model.adapters[Modality.IMAGE]
    (text_teacher,) = model.features([text(ids_BL)])
    (image_teacher,) = model.features([image(pixels_BCHW)])
    teachers = {"text": text_teacher, "media": image_teacher}
    with torch.no_grad():
        teachers["joint_text"], teachers["joint_media"] = model.features([text(ids_BL), image(pixels_BCHW)])
    visible, students = {}, {}
    for names in STAGE1.passes:
        chosen = [
            (text(ids_BL) if name.endswith("text") else image(pixels_BCHW)).at(views[name].places) for name in names
        ]
        seen = model.features(chosen)
        predictions = decoder(seen, [views[name].places for name in names], [teachers[name].padding for name in names])
        visible |= dict(zip(names, seen, strict=True))
        students |= dict(zip(names, predictions, strict=True))
    return Passes(
        model.heads[Modality.IMAGE](image_teacher),
        model.heads[Modality.TEXT](text_teacher),
        teachers,
        visible,
        students,
    )


class Step:
    """A step of either kind on weights of its own."""

    def __init__(self, obvious: bool, model: OnePeace, decoder: Decoder, batch: tuple[Any, ...]) -> None:
        self.obvious, self.model, self.decoder, self.batch = obvious, deepcopy(model), deepcopy(decoder), batch
        self.device = batch[0].device.type
        named = [*self.model.named_parameters(), *self.decoder.named_parameters(prefix="decoder")]
        self.parameters = [parameter for _, parameter in named if parameter.requires_grad]
        config = OptimizerConfig(lr=1e-4)
        self.optimizer: torch.optim.Optimizer = build_optimizer(named, config, 1000)[0]
        if obvious:
            self.optimizer = torch.optim.AdamW(parameter_groups(named, config), betas=config.betas, eps=config.eps)

    def loss(self) -> Tensor:
        """Return the loss."""
        ids_BL, pixels_BCHW, views = self.batch
        with torch.autocast(self.device, dtype=torch.bfloat16):
            if self.obvious:
                with patch("onepeace.model.block.attend", F.scaled_dot_product_attention):
                    passes = obvious_passes(self.model, self.decoder, ids_BL, pixels_BCHW, views)
            else:
                image: Any = self.model.adapters[Modality.IMAGE]
                passes = pretraining_passes(
                    self.model, self.decoder, ids_BL, Modality.IMAGE, image.features(pixels_BCHW), views, STAGE1
                )
            terms = denoising_terms(passes, views, STAGE1)
            total = symmetric_contrastive_loss(passes.media, passes.text, self.model.logit_scale())
            for weight, value in terms.values():
                total = total + weight * value
        return total

    def __call__(self) -> None:
        """Update the weights once."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 3.0)
        self.optimizer.step()


def setting(batch: int, size: str) -> tuple[OnePeace, Decoder, tuple[Any, ...]]:
    """Return a model, a decoder and a batch, the same in every process."""
    torch.manual_seed(0)
    config = yaml.safe_load((ROOT / f"configs/model/{size}.yaml").read_text(encoding="utf-8"))
    config["adapters"].pop("audio")
    config["drop_path"] = 0.0  # so that the losses can be compared
    model = OnePeace(ModelConfig.from_dict(config)).train()
    decoder = Decoder(DecoderConfig(), model.config).train()
    pixels_BCHW = torch.randn(batch, 3, 256, 256)
    ids_BL = torch.randint(4, 50_000, (batch, IDS))
    ids_BL[torch.arange(IDS) >= torch.linspace(8, IDS, batch).round()[:, None]] = 1
    text: Any = model.adapters[Modality.TEXT]
    image: Any = model.adapters[Modality.IMAGE]
    with torch.no_grad():
        starts_BL = torch.ones_like(ids_BL, dtype=torch.bool)
        views = draw_views(STAGE1, text(ids_BL), starts_BL, image(pixels_BCHW), torch.Generator().manual_seed(0))
    return model, decoder, (ids_BL, pixels_BCHW, views)


def work(obvious: bool, batch: int, size: str, connection: Any) -> None:
    """Answer with the loss, then with the seconds of a step whenever asked, until told to end."""
    if not obvious:
        keep_freed_memory()
    step = Step(obvious, *setting(batch, size))
    connection.send(float(step.loss().detach()))
    while connection.recv():
        start = time.perf_counter()
        step()
        connection.send(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", default="small")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    connections, losses = {}, {}
    for name in ("obvious", "ours"):
        connections[name], theirs = context.Pipe()
        context.Process(
            target=work, args=(name == "obvious", arguments.batch, arguments.size, theirs), daemon=True
        ).start()
        losses[name] = connections[name].recv()
    assert abs(losses["ours"] - losses["obvious"]) < 1e-3 * losses["obvious"], losses
    seconds: dict[str, list[float]] = {name: [] for name in connections}
    for _ in range(arguments.rounds + 2):
        for name, connection in connections.items():
            connection.send(True)
            seconds[name].append(connection.recv())
    for connection in connections.values():
        connection.send(False)
    print(*(f"{name}: {value}" for name, value in machine_facts().items()), sep="\n")
    print(*(f"loss, {name}: {value:.5f}" for name, value in losses.items()), sep="\n")
    medians = {name: statistics.median(values[2:]) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:8} {arguments.batch / value:6.2f} samples/s")
    print(
        f"ratio obvious / ours, {arguments.size}, batch {arguments.batch}: {medians['obvious'] / medians['ours']:.2f}"
    )


if __name__ == "__main__":
    main()
