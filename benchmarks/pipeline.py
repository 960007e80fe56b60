"""From a folder of photographs to a table of vectors, beside the rate of the model alone.

    python benchmarks/pipeline.py [--pictures 1000] [--photographs FOLDER] [--json FILE]

Writes JPEGs of 2 megapixels, mosaics of real photographs (by default those of the gallery), and embeds the folder as
`onepeace embed` does: with the base preset (random weights), where at least 85 % of the time should go into the model,
and with onepeace-tiny. The model alone runs on pictures that are ready, in the same batches, before and after.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import onepeace
from encoders.modality import Modality
from onepeace.bench.measure import machine_facts
from onepeace.checkpoint import write_folder
from onepeace.memory import keep_freed_memory
from onepeace.model import ModelConfig, OnePeace
from retrieval.gallery import GALLERY
from retrieval.table import embed_files

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1632, 1224  # 2 megapixels
TILE = (408, 306)


def write_photographs(folder: Path, count: int, source: Path) -> None:
    """Write mosaics of 4 x 4 real pictures each."""
    files = [path for path in sorted(source.rglob("*")) if path.suffix in {".jpg", ".jpeg", ".png", ".webp"}]
    tiles = [PIL.Image.open(path).convert("RGB").resize(TILE) for path in files[:200]]
    rng = np.random.default_rng(0)
    for i in range(count):
        mosaic = PIL.Image.new("RGB", (WIDTH, HEIGHT))
        for place, tile in enumerate(rng.choice(len(tiles), 16)):
            mosaic.paste(tiles[tile], (place % 4 * TILE[0], place // 4 * TILE[1]))
        mosaic.save(folder / f"{i:05}.jpg", quality=90)


def base_folder(folder: Path) -> Path:
    """Write the base preset with random weights, its picture tower alone."""
    torch.manual_seed(0)
    config = yaml.safe_load((ROOT / "configs/model/base.yaml").read_text(encoding="utf-8"))
    config["adapters"] = {"image": config["adapters"]["image"]}
    made = ModelConfig.from_dict(config)
    write_folder(folder, "base", made, OnePeace(made).state_dict(), Tokenizer(WordLevel({})), "# Random weights\n")
    return folder


def model_rate(model: onepeace.Embedder, photographs: list[Path], batch: int, rounds: int) -> float:
    """Return pictures a second of the model alone."""
    preprocessor: Any = model.model.config.adapters[Modality.IMAGE].preprocessor(None)
    (pixels,) = preprocessor.collate([preprocessor(path) for path in photographs[:batch]])
    seconds = []
    with torch.inference_mode():
        for _ in range(rounds + 2):
            start = time.perf_counter()
            model.model.embed(Modality.IMAGE, pixels)
            seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--photographs", type=Path, default=GALLERY)
    parser.add_argument("--only", choices=["base", "tiny"])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the command does
    facts: dict[str, Any] = {"machine": machine_facts()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photographs"
        folder.mkdir()
        write_photographs(folder, arguments.pictures, arguments.photographs)
        photographs = sorted(folder.iterdir())
        for kind in [arguments.only] if arguments.only else ["base", "tiny"]:
            model = onepeace.load(base_folder(Path(name) / "model") if kind == "base" else "onepeace-tiny")
            batch = 4  # what `Embedder` gives a CPU at a time
            before = model_rate(model, photographs, batch, 15)
            start = time.perf_counter()
            report = embed_files([folder], Path(name) / f"{kind}.parquet", model)
            whole = arguments.pictures / (time.perf_counter() - start)
            after = model_rate(model, photographs, batch, 15)
            assert report.added == arguments.pictures, report
            alone = (before + after) / 2
            facts[kind] = {"folder": whole, "alone_before": before, "alone_after": after}
            print(f"{kind}: {whole:.1f} pictures/s from the folder, {before:.1f} and {after:.1f} in the model alone")
            print(f"ratio folder / model alone, {kind}: {whole / alone:.2f}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
