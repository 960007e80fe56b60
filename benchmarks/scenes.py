"""How well models trained on drawn scenes answer about combinations that they were never trained on.

    onepeace scenes scenes --rows 24000
    python benchmarks/scenes.py scenes detect=scenes-detect vqa=scenes-vqa --pictures drawn

Each model, a folder that `onepeace export` wrote, answers the test rows of its task. Beside the figure stand what a
grey picture in place of each picture gives, or silence in place of each sound, and what needs no picture at all: the
mean box of training, or the most frequent answer. From which presence on something is there is chosen on the val rows:
the one with the best F1. The likeliest span is that of rows
whose noise is heard. `--pictures` draws some answers
beside the truth.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from encoders.modality import Modality
from onepeace.checkpoint import open_folder
from onepeace.evaluate.rows import Medium
from onepeace.manifest import Shards
from onepeace.metrics import box_accuracy
from onepeace.model.set_head import NEVER, found
from onepeace.model.task_head import SEARCHED
from onepeace.model.task_model import TaskModel
from onepeace.reader import InputReader
from onepeace.scenes import TASKS
from onepeace.set_metrics import absence, f1_at_overlap, spans_within
from onepeace.training.questions import Question, Wanted, read_questions
from onepeace.training.task_inputs import TokenSet, kept_sequence

LIKELY = np.geomspace(0.0002, 0.7, 30)  # presences, from one of which on something is there
BATCH = 64
GREEN, ORANGE = (0, 160, 60), (255, 120, 0)


@dataclass
class Answers:
    """What a model says to the rows of a task, and what is right."""

    questions: list[Question]
    said: list[Any]  # of each row: label, number of the choice, box, boxes or spans
    right: list[Any]
    likeliest: list[Any] | None = None  # the one place, where they are searched for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", type=Path, help="the folder of `onepeace scenes`")
    parser.add_argument("models", nargs="+", help=f"TASK=FOLDER, for any of {', '.join(TASKS)}")
    parser.add_argument("--split", default="test", choices=["val", "test"])
    parser.add_argument("--cache", type=Path, default=Path("runs/scenes/tokens"), help="keeps tokens of adapters")
    parser.add_argument("--pictures", type=Path, help="draw some answers into this folder")
    asked = parser.parse_args()
    print("| task | rows | figure | held out | without the medium | needing neither |")
    print("| --- | --- | --- | --- | --- | --- |")
    for model in asked.models:
        task, _, folder = model.partition("=")
        if task not in TASKS:
            raise SystemExit(f"there is no task {task}: name one of {', '.join(TASKS)}")
        measure(task, Path(folder), asked.scenes, asked.split, asked.cache, asked.pictures)


def measure(task: str, folder: Path, scenes: Path, split: str, cache: Path, pictures: Path | None) -> None:
    model = open_folder(folder).task_model().eval()
    reader = InputReader(replace(open_folder(folder), config=model.config))
    wanted = Wanted(model.task.kind, model.task.modalities, model.task.pictures)
    questions = read_questions([scenes / f"{task}-{split}.parquet"], {}, wanted, task)
    training = read_questions([scenes / f"{task}-train.parquet"], {}, wanted, task)
    likely = 0.5
    if task != "ground" and model.task.kind in SEARCHED:
        held = read_questions([scenes / f"{task}-val.parquet"], {}, wanted, task)
        likely = best_presence(model, reader, held, cache)
        print(f"{task}: there is something from a presence of {likely:.4f} on", file=sys.stderr)
    answers = answered(task, model, reader, questions, cache, likely)
    with tempfile.TemporaryDirectory() as nothing:
        blank = answered(task, model, reader, blanked(questions, Path(nothing)), Path(nothing) / "cache", likely)
    kind = "ground" if task == "ground" else model.task.kind
    bare = constant(kind, answers, training)
    figures, without, neither = (figures_of(kind, each) for each in (answers, blank, bare))
    for name, figure in figures.items():
        print(f"| {task} | {len(questions)} | {name} | {figure:.1f} | {without[name]:.1f} | {neither[name]:.1f} |")
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        draw(task, answers, scenes, pictures / f"scenes-{task}.png")


def best_presence(model: TaskModel, reader: InputReader, questions: list[Question], cache: Path) -> float:
    """Return the presence from which on something is there: the best on these rows."""
    logits_B, asked = logits_of(model, reader, questions, cache)
    return max(LIKELY, key=lambda q: figures_of(model.task.kind, searched(model, logits_B, asked, q))["F1 at IoU 0.5"])


def searched(model: TaskModel, logits_B: Tensor, asked: list[Question], likely: float) -> Answers:
    """Return the boxes or spans that are likely enough."""
    places_BQC, probabilities_BQ = found(logits_B)
    whole = 1.0 if model.task.kind == "detect" else model.window_seconds
    there = [(whole * p[q > likely]).numpy() for p, q in zip(places_BQC, probabilities_BQ, strict=True)]
    best_B = probabilities_BQ.argmax(1)
    likeliest = list((whole * places_BQC[torch.arange(len(best_B)), best_B]).numpy())
    return Answers(asked, there, [q.boxes if model.task.kind == "detect" else q.spans for q in asked], likeliest)


def answered(
    task: str, model: TaskModel, reader: InputReader, questions: list[Question], cache: Path, likely: float
) -> Answers:
    """Return a model's answers."""
    logits_B, asked = logits_of(model, reader, questions, cache)
    kind, labels = model.task.kind, model.task.labels
    if kind == "classify":
        return Answers(asked, [labels[i] for i in logits_B.argmax(1)], [next(iter(q.answers)) for q in asked])
    if kind == "choose":
        return Answers(asked, logits_B.argmax(1).tolist(), [q.right for q in asked])
    if kind == "ground":
        return Answers(asked, list(logits_B.sigmoid().numpy()), [q.box for q in asked])
    if task == "ground":  # there is one thing to find: the likeliest place is the answer
        places_BQC, probabilities_BQ = found(logits_B)
        best_B = probabilities_BQ.argmax(1)
        return Answers(asked, list(places_BQC[torch.arange(len(best_B)), best_B].numpy()), [q.boxes[0] for q in asked])
    return searched(model, logits_B, asked, likely)


