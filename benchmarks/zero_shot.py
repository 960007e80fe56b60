"""How good zero-shot decisions are beyond one label: `other`, label sets of mixed inputs, and explanations.

    python benchmarks/zero_shot.py ../shared/data

`other`: of Caltech-101 and of sounds, ten (five) random classes are the labels, and the rest are what fits none.
Label sets: two pictures side by side, two sounds at once; all classes of their source are the labels. Deletion: the
label's probability, as a share of what it was, once the cells with the largest weights are blurred, against random
cells (Petsiuk et al., 2018, arXiv:1806.07421). The last line is the ratio of the two areas.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import PIL.Image
from scipy.ndimage import gaussian_filter

import onepeace
from encoders.media import open_audio, open_image
from encoders.modality import Modality
from onepeace.evaluate.encoder import WRAPPERS, Encoder
from onepeace.evaluate.rows import Row, read_inputs
from onepeace.occlusion import BLUR, GRID, resized
from onepeace.zero_shot import ZeroShotClassifier

SOURCES = {"caltech101": Modality.IMAGE, "tinyimagenet": Modality.IMAGE} | dict.fromkeys(
    ("esc10", "animalsounds", "fsdd"), Modality.AUDIO
)
DRAWS = 20  # random label sets for `other`
MIXES = 100
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
SHARES = (1, 2, 4, 8, 12, 16, 24, 32)  # of 64 cells, that are deleted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with manifest-test.parquet")
    parser.add_argument("--pictures", type=int, default=32, help="that are explained")
    parser.add_argument("--only", choices=["other", "sets", "deletion"], action="append")
    asked = parser.parse_args()
    model = onepeace.load("onepeace-tiny", dtype="float32")
    parts = {"other": other, "sets": label_sets, "deletion": lambda m, d: deletion(m, d, asked.pictures)}
    for name in asked.only or parts:
        parts[name](model, asked.data)


def rows_of(data: Path, source: str) -> tuple[list[Row], list[str]]:
    rows = read_inputs([data / "manifest-test.parquet"], {"source": [source]}).rows
    return rows, sorted({str(row.label) for row in rows})


def other(model: onepeace.Embedder, data: Path) -> None:
    print("source, labels, threshold: rejected of known and of unknown classes, %")
    for source, modality in SOURCES.items():
        rows, labels = rows_of(data, source)
        encoder = Encoder(model, 32, False)
        encoder.embed(modality, [(row.id, row.media[modality]) for row in rows])
        fits = ZeroShotClassifier(model, labels).fits(encoder.media([row.media[modality] for row in rows]), modality)
        true = np.array([labels.index(str(row.label)) for row in rows])
        rng, count = np.random.default_rng(0), min(10, len(labels) // 2)
        draws = [rng.choice(len(labels), count, replace=False) for _ in range(DRAWS)]
        for threshold in THRESHOLDS:
            known, unknown = [], []
            for kept in draws:
                rejected, own = fits[:, kept].max(axis=1) < threshold, np.isin(true, kept)
                known.append(rejected[own].mean())
                unknown.append(rejected[~own].mean())
            print(f"  {source}, {count}, {threshold}: {100 * np.mean(known):.1f} {100 * np.mean(unknown):.1f}")


def label_sets(model: onepeace.Embedder, data: Path) -> None:
    print(f"source, threshold: precision, recall, F1 of {MIXES} mixes of two, %")
    for source in ("caltech101", "esc10", "animalsounds"):
        modality = SOURCES[source]
        rows, labels = rows_of(data, source)
        rng = np.random.default_rng(0)
        mixes, truth = [], []
        while len(mixes) < MIXES:
            one, two = (rows[i] for i in rng.choice(len(rows), 2, replace=False))
            if one.label != two.label:
                mixes.append(mixed(modality, [row.media[modality].open() for row in (one, two)]))
                truth.append({str(one.label), str(two.label)})
        classifier = ZeroShotClassifier(model, labels)
        fits = classifier.fits(model.encode(mixes), modality)
        for threshold in THRESHOLDS:
            told = [{labels[i] for i in np.flatnonzero(row >= threshold)} for row in fits]
            right = sum(len(a & b) for a, b in zip(told, truth, strict=True))
            precision, recall = right / max(1, sum(map(len, told))), right / (2 * MIXES)
            f1 = 2 * precision * recall / max(1e-9, precision + recall)
            print(f"  {source}, {threshold}: {100 * precision:.1f} {100 * recall:.1f} {100 * f1:.1f}")


def mixed(modality: Modality, contents: list[object]) -> object:
    if modality is Modality.IMAGE:
        both = PIL.Image.new("RGB", (512, 256))
        for place, content in enumerate(contents):
            both.paste(open_image(content).resize((256, 256)), (256 * place, 0))  # type: ignore[arg-type]
        return onepeace.Image(both)
    sounds = [open_audio(content, 32_000) for content in contents]  # type: ignore[arg-type]
    length = min(map(len, sounds))
    loud = [samples[:length] / max(1e-4, float(np.sqrt((samples[:length] ** 2).mean()))) for samples in sounds]
    return onepeace.Audio((0.05 * (loud[0] + loud[1])).astype(np.float32), 32_000)


def deletion(model: onepeace.Embedder, data: Path, count: int) -> None:
    rows, labels = rows_of(data, "caltech101")
    classifier = ZeroShotClassifier(model, labels)
    rng = np.random.default_rng(0)
    curves: dict[str, list[np.ndarray]] = {"weights": [], "random": [], "centre first": []}
    middle = (np.arange(GRID) - (GRID - 1) / 2) ** 2
    for i in rng.permutation(len(rows)):
        value = WRAPPERS[Modality.IMAGE](rows[i].media[Modality.IMAGE].open())
        (told,) = classifier.predict([value])
        if told.label != rows[i].label:
            continue
        found = classifier.explain(value)
        orders = {
            "weights": np.argsort(-found.tokens, axis=None),
            "random": rng.permutation(GRID * GRID),
            "centre first": np.argsort(np.add.outer(middle, middle), axis=None, kind="stable"),
        }
        for name, order in orders.items():
            curves[name].append(remaining(model, classifier, value, labels.index(told.label), order))
        if len(curves["weights"]) == count:
            break
    print(f"deleted cells of 64: {', '.join(map(str, SHARES))}; probability that is left, %; mean of {count} pictures")
    for name, rows_of_curve in curves.items():
        mean = 100 * np.mean(rows_of_curve, axis=0)
        print(f"  {name}: {' '.join(f'{value:.0f}' for value in mean)}; mean {mean.mean():.1f}")
    better = [a.mean() < b.mean() for a, b in zip(curves["weights"], curves["random"], strict=True)]
    print(f"  faster than random for {sum(better)} of {count}")
    print(f"{np.mean(curves['weights']) / np.mean(curves['random']):.3f} of the area under random deletion")


def remaining(
    model: onepeace.Embedder, classifier: ZeroShotClassifier, value: object, place: int, order: np.ndarray
) -> np.ndarray:
    """Return the label's probability after each number of deletions, as a share of that of the whole picture."""
    from onepeace.inputs import parts_of

    ((pixels, _),) = model.reader.read(parts_of(value)[0])
    pixels_CHW = pixels.numpy()
    _, height, width = pixels_CHW.shape
    blurred_CHW = gaussian_filter(pixels_CHW, (0, BLUR * height, BLUR * width), mode="nearest")
    changed = [pixels_CHW]
    for number in SHARES:
        mask = np.zeros(GRID * GRID, np.float32)
        mask[order[:number]] = 1
        changed.append(np.where(resized(mask.reshape(GRID, GRID), height, width) > 0, blurred_CHW, pixels_CHW))
    shares = classifier.probabilities(model.embed_windows("image", changed), "image")[:, place]
    return shares[1:] / shares[0]


if __name__ == "__main__":
    main()
