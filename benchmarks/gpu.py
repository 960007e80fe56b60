"""How much of a GPU encoding and training use: shares of the rate that it multiplies bfloat16 matrices with.

    python benchmarks/gpu.py [--sizes base 4b] [--batch 64] [--rounds 7] [--json FILE]

Random weights, pictures of 256 pixels; vectors are compared with the plain float32 model's on the same GPU and, but for
4b, on the CPU. Texts of 4 to 64 ids show the kernel for rows of different lengths, one picture what recordings (CUDA
graphs) save. The last lines are the shares. `--device cpu --sizes small --batch 2` tries the script where no GPU is.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from encode import inputs, preset_model, worst_cosine
from train_step import Step, setting

from encoders.modality import Modality
from onepeace.bench.measure import interleaved, machine_facts, product_flops, synchronise
from onepeace.bench.products import products_alone
from onepeace.inference import EncodingModel
from onepeace.training.pretraining import MaskedView

SIDE = 8192  # of the square matrices whose product is the limit


def peak_bytes() -> int:
    """Return the most memory of the GPU since the last call, 0 without one."""
    if not torch.cuda.is_available():
        return 0
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return peak


def limit(device: torch.device, side: int, rounds: int) -> float:
    """Return the operations a second of a product of large bfloat16 matrices."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = interleaved({"product": lambda: a @ b}, rounds, warm_up=3)["product"]
    return 2 * side**3 / seconds


def encoding(size: str, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Measure pictures in batches and alone, texts of different lengths, memory, and agreement with the plain model."""
    facts: dict[str, Any] = {}
    with torch.device(device):
        model = preset_model(Modality.IMAGE, size)
    encoder = EncodingModel(model, torch.bfloat16)
    (few,) = inputs(Modality.IMAGE, 4)
    expected = model.embed(Modality.IMAGE, few.to(device))
    facts["cosine to float32 here"] = worst_cosine(expected, encoder.embed(Modality.IMAGE, few.to(device)))
    if size != "4b":
        facts["cosine to float32 on the CPU"] = worst_cosine(
            model.cpu().embed(Modality.IMAGE, few), encoder.embed(Modality.IMAGE, few.to(device)).cpu()
        )
    del model
    peak_bytes()
    tensors = tuple(tensor.to(device) for tensor in inputs(Modality.IMAGE, batch))
    runs: dict[str, Callable[[], object]] = {"pictures": lambda: encoder.embed(Modality.IMAGE, *tensors)}
    runs["products alone"] = products_alone(encoder, Modality.IMAGE, tensors)
    seconds = interleaved(runs, rounds, warm_up=3)
    facts |= {"peak bytes": peak_bytes(), "flops": product_flops(runs["pictures"]), "seconds": seconds}
    alone = tuple(tensor[:1] for tensor in tensors)
    recorded, encoder._recorded = encoder._recorded, None
    single: dict[str, Callable[[], object]] = {"as they are": lambda: encoder.embed(Modality.IMAGE, *alone)}
    facts["one picture"] = interleaved(single, rounds, warm_up=3)
    encoder._recorded = recorded
    facts["one picture"] |= interleaved({"recorded": single["as they are"]}, rounds, warm_up=3)
    with torch.device(device):
        texts = EncodingModel(preset_model(Modality.TEXT, size), torch.bfloat16)
    ids = tuple(tensor.to(device) for tensor in inputs(Modality.TEXT, batch, ids=64))
    facts["texts"] = interleaved({"of many lengths": lambda: texts.embed(Modality.TEXT, *ids)}, rounds, warm_up=3)
    peak = f"peak {facts['peak bytes'] / 2**30:.1f} GiB"
    print(f"\n{size}: {batch / seconds['pictures']:.1f} pictures/s, batch {batch}, {peak}")
    print("  one picture, ms: " + ", ".join(f"{k} {1000 * v:.2f}" for k, v in facts["one picture"].items()))
    print(f"  texts of 4 to 64 ids: {batch / facts['texts']['of many lengths']:.0f} a second")
    for name in [name for name in facts if name.startswith("cosine")]:
        print(f"  {name}: {facts[name]:.5f}")
    return facts


def training(size: str, batch: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Measure a step of stage 1."""
    with torch.enable_grad():
        model, decoder, (ids_BL, pixels_BCHW, views) = setting(batch, size)
        views = {name: MaskedView(view.places.to(device), view.masked.to(device)) for name, view in views.items()}
        step = Step(False, model.to(device), decoder.to(device), (ids_BL.to(device), pixels_BCHW.to(device), views))
        flops = product_flops(step)
        peak_bytes()
        for _ in range(2):
            step()
        times = []
        for _ in range(rounds):
            synchronise()
            start = time.perf_counter()
            step()
            synchronise()
            times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    peak = peak_bytes()
    print(f"\n{size}, a training step of batch {batch}: {batch / seconds:.1f} samples/s, peak {peak / 2**30:.1f} GiB")
    return {"seconds": seconds, "flops": flops, "peak bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["base", "4b"])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "there is no GPU here, so nothing was measured\n")
    device = torch.device(arguments.device)
    facts: dict[str, Any] = {"machine": machine_facts()}
    print(*(f"{name}: {value}" for name, value in facts["machine"].items()), sep="\n")
    most = facts["limit"] = limit(device, SIDE if device.type == "cuda" else 1024, arguments.rounds)
    print(f"a product of bfloat16 matrices: {most / 1e12:.1f} TFLOP/s")
    with torch.inference_mode():
        for size in arguments.sizes:
            facts[size] = encoding(size, arguments.batch, arguments.rounds, device)
    smallest = arguments.sizes[0]
    facts["training"] = training(smallest, arguments.batch, arguments.rounds, device)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")
    shares = {
        f"{size}, pictures": facts[size]["flops"] / facts[size]["seconds"]["pictures"] for size in arguments.sizes
    }
    shares[f"{smallest}, a training step"] = facts["training"]["flops"] / facts["training"]["seconds"]
    for name, rate in shares.items():
        print(f"share of the limit, {name}: {100 * rate / most:.0f} %")


if __name__ == "__main__":
    main()
