"""How much a model encodes in a second, files opened and all, beside what such hardware does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from onepeace.check.finding import Finding, Outcome
from onepeace.check.hardware import usable_cores
from onepeace.check.samples import Samples

if TYPE_CHECKING:
    from onepeace.embedder import Embedder

BATCHES = {"text": 64, "image": 24, "audio": 12}
SECONDS = 1.0  # to measure for
EXPECTED_OF = "onepeace-tiny"
# Inputs a second of a core's time: a few words, gallery pictures, sounds of up to 5 s, whole batches. `bfloat16` was
# measured on a processor with AMX, the others on the same one with its newer instructions forbidden.
EXPECTED: dict[str, dict[str, tuple[float, float]]] = {
    "bfloat16": {"text": (250, 750), "image": (22, 66), "audio": (23, 70)},
    "AVX": {"text": (95, 530), "image": (10, 42), "audio": (16, 60)},
    "no AVX": {"text": (20, 190), "image": (2, 20), "audio": (3, 30)},
}
ABSURD = 5  # times slower than the lower end; less may be a busy machine


def measure(model: Embedder, samples: Samples, modality: str) -> Finding:
    """Encode samples of a modality for a second."""
    import torch

    values = samples.of(modality)
    batch = (values * BATCHES[modality])[: BATCHES[modality]]
    model.encode(batch)  # memory, kernels and caches are made
    done, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < SECONDS:
        model.encode(batch)
        done += len(batch)
    rate = done / spent
    told = f"{rate:,.0f} a second"
    if model.model.device.type != "cpu" or model.name != EXPECTED_OF:
        return Finding(Outcome.OK, f"{told} (no figures to compare it with)")
    kind = kind_of_processor()
    low, high = (value * min(usable_cores(), 4) for value in EXPECTED[kind][modality])
    told = f"{told}; {low:,.0f} to {high:,.0f} are usual on {min(usable_cores(), 4)} cores with {kind}"
    if rate < low / ABSURD:
        return Finding(Outcome.SLOW, told, likely_cause(torch.get_num_threads()))
    return Finding(Outcome.OK, told)


def kind_of_processor() -> str:
    """Return the kind that figures are kept for."""
    import torch

    from onepeace.inference import best_dtype

    if best_dtype(torch.device("cpu")) is torch.bfloat16:
        return "bfloat16"
    return "AVX" if torch.backends.cpu.get_cpu_capability().startswith("AVX") else "no AVX"


def likely_cause(threads: int) -> str:
    """Say what most often makes a model as slow as that."""
    import torch

    if torch.version.debug:
        return "install torch from PyPI: this is a debug build"
    if threads == 1 < usable_cores():
        return "unset OMP_NUM_THREADS: torch computes with one thread"
    if threads > 2 * usable_cores():
        return f"set OMP_NUM_THREADS={usable_cores()}: more threads than cores wait for each other"
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > 1.5 * usable_cores():
        return "check it again when other programs leave the processor alone"
    return "look for a limit of the processor's time: a container, a virtual machine, a laptop that saves power"
