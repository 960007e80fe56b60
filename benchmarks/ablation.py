"""What each part of the recipe is worth: two stages of configs/plans/tiny.yaml and variants, measured on val.

    python benchmarks/ablation.py [--steps 75] [--sound-steps 150] [--only NAME] [--out runs/ablation]

The stages are the first and the one for sounds, as short for all; those from random weights take twice the steps with a
quarter of the rows. Each variant is a plan in its own folder, so that a
run that was stopped goes on. Prints a Markdown table of the last validation: Flickr8k val, 512 pictures, and ESC-10
val and spoken digits val for what hears.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from onepeace.training.cli import main as train
from onepeace.training.stages import LOG, read_plan

ROOT = Path(__file__).resolve().parents[1]
FIGURES = {
    "flickr8k/text_to_image_r1": "text to picture",
    "flickr8k/image_to_text_r1": "picture to text",
    "esc10/audio_to_text_r1": "ESC-10",
    "fsdd/audio_to_text_r1": "digits",
}
PLAIN: dict[str, Any] = {  # no pretrained part, pictures of 7 x 7 patches as the backbone's map is
    "width": 384,
    "layers": 4,
    "heads": 6,
    "hidden": 768,
    "embedding_dim": 512,
    "layer_scale": 0.1,
    "drop_path": 0.1,
    "adapters": {
        "text": {
            "kind": "tokens",
            "vocabulary_size": 30522,
            "positions": 64,
            "bucket_size": 32,
            "preprocess": {
                "max_tokens": 62,
                "lower": False,
                "prefix": "",
                "normalise": "none",
                "end_ids": [102],
                "pad_id": 0,
                "unknown_id": 100,
                "vocabulary_size": 30522,
            },
        },
        "image": {"kind": "hmlp", "position_grid": 7, "bias_grid": 7, "preprocess": {"size": 112}},
    },
}

Change = Callable[[dict[str, Any], dict[str, Any]], None]


def as_it_is(plan: dict[str, Any], model: dict[str, Any]) -> None:
    """Change nothing."""


def undistilled(plan: dict[str, Any], model: dict[str, Any]) -> None:
    """Leave all teachers out."""
    for stage in plan["stages"]:
        stage["model"].pop("distillations", None)


def frozen(plan: dict[str, Any], model: dict[str, Any]) -> None:
    """Keep the picture backbone and the text backbone as they came."""
    model["adapters"]["image"]["tuned_blocks"] = 0
    stage = plan["stages"][0]
    stage["trainable"] = [r"^(?!adapters\.\w+\.backbone)"]
    stage["model"]["optimizer"].pop("lr_scale")


def plain(plan: dict[str, Any], model: dict[str, Any]) -> None:
    """Official adapters with random weights, and the denoising loss; pictures and text only."""
    undenoised(plan, model)
    plan["stages"][0]["loss"]["denoising"] = {}
    plan["stages"][0]["loss"]["decoder"] = {"width": 192, "layers": 1, "heads": 3, "hidden": 384}


def undenoised(plan: dict[str, Any], model: dict[str, Any]) -> None:
    """Official adapters with random weights; pictures and text only."""
    model.clear()
    model.update(deepcopy(PLAIN))
    plan["stages"] = plan["stages"][:1]
    plan["base"]["model"]["pretrained"] = {}
    plan["base"]["model"]["tokenizer"] = str(ROOT / "onepeace/weights/onepeace-tiny/tokenizer.json")
    stage = plan["stages"][0]
    # The denoising loss compares all tokens of a batch: a quarter of the rows takes a sixteenth of the memory.
    stage["data"]["streams"][0]["batch_size"] //= 4
    stage["loss"] = {"contrastive": 1.0}
    stage["data"]["augment"].pop("size")
    stage["model"].pop("distillations", None)
    stage["model"]["optimizer"].pop("lr_scale")


def in_one_stage(plan: dict[str, Any], model: dict[str, Any]) -> None:
    """Pictures and sounds together, in one stage."""
    pictures, sounds = plan["stages"]
    stream = sounds["data"]["streams"][0]
    stream["train_text"] = True
    stream["batch_size"] = 64
    pictures["data"]["streams"].append(stream)
    pictures["data"]["evaluations"] += sounds["data"]["evaluations"]
    pictures["model"].setdefault("distillations", []).extend(sounds["model"].get("distillations", []))
    plan["stages"] = [pictures]


VARIANTS: dict[str, Change] = {
    "recipe": as_it_is,
    "no-distillation": undistilled,
    "frozen-backbones": frozen,
    "one-stage": in_one_stage,
    "plain-adapters": plain,
    "plain-adapters-no-denoising": undenoised,
}


def write_variant(name: str, out: Path, steps: int, sound_steps: int) -> Path:
    """Write a variant's plan and model, and return the plan's path."""
    plan = yaml.safe_load((ROOT / "configs/plans/tiny.yaml").read_text(encoding="utf-8"))
    model = yaml.safe_load((ROOT / "configs/model/tiny.yaml").read_text(encoding="utf-8"))
    plan["stages"] = [plan["stages"][0], plan["stages"][-1]]
    plan["stages"][1].pop("start_from")  # stages that are left out
    VARIANTS[name](plan, model)
    for stage, count in zip(plan["stages"], (steps, sound_steps), strict=False):
        stage["steps"] = 2 * count if name.startswith("plain") else count
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.yaml").write_text(yaml.safe_dump(model), encoding="utf-8")
    plan["out"] = str(folder)
    plan["base"]["model"]["model"] = str(folder / "model.yaml")
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return path


def last_figures(path: Path) -> dict[str, float]:
    """Return the last value of each figure that the stages of a plan logged."""
    plan = read_plan(path)
    figures: dict[str, float] = {}
    for number in range(len(plan.stages)):
        logs = plan.folder(number).glob(f"{LOG}/version_*/metrics.csv")
        for log in sorted(logs, key=lambda log: int(log.parent.name.split("_")[1])):
            with open(log, newline="", encoding="utf-8") as stream:
                for row in csv.DictReader(stream):
                    figures |= {name: float(row[name]) for name in FIGURES if row.get(name)}
    return figures


def main() -> None:
    """Train the variants and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=75)
    parser.add_argument("--sound-steps", type=int, default=150)
    parser.add_argument("--only", choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    arguments = parser.parse_args()
    lines = ["| variant | " + " | ".join(FIGURES.values()) + " |", "| --- " * (len(FIGURES) + 1) + "|"]
    for name in [arguments.only] if arguments.only else VARIANTS:
        path = write_variant(name, arguments.out, arguments.steps, arguments.sound_steps)
        train(["plan", str(path)])
        found = last_figures(path)
        cells = [f"{found[figure]:.1f}" if figure in found else "-" for figure in FIGURES]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
