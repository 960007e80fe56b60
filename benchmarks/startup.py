"""How long until a user can start: `import onepeace`, loading onepeace-tiny, a first vector; each in fresh processes.

The yardstick is a process that only imports torch, timed in turn with ours on the same machine.
Run: python benchmarks/startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python": "pass",
    "import torch": "import torch",
    "import onepeace": "import onepeace",
    "import onepeace and the embedder": "import onepeace; onepeace.Embedder",
    "a first vector": "import onepeace; onepeace.load().encode('a dog')",
}
LOAD = """
import onepeace, time
onepeace.Embedder
start = time.perf_counter()
onepeace.load()
print(time.perf_counter() - start)
"""


def run(code: str) -> tuple[float, str]:
    """Return wall seconds and output of a fresh interpreter."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    loads: list[float] = []
    for _ in range(runs):
        for name, code in COMMANDS.items():
            seconds[name].append(run(code)[0])
        loads.append(float(run(LOAD)[1]))
    for name, values in {**seconds, "onepeace.load() itself": loads}.items():
        print(f"{name:34} median {statistics.median(values):.2f} s, min {min(values):.2f}, max {max(values):.2f}")
    ratio = statistics.median(seconds["import onepeace"]) / statistics.median(seconds["import torch"])
    print(f"ratio import onepeace / import torch: {ratio:.2f}")


if __name__ == "__main__":
    main()