def logits_of(
    model: TaskModel, reader: InputReader, questions: list[Question], cache: Path
) -> tuple[Tensor, list[Question]]:
    """Return the logits of a model, in float32, and the questions that they answer."""
    tokens = TokenSet(model, reader, questions, cache, "test")
    logits = []
    with torch.no_grad():
        for start in range(0, len(tokens), BATCH):
            batch = tokens.collate(tokens.members[start : start + BATCH])
            first = [kept_sequence(model, m, batch.inputs[m]) for m in model.task.modalities]
            second = kept_sequence(model, Modality.IMAGE, batch.second, second=True) if batch.second else None
            logits.append(model.answer(model.passes_of(first, second)))
    if model.task.kind in SEARCHED:  # short sounds have fewer tokens that are slots
        slots = max(each.shape[1] for each in logits)
        logits = [F.pad(each, (0, 0, 0, slots - each.shape[1]), value=NEVER) for each in logits]
    return torch.cat(logits), [questions[member] for member in tokens.members]


def blanked(questions: list[Question], folder: Path) -> list[Question]:
    """Return the questions about a grey picture, or ten seconds of silence."""
    PIL.Image.new("RGB", (256, 256), (128, 128, 128)).save(folder / "grey.png")
    soundfile.write(folder / "silence.flac", np.zeros(160_000), 16_000)
    names = {Modality.IMAGE: "grey.png", Modality.AUDIO: "silence.flac"}
    return [
        replace(q, media={m: tuple(Medium(folder, names[m]) for _ in several) for m, several in q.media.items()})
        for q in questions
    ]


def constant(kind: str, answers: Answers, training: list[Question]) -> Answers:
    """Return what is said without looking: the most frequent answer of training, or its mean box; or never anything."""
    first = training[0]
    said: list[Any]
    if kind == "ground":
        said = [np.mean([q.box or q.boxes[0] for q in training], axis=0)] * len(answers.said)
    elif first.right is not None:
        said = [Counter(q.right for q in training).most_common(1)[0][0]] * len(answers.said)
    elif first.answers:
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for question in training:
            counts[opening(question)].update(question.answers)
        said = [counts[opening(q)].most_common(1)[0][0] for q in answers.questions]
    else:
        said = [np.zeros((0, 4 if first.boxes is not None else 2))] * len(answers.said)
        mean = np.mean([place for q in training for place in q.boxes or q.spans or ()], axis=0)
        return replace(answers, said=said, likeliest=[mean] * len(said))
    return replace(answers, said=said)


