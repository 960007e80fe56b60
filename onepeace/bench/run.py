"""`onepeace bench`: how fast a model encodes here, beside its plain forward pass and the processor's limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.modality import Modality
from onepeace.bench.measure import interleaved, machine_facts, product_flops
from onepeace.bench.products import products_alone
from onepeace.inference import EncodingModel, best_dtype
from onepeace.loading import DTYPES
from onepeace.model.config import ModelConfig
from onepeace.reader import embedding_folder

BATCHES = {Modality.TEXT: 32, Modality.IMAGE: 8, Modality.AUDIO: 8}
PLAIN = "plain"


@dataclass(frozen=True)
class Speed:
    """How fast one way of encoding is."""

    modality: str
    batch: int
    way: str  # "plain": the model as it trains, in float32; or the type that a prepared model computes in
    seconds: float  # of a forward pass, median
    per_second: float  # inputs
    ratio: float  # to plain
    limit_share: float | None  # of the rate that its matrix products reach alone, where that was measured


def bench(model: str | Path, *, device: str = "cpu", rounds: int = 7, progress: bool = False) -> list[Speed]:
    """Measure a model's forward passes on random inputs of full size, one at a time and in a batch.

    Raises:
        CheckpointError: no such model.
    """
    plain = embedding_folder(model).model().to(device).requires_grad_(False)
    types = {name: dtype for name, dtype in DTYPES.items() if device == "cpu" or dtype is not torch.int8}
    if best_dtype(torch.device(device)) is torch.float32:
        types.pop("bfloat16")
    prepared = {name: EncodingModel(plain, dtype) for name, dtype in types.items()}
    fastest = "bfloat16" if "bfloat16" in prepared else "float32"
    speeds = []
    with torch.inference_mode():
        for modality in plain.modalities:
            for batch in (1, BATCHES[modality]):
                tensors = tuple(tensor.to(device) for tensor in random_inputs(plain.config, modality, batch))
                runs: dict[str, Callable[[], object]] = {PLAIN: partial(plain.embed, modality, *tensors)}
                runs |= {name: partial(encoder.embed, modality, *tensors) for name, encoder in prepared.items()}
                alone = products_alone(prepared[fastest], modality, tensors)
                seconds = interleaved({**runs, "limit": alone}, rounds, progress=progress)
                rate = product_flops(runs[fastest]) / seconds[fastest]
                share = rate / (product_flops(alone) / seconds.pop("limit"))
                speeds += [
                    Speed(
                        str(modality),
                        batch,
                        way,
                        value,
                        batch / value,
                        seconds[PLAIN] / value,
                        share if way == fastest else None,
                    )
                    for way, value in seconds.items()
                ]
    return speeds


def random_inputs(config: ModelConfig, modality: Modality, batch: int) -> tuple[Tensor, ...]:
    """Return a batch of what the adapter takes: the longest sound, the whole picture, texts of 4 to 32 ids."""
    generator = torch.Generator().manual_seed(0)
    preprocess: Any = config.adapters[modality].preprocess  # type: ignore[attr-defined]
    if modality is Modality.IMAGE:
        return (torch.randn(batch, 3, preprocess.size, preprocess.size, generator=generator),)
    if modality is Modality.AUDIO:
        samples = round(preprocess.sample_rate * preprocess.max_seconds)
        return torch.randn(batch, samples, generator=generator), torch.full((batch,), samples)
    longest = min(32, preprocess.max_tokens)
    ids_BN = torch.randint(4, preprocess.vocabulary_size, (batch, longest), generator=generator)
    lengths_B = torch.linspace(longest, min(4, longest), batch).round()
    return (ids_BN.masked_fill_(torch.arange(longest) >= lengths_B[:, None], preprocess.pad_id),)


def to_json(model: str, speeds: list[Speed]) -> dict[str, Any]:
    """Return the figures with what they depend on."""
    return {"model": model, "machine": machine_facts(), "speeds": [asdict(speed) for speed in speeds]}


def chart(model: str, speeds: list[Speed]) -> str:
    """Return the ratios to plain as bars, an SVG picture."""
    left, bar, row, widest = 150, 420, 22, max(speed.ratio for speed in speeds)
    lines: list[str] = []
    y = 64
    last = ("", 0)
    for speed in speeds:
        if (speed.modality, speed.batch) != last:
            last = (speed.modality, speed.batch)
            y += 14
            lines.append(f'<text x="16" y="{y + 14}" class="group">{speed.modality}, batch {speed.batch}</text>')
            y += 22
        width = bar * speed.ratio / widest
        kind = PLAIN if speed.way == PLAIN else "ours"
        lines.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{speed.way}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{width:.1f}" height="{row - 7}" rx="3" class="{kind}"/>'
            f'<text x="{left + width + 8:.1f}" y="{y + 14}">{speed.ratio:.1f} x, {speed.per_second:.1f} a second'
            + (f", {100 * speed.limit_share:.0f} % of the limit" if speed.limit_share else "")
            + "</text>"
        )
        y += row
    facts = machine_facts()
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 820 {y + 24}" width="820" height="{y + 24}">'
        "<style>text{font:13px system-ui,sans-serif;fill:#222}.title{font-size:18px;font-weight:600}"
        ".group{font-weight:600}.plain{fill:#b9bec7}.ours{fill:#3b6fd4}.quiet{fill:#666}</style>"
        f'<rect width="100%" height="100%" fill="#fff"/><text x="16" y="32" class="title">{model}: speed against the '
        f'plain forward pass</text><text x="16" y="54" class="quiet">{facts["processor"]}, {facts["threads"]} threads, '
        f"torch {facts['torch']}</text>{''.join(lines)}</svg>\n"
    )
