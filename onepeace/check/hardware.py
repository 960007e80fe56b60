"""What computes: processor, threads, kernels, GPU."""

from __future__ import annotations

import contextlib
import os
from importlib.util import find_spec
from pathlib import Path

from onepeace.check.finding import Finding, Outcome

CGROUP = Path("/sys/fs/cgroup")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
AGREEMENT = 1e-3  # relative; of a float32 product on a GPU with the same on the CPU


def processor() -> Finding:
    """Name the processor, the instructions that torch uses of it, and the type that suits it."""
    import torch

    from onepeace.bench.measure import machine_facts
    from onepeace.inference import best_dtype

    facts = machine_facts()
    native = str(best_dtype(torch.device("cpu"))).removeprefix("torch.")
    told = f"{facts['processor']}, {facts['instructions']}, computes in {native}"
    if torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "NO AVX"):
        forced = os.environ.get("ATEN_CPU_CAPABILITY")
        advice = "unset ATEN_CPU_CAPABILITY" if forced else "use a processor with AVX2 or newer"
        return Finding(Outcome.SLOW, f"{told}, without vector instructions", advice)
    return Finding(Outcome.OK, told)


def threads() -> Finding:
    """Compare torch's threads with the cores that this process may use."""
    import torch

    running, cores, limit = torch.get_num_threads(), usable_cores(), cgroup_cores()
    usable = cores if limit is None else max(1, min(cores, round(limit)))
    told = f"{running} for {cores} cores" + (f", of which the control group allows {limit:g}" if limit else "")
    variable = next((name for name in VARIABLES if os.environ.get(name)), None)
    if running > 2 * usable:
        advice = f"set OMP_NUM_THREADS={usable}: threads wait for each other"
    elif variable and 2 * running <= usable:
        advice = f"unset {variable}, or set it to {usable}"
    else:
        return Finding(Outcome.OK, told)
    return Finding(Outcome.SLOW, told, advice)


def usable_cores() -> int:
    """Return how many processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cores(root: Path = CGROUP) -> float | None:
    """Return the cores' worth of time that a container is limited to; None without a limit.

    Version 2 writes "QUOTA PERIOD" or "max PERIOD" into cpu.max, version 1 the two into files of their own, with -1 for
    no limit; microseconds.
    """
    with contextlib.suppress(OSError, ValueError):
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        limits = [
            int((root / "cpu" / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        ]
        return None if limits[0] < 0 else limits[0] / limits[1]
    return None


def kernels() -> Finding:
    """Look for what makes torch much slower than its official builds."""
    import torch

    if torch.version.debug:
        return Finding(Outcome.SLOW, "torch is a debug build", "install torch from PyPI")
    missing = [
        name
        for name, backend in (("oneDNN", torch.backends.mkldnn), ("OpenMP", torch.backends.openmp))
        if not backend.is_available()
    ]
    if missing:
        return Finding(Outcome.SLOW, f"torch was built without {' and '.join(missing)}", "install torch from PyPI")
    return Finding(Outcome.OK, "oneDNN, OpenMP, an optimised build")


def gpu() -> Finding:
    """Look for a GPU, and compare a product on it with the CPU's."""
    import torch

    if not torch.cuda.is_available():
        if not NVIDIA_DRIVER.exists() or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            return Finding(Outcome.OK, "none in use: the CPU computes")
        if torch.version.cuda is None:
            return Finding(Outcome.SLOW, "there is one, but torch is a build for CPUs", "install torch from PyPI")
        advice = f"update the driver to one for CUDA {torch.version.cuda}"
        return Finding(Outcome.SLOW, "there is a driver, but torch finds no GPU", advice)
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    left, right = (torch.randn(256, 256, generator=torch.Generator().manual_seed(i)) for i in range(2))
    product = left @ right
    off = ((left.cuda() @ right.cuda()).cpu() - product).abs().max() / product.abs().max()
    if not off < AGREEMENT:
        told = f"{names[0]}: a product differs by {off:.1e} from the CPU's"
        return Finding(Outcome.FAILED, told, "update the driver, or compute with --device cpu")
    bfloat16 = "" if torch.cuda.is_bf16_supported(including_emulation=False) else ", without bfloat16"
    flash = "with" if find_spec("flash_attn") else "without"
    memory = torch.cuda.get_device_properties(0).total_memory / 2**30
    return Finding(Outcome.OK, f"{', '.join(names)}, {memory:.0f} GiB{bfloat16}, {flash} flash-attn")
