"""Zero-shot accuracy among the classes that the first stages of configs/plans/tiny.yaml leave out of all training data.

    python benchmarks/open_vocabulary.py MODEL_FOLDER [--splits test] [--data ../shared/data]

MODEL_FOLDER is an export of the checkpoint of the stage `views`. Before it measures it reads the plan, and stops if a
row of one of these classes trains up to that stage. Prints one line a source.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onepeace
from encoders.modality import Modality
from onepeace.evaluate import evaluate
from onepeace.manifest import read_manifest
from onepeace.training.rows import SourceConfig, load_rows
from onepeace.training.stages import read_plan

SOURCES = ("caltech101", "tinyimagenet")
PLAN = Path(__file__).resolve().parents[1] / "configs" / "plans" / "tiny.yaml"
STAGES = 2  # that leave classes out


def held_out(data: Path, source: str) -> list[str]:
    """Return every fifth class of a source, in alphabetical order."""
    rows = read_manifest(data / "manifest-train.parquet")
    return sorted({row["label"] for row in rows if row["source"] == source})[2::5]


def check(data: Path, classes: set[str]) -> None:
    """Stop if a row of one of the classes trains."""
    stages = read_plan(PLAN).stages[:STAGES]
    for source in (source for stage in stages for source in stage.data["streams"][0]["sources"]):
        config = SourceConfig(source=source["source"], exclude=source.get("exclude", {}))
        labels = {row.label for row in load_rows(config, Modality.IMAGE, data / "manifest-train.parquet")}
        if shared := {label.casefold() for label in labels} & classes:
            raise SystemExit(f"{config.name} trains on {', '.join(sorted(shared))}")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--splits", default="test", help="train,val,test: none of these rows was trained on")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    arguments = parser.parse_args()
    left_out = {source: held_out(arguments.data, source) for source in SOURCES}
    check(arguments.data, {name.casefold() for names in left_out.values() for name in names})
    model = onepeace.load(arguments.model)
    manifests = [arguments.data / f"manifest-{split}.parquet" for split in arguments.splits.split(",")]
    for source, names in left_out.items():
        for found in evaluate(model, manifests, {"source": [source], "label": names}):
            print(
                f"{source}: {found.value:.1f} % [{found.low:.1f}, {found.high:.1f}] of {found.queries} pictures "
                f"among {found.candidates} classes that never trained"
            )


if __name__ == "__main__":
    main()
