"""Timing side by side: candidates take turns, so that a noisy machine is noisy for all; medians count."""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from onepeace.progress import progress_bar

Candidates = Mapping[str, Callable[[], object]]


def interleaved(candidates: Candidates, rounds: int, *, warm_up: int = 1, progress: bool = False) -> dict[str, float]:
    """Return the median seconds of each candidate over `rounds` rounds, each of which runs all of them once."""
    for run in candidates.values():
        for _ in range(warm_up):
            run()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    with progress_bar(rounds * len(candidates), show=progress) as advance:
        for _ in range(rounds):
            for name, run in candidates.items():
                synchronise()
                start = time.perf_counter()
                run()
                synchronise()
                seconds[name].append(time.perf_counter() - start)
                advance(1)
    return {name: statistics.median(values) for name, values in seconds.items()}


def synchronise() -> None:
    """Wait for a GPU, if there is one in use."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def product_flops(run: Callable[[], object]) -> int:
    """Return the floating-point operations of all matrix products, attention and convolutions of a run."""

    def packed(x: Sequence[int], *rest: Any, out_shape: Sequence[int], **options: Any) -> int:
        return 2 * x[-1] * _size(out_shape)

    def flash(query: Sequence[int], key: Sequence[int], value: Sequence[int], *rest: Any, **options: Any) -> int:
        return 2 * _size(query) * key[-2] + 2 * _size(query[:-1]) * key[-2] * value[-1]

    mapping: dict[Any, Any] = {
        torch.ops.mkldnn._linear_pointwise: packed,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: flash,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def _size(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def machine_facts() -> dict[str, str | int]:
    """Return what a figure depends on."""
    facts: dict[str, str | int] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count() or 0,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "instructions": torch.backends.cpu.get_cpu_capability()
        + (" with bfloat16" if torch.cpu._is_avx512_bf16_supported() else "")
        + (" with AMX" if torch.cpu._is_amx_tile_supported() else ""),
    }
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


class PeakMemory:
    """The most memory that the process held inside a `with`, in bytes; Linux only, elsewhere 0."""

    def __enter__(self) -> PeakMemory:
        """Forget earlier peaks."""
        self.bytes = 0
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return self

    def __exit__(self, *error: object) -> None:
        """Read the peak."""
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii")
        except OSError:
            return
        for line in status.splitlines():
            if line.startswith("VmHWM"):
                self.bytes = int(line.split()[1]) * 1024
