"""How fast one forward pass encodes, beside the plain one, open_clip's ViT-B-16 and the processor's own limit.

    python benchmarks/encode.py [--rounds 7] [--only image|text|audio|peers|growth|memory] [--json FILE]

The base preset with random weights: pictures of 256 pixels, texts of up to 32 ids whose lengths differ, 10 s of sound.
`plain` is benchmarks/plain.py in float32, checked here to give the same vectors. The limit is what the Transformer's
matrix products reach alone, in bfloat16, one after the other, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from plain import PlainModel
from torch import Tensor

from encoders.modality import Modality
from onepeace.bench.measure import PeakMemory, interleaved, machine_facts, product_flops
from onepeace.bench.products import products_alone
from onepeace.inference import EncodingModel
from onepeace.model import ModelConfig, OnePeace

ROOT = Path(__file__).resolve().parents[1]
BATCH = {Modality.IMAGE: 8, Modality.TEXT: 32, Modality.AUDIO: 8}
WINDOW = 15  # seconds that the model hears at once
IDS, PIXELS, SECONDS = 32, 256, 10
GROWTH: dict[Modality, dict[str, list[int]]] = {
    Modality.IMAGE: {"batch": [1, 2, 4, 8, 16, 32, 64], "pixels": [128, 192, 256, 384, 512]},
    Modality.TEXT: {"batch": [1, 2, 4, 8, 16, 32, 64], "ids": [8, 32, 128, 256, 512]},
    Modality.AUDIO: {"batch": [1, 2, 4, 8, 16, 32, 64], "seconds": [1, 2, 5, 10, 15, 30, 60]},
}


def preset_model(modality: Modality, size: str = "base") -> OnePeace:
    """Return a preset with random weights, one tower of it."""
    torch.manual_seed(0)
    config = yaml.safe_load((ROOT / f"configs/model/{size}.yaml").read_text(encoding="utf-8"))
    config["adapters"] = {modality: config["adapters"][modality]}
    return OnePeace(ModelConfig.from_dict(config)).eval().requires_grad_(False)


def inputs(modality: Modality, batch: int, *, pixels: int = PIXELS, ids: int = IDS, seconds: int = SECONDS) -> Any:
    """Return random inputs; texts are evenly spread from 4 ids to `ids`."""
    generator = torch.Generator().manual_seed(1)
    if modality is Modality.IMAGE:
        return (torch.randn(batch, 3, pixels, pixels, generator=generator),)
    if modality is Modality.AUDIO:
        windows = -(-seconds // WINDOW)  # a longer sound is cut, as `AudioPreprocessor` does
        batch, samples = batch * windows, 16_000 * seconds // windows
        return torch.randn(batch, samples, generator=generator), torch.full((batch,), samples)
    ids_BN = torch.randint(4, 50_000, (batch, ids), generator=generator)
    lengths_B = torch.linspace(ids, min(4, ids), batch).round()
    ids_BN[torch.arange(ids) >= lengths_B[:, None]] = 1
    return (ids_BN,)


def worst_cosine(a_BD: Tensor, b_BD: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a_BD, b_BD).min())


def compare(modality: Modality, rounds: int) -> dict[str, Any]:
    """Measure one modality: plain, ours in each type, and the limit; at its batch size and alone."""
    model = preset_model(modality)
    plain = PlainModel(model)
    ours = {
        str(dtype).removeprefix("torch."): EncodingModel(model, dtype)
        for dtype in (torch.float32, torch.bfloat16, torch.int8)
    }
    facts: dict[str, Any] = {}
    for batch in (BATCH[modality], 1):
        tensors = inputs(modality, batch)
        expected = plain.embed(modality, *tensors)
        cosines = {name: worst_cosine(expected, encoder.embed(modality, *tensors)) for name, encoder in ours.items()}
        assert cosines["float32"] > 0.99999, cosines
        alone = products_alone(ours["bfloat16"], modality, tensors)
        candidates: dict[str, Callable[[], object]] = {"plain": lambda t=tensors: plain.embed(modality, *t)}
        for name, encoder in ours.items():
            candidates[name] = lambda e=encoder, t=tensors: e.embed(modality, *t)
        candidates["products alone"] = alone
        seconds = interleaved(candidates, rounds)
        flops = product_flops(candidates["bfloat16"])
        limit = product_flops(alone) / seconds["products alone"]
        print(f"\n{modality}, batch {batch}")
        for name, value in seconds.items():
            print(
                f"  {name:16} {1000 * value:9.1f} ms  {seconds['plain'] / value:5.2f} times plain"
                + (f"  cosine {cosines[name]:.5f}" if name in cosines else "")
            )
        share = flops / seconds["bfloat16"] / limit
        print(f"  bfloat16: {flops / seconds['bfloat16'] / 1e9:.0f} GFLOP/s, {100 * share:.0f} % of {limit / 1e9:.0f}")
        facts[f"batch {batch}"] = {
            "seconds": seconds,
            "cosine": cosines,
            "flops": flops,
            "limit_flops_per_second": limit,
            "share_of_limit": share,
        }
    return facts


def peers(rounds: int) -> dict[str, Any]:
    """Measure beside models of the same size, as open_clip and sentence-transformers run them."""
    import open_clip

    torch.manual_seed(0)
    clip: Any = open_clip.create_model("ViT-B-16").eval().requires_grad_(False)
    halves: Any = open_clip.create_model("ViT-B-16", precision="bf16").eval().requires_grad_(False)
    compiled: Any = torch.compile(halves.encode_image)
    pixels = torch.randn(BATCH[Modality.IMAGE], 3, 224, 224)
    model = preset_model(Modality.IMAGE)
    candidates: dict[str, Callable[[], object]] = {
        "open_clip, its defaults": lambda: clip.encode_image(pixels),
        "open_clip, bfloat16": lambda: halves.encode_image(pixels.bfloat16()),
        "open_clip, bfloat16, compiled": lambda: compiled(pixels.bfloat16()),
    }
    for dtype in (torch.bfloat16, torch.int8):
        encoder = EncodingModel(model, dtype)
        tensors = inputs(Modality.IMAGE, BATCH[Modality.IMAGE])
        candidates[f"onepeace base, {str(dtype).removeprefix('torch.')}"] = lambda e=encoder, t=tensors: e.embed(
            Modality.IMAGE, *t
        )
    candidates |= sentence_transformers_peers()
    texts = preset_model(Modality.TEXT)
    for dtype in (torch.bfloat16, torch.int8):
        encoder, ids = EncodingModel(texts, dtype), inputs(Modality.TEXT, BATCH[Modality.TEXT])
        candidates[f"onepeace base, texts, {str(dtype).removeprefix('torch.')}"] = lambda e=encoder, t=ids: e.embed(
            Modality.TEXT, *t
        )
    flops = {
        name: product_flops(run) for name, run in candidates.items() if "compiled" not in name and "int8" not in name
    }
    flops["open_clip, bfloat16, compiled"] = flops["open_clip, bfloat16"]
    flops["onepeace base, int8"] = flops["onepeace base, bfloat16"]
    flops["onepeace base, texts, int8"] = flops["onepeace base, texts, bfloat16"]
    seconds = interleaved(candidates, rounds, warm_up=3)
    print(f"\npictures, batch {BATCH[Modality.IMAGE]}: ViT-B-16 (224 pixels, 197 tokens), ours (256, 257)")
    print(f"texts, batch {BATCH[Modality.TEXT]}, of 4 to 32 ids: a BERT of 12 x 768, padded as it is called; ours")
    for name, value in seconds.items():
        count = BATCH[Modality.TEXT if "texts" in name else Modality.IMAGE]
        rate = flops[name] / value / 1e9
        print(f"  {name:42} {1000 * value:8.1f} ms  {count / value:7.2f} a second  {rate:6.0f} GFLOP/s")
    return {"seconds": seconds, "flops": flops}


def sentence_transformers_peers() -> dict[str, Callable[[], object]]:
    """Return the passes that sentence-transformers runs, of Hugging Face models with random weights."""
    try:
        from transformers import BertConfig, BertModel, CLIPVisionConfig, CLIPVisionModelWithProjection
    except ImportError:
        print("sentence-transformers is not installed, so its models are left out (pip install sentence-transformers)")
        return {}

    torch.manual_seed(0)
    bert: Any = BertModel(BertConfig()).eval().requires_grad_(False)
    vision = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16
    )
    clip: Any = CLIPVisionModelWithProjection(vision).eval().requires_grad_(False)
    (ids_BN,) = inputs(Modality.TEXT, BATCH[Modality.TEXT])
    mask_BN = (ids_BN != 1).long()
    ids_BN = ids_BN % bert.config.vocab_size
    pixels = torch.randn(BATCH[Modality.IMAGE], 3, 224, 224)
    half_bert, half_clip = deepcopy(bert).bfloat16(), deepcopy(clip).bfloat16()
    return {
        "sentence-transformers, its defaults": lambda: clip(pixel_values=pixels),
        "sentence-transformers, bfloat16": lambda: half_clip(pixel_values=pixels.bfloat16()),
        "sentence-transformers, texts, its defaults": lambda: bert(input_ids=ids_BN, attention_mask=mask_BN),
        "sentence-transformers, texts, bfloat16": lambda: half_bert(input_ids=ids_BN, attention_mask=mask_BN),
    }


def growth(rounds: int) -> dict[str, Any]:
    """Measure how cost grows with batch and size, and with which exponent."""
    facts: dict[str, Any] = {}
    for modality, axes in GROWTH.items():
        encoder = EncodingModel(preset_model(modality), torch.bfloat16)
        for axis, values in axes.items():
            candidates: dict[str, Callable[[], object]] = {}
            flops = {}
            for value in values:
                sized = {axis: value} if axis != "batch" else {}
                tensors = inputs(modality, value if axis == "batch" else 2, **sized)
                if axis == "ids":
                    tensors = (torch.randint(4, 50_000, (2, value)),)
                candidates[str(value)] = lambda t=tensors, e=encoder, m=modality: e.embed(m, *t)
                flops[str(value)] = product_flops(candidates[str(value)])
            seconds = interleaved(candidates, rounds)
            print(f"\n{modality}, {axis}: ms, and the exponents of time and of operations from the one before")
            before = None
            for value in map(str, values):
                line = f"  {value:>5} {1000 * seconds[value]:9.1f}"
                if before is not None:
                    step = math.log(float(value) / float(before))
                    line += f"  {math.log(seconds[value] / seconds[before]) / step:5.2f}"
                    line += f"  {math.log(flops[value] / flops[before]) / step:5.2f}"
                print(line)
                before = value
            facts[f"{modality} {axis}"] = {"seconds": seconds, "flops": flops}
    return facts


def peak(kind: str, modality: Modality, queue: Any) -> None:
    """Measure the peak of one forward pass in a process of its own."""
    torch.set_grad_enabled(False)
    with PeakMemory() as before:
        torch.ones(8, 8) @ torch.ones(8, 8)
    model: Any = preset_model(modality)
    encoder = PlainModel(model) if kind == "plain" else EncodingModel(model, getattr(torch, kind))
    del model
    tensors = inputs(modality, BATCH[modality])
    with PeakMemory() as memory:
        encoder.embed(modality, *tensors)
    queue.put((memory.bytes, before.bytes))


def memory(rounds: int) -> dict[str, Any]:
    """Measure the most memory that a process holds while it encodes, beside what it holds before it has a model."""
    context = multiprocessing.get_context("spawn")
    facts: dict[str, Any] = {}
    for modality in Modality:
        for kind in ("plain", "bfloat16", "int8"):
            queue = context.Queue()
            process = context.Process(target=peak, args=(kind, modality, queue))
            process.start()
            facts[f"{modality} {kind}"], facts["torch alone"] = queue.get()
            process.join()
        own = {kind: facts[f"{modality} {kind}"] - facts["torch alone"] for kind in ("plain", "bfloat16", "int8")}
        line = ", ".join(f"{kind} {value / 2**20:.0f}" for kind, value in own.items())
        print(
            f"\n{modality}, peak MiB at batch {BATCH[modality]} beside torch's {facts['torch alone'] / 2**20:.0f}: "
            f"{line}; bfloat16 / plain {own['bfloat16'] / own['plain']:.2f}"
        )
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=[*Modality, "peers", "growth", "memory"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    parts: dict[str, Callable[[int], dict[str, Any]]] = {
        **{str(modality): lambda rounds, m=modality: compare(m, rounds) for modality in Modality},
        "peers": peers,
        "growth": growth,
        "memory": memory,
    }
    facts: dict[str, Any] = {"machine": machine_facts()}
    print(*(f"{name}: {value}" for name, value in facts["machine"].items()), sep="\n")
    with torch.inference_mode():
        for name in arguments.only or parts:
            facts[name] = parts[name](arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    for modality in Modality:
        if modality in facts:
            for batch, row in facts[modality].items():
                ratios = {name: row["seconds"]["plain"] / row["seconds"][name] for name in ("bfloat16", "int8")}
                print(f"ratio to plain, {modality}, {batch}: " + ", ".join(f"{k} {v:.2f}" for k, v in ratios.items()))


if __name__ == "__main__":
    main()
