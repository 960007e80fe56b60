"""Peak memory and time of `onepeace embed` on a folder of mixed files, against the same files four times over.

Writes 500 and 2,000 files (pictures of 640 x 480, sounds of 1 to 20 s, texts) and embeds each folder in a process of
its own. Memory that is bounded does not grow with the number of files: the ratio is near 1.
Run: python benchmarks/embed_memory.py
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import soundfile

SIZES = (500, 2_000)


def write_files(folder: Path, count: int) -> None:
    """Write pictures (60 %), sounds (20 %) and texts (20 %)."""
    rng = np.random.default_rng(0)
    for i in range(count):
        if i % 5 < 3:
            small = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
            PIL.Image.fromarray(small).resize((640, 480)).save(folder / f"{i}.jpg")
        elif i % 5 == 3:
            samples = rng.normal(size=16_000 * int(rng.integers(1, 21))) * 0.1
            soundfile.write(folder / f"{i}.flac", samples.astype(np.float32), 16_000)
        else:
            (folder / f"{i}.txt").write_text(f"picture number {i} of a street at night\n")


def main() -> None:
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        for size in SIZES:
            folder = Path(name) / str(size)
            folder.mkdir()
            write_files(folder, size)
            start = time.perf_counter()
            command = [sys.executable, "-m", "retrieval", "embed", str(folder), "--out", str(folder) + ".parquet"]
            subprocess.run(command, check=True)
            # The largest child so far: sizes rise, so this is the one that just ended.
            peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20)
            print(f"{size} files: {time.perf_counter() - start:.1f} s, peak {peaks[-1]:.2f} GiB")
    print(f"ratio of peaks, {SIZES[1]} files / {SIZES[0]} files: {peaks[1] / peaks[0]:.2f}")


if __name__ == "__main__":
    main()
