"""What the base installation and each extra cost: bytes on the disk, packages, and the time until a user can start.

Each is installed into an environment of its own (hard links into uv's cache: seconds), then they take turns: wall time
of fresh processes, medians. An extra that made `import onepeace` slower would show.
Run: python benchmarks/extras.py [--runs 5] [--extras m4a,service]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"dev", "flash-attn"}  # for working on onepeace; compiled with the CUDA toolkit
BASE = "base"
COMMANDS = {
    "import onepeace": ["python", "-c", "import onepeace"],
    "onepeace --help": ["onepeace", "--help"],
    "onepeace.load()": ["python", "-c", "import onepeace; onepeace.load()"],
}


def install(folder: Path, extra: str, wheel: Path) -> Path:
    """Make an environment with an extra; return where its programs lie."""
    venv.create(folder, symlinks=True)
    uv = [
        str(Path(sys.executable).with_name("uv")),
        "pip",
        "install",
        "--quiet",
        "--python",
        str(folder / "bin/python"),
    ]
    wanted = f"onepeace{'' if extra == BASE else f'[{extra}]'} @ {wheel.as_uri()}"
    subprocess.run([*uv, "--constraint", str(ROOT / "constraints.txt"), wanted], check=True)
    return folder / "bin"


def weight(folder: Path) -> tuple[int, int]:
    """Return bytes and packages below an environment."""
    size = sum(
        os.lstat(os.path.join(parent, name)).st_size for parent, _, names in os.walk(folder / "lib") for name in names
    )
    return size, len(list(folder.glob("lib/python*/site-packages/*.dist-info")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="0: sizes alone")
    parser.add_argument("--extras", help="with commas between them; all by default")
    arguments = parser.parse_args()
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extras = arguments.extras.split(",") if arguments.extras else [name for name in known if name not in LEFT_OUT]
    seconds: dict[tuple[str, str], list[float]] = {}
    weights: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as made:
        build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", made, str(ROOT)]
        subprocess.run(build, check=True, capture_output=True)
        (wheel,) = Path(made).glob("*.whl")
        places = {extra: install(Path(made, extra), extra, wheel) for extra in [BASE, *extras]}
        for turn in range(
            arguments.runs + 1 if arguments.runs else 0
        ):  # the first writes byte code, and does not count
            for extra, place in places.items():
                for name, (program, *rest) in COMMANDS.items():
                    start = time.perf_counter()
                    subprocess.run([place / program, *rest], check=True, capture_output=True, cwd=made)
                    if turn:
                        seconds.setdefault((extra, name), []).append(time.perf_counter() - start)
        weights = {extra: weight(place.parent) for extra, place in places.items()}
    timed = list(COMMANDS) if arguments.runs else []
    print(f"| | on the disk | packages |{''.join(f' {name} |' for name in timed)}\n|{' --- |' * (3 + len(timed))}")
    for extra, (size, count) in weights.items():
        base, sign = ((0, 0), "") if extra == BASE else (weights[BASE], "+")
        times = "".join(f" {statistics.median(seconds[extra, name]):.2f} s |" for name in timed)
        print(f"| {extra} | {sign}{(size - base[0]) / 1e6:,.0f} MB | {sign}{count - base[1]} |{times}")
    if extras and timed:
        worst = max(
            statistics.median(seconds[extra, name]) / statistics.median(seconds[BASE, name])
            for extra in extras
            for name in COMMANDS
        )
        print(f"ratio of the slowest start with an extra to that without: {worst:.2f}")


if __name__ == "__main__":
    main()