def opening(question: Question) -> str:
    return " ".join(question.texts[0].split()[:2])


def figures_of(kind: str, answers: Answers) -> dict[str, float]:
    said, right = answers.said, answers.right
    if kind in ("classify", "choose"):
        rights: dict[str, list[bool]] = {"accuracy": []}
        for question, one, other in zip(answers.questions, said, right, strict=True):
            rights["accuracy"].append(one == other)
            if len(question.answers) and kind == "classify" and len(question.media[Modality.IMAGE]) == 1:
                rights.setdefault(f"accuracy, {opening(question)} ...", []).append(one == other)
        return {name: 100.0 * float(np.mean(hits)) for name, hits in rights.items()}
    if kind == "ground":
        return {"boxes at IoU 0.5": box_accuracy(np.stack(said), np.array(right))}
    precision, recall = absence(said, right)
    figures = {"F1 at IoU 0.5": f1_at_overlap(said, right), "absence precision": precision, "absence recall": recall}
    if kind == "locate":
        assert answers.likeliest is not None
        one = [(span, spans) for span, spans in zip(answers.likeliest, right, strict=True) if spans]
        near = 100.0 * np.mean([(np.abs(np.array(spans) - span).max(axis=1) <= 0.5).any() for span, spans in one])
        figures = {"likeliest span within 0.5 s": near, "all spans within 0.5 s": spans_within(said, right), **figures}
    return figures


def draw(task: str, answers: Answers, scenes: Path, path: Path) -> None:
    """Draw the first twelve answers: the truth in green, what was said in orange."""
    shards, side, line = Shards(scenes), 192, 34
    sheet = PIL.Image.new("RGB", (4 * side, 3 * (side + line)), "white")
    for number, (question, said, right) in enumerate(
        zip(answers.questions[:12], answers.said, answers.right, strict=False)
    ):
        tile = PIL.Image.new("RGB", (side, side + line), "white")
        pen = PIL.ImageDraw.Draw(tile)
        media = next(iter(question.media.values()))
        if Modality.IMAGE in question.media:
            width = side // len(media)
            for place, medium in enumerate(media):
                picture = PIL.Image.open(io.BytesIO(shards.read(medium.reference))).convert("RGB")  # type: ignore[attr-defined]
                tile.paste(picture.resize((width - 2, width - 2)), (place * width, 0))
            if not isinstance(said, str):
                for boxes, colour in ((right, GREEN), (said, ORANGE)):
                    for box in np.reshape(boxes, (-1, 4)):
                        pen.rectangle([float(x) * (side - 2) for x in box], outline=colour, width=2)
        else:
            samples, rate = soundfile.read(io.BytesIO(shards.read(media[0].reference)))  # type: ignore[attr-defined]
            seconds = len(samples) / rate
            waveform(pen, samples, side)
            if not isinstance(said, int):
                for top, spans, colour in ((side - 40, right, GREEN), (side - 20, said, ORANGE)):
                    for start, end in np.reshape(spans, (-1, 2)):
                        pen.rectangle([start / seconds * side, top, end / seconds * side, top + 14], fill=colour)
        words = question.texts[0] if len(question.texts) == 1 else question.texts[int(right)]
        told = f"{said} (right: {right})" if isinstance(said, str) else ""
        if isinstance(said, int):
            told = f"said: {question.texts[said].rpartition('answer: ')[2]}"
        pen.multiline_text((2, side), f"{words[:38]}\n{told or words[38:76]}", fill="black")
        sheet.paste(tile, (number % 4 * side, number // 4 * (side + line)))
    sheet.quantize(128, PIL.Image.Quantize.FASTOCTREE).save(path, optimize=True)


def waveform(pen: PIL.ImageDraw.ImageDraw, samples: NDArray[np.float64], width: int) -> None:
    for column, part in enumerate(np.array_split(samples, width)):
        high = float(np.abs(part).max()) * 120
        pen.line((column, 70 - high, column, 70 + high), fill=(90, 90, 90))


if __name__ == "__main__":
    main()
