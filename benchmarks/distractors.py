"""One item of many: how often a question about one picture of an album is answered, and what that costs.

    python benchmarks/distractors.py ../shared/data --tower hyper=onepeace-tiny --tower fused=mine --plot curve.png

Towers of the same name are several trainings of one kind: means and ranges are of all of them.

Albums are random pictures of Caltech-101's test split. "In item 7, what is there?", words that no training has, is
right where the item nearest to the answer's vector is the right one (`item`), and where the nearest of all names is its
own (`named`); `strict` says of how many albums every question was right, of all places up to 20 items, else of 20 at
random. `mean` answers with the mean of the vectors, `concat` with the vector of the words that were read together with
the tokens of all pictures by the fusion encoder, which was not trained for it (up to 20 items and two questions an
album: more cost too much).

Order is asked of albums of 6: does "a chair then a lotus" fit better than "a lotus then a chair"? In albums of 12 one
thing is there 1 to 5 times: how often, and does "I see a lotus 3 times" fit better than one more or less? What is not
there is asked for by numbers up to three times the album's length and 10 more, and by names of other pictures: `absent`
tells in how many cases the first tower says so, and in how many it does of what is there.

Costs are those of one question in a process of its own, in turns, medians of three: seconds, and the peak of memory
above that of the loaded model. The tower reads vectors that are there, `concat` tokens that are there. A first question
to an album embeds its pictures besides, a second one does not: 100 pictures, both in turns, medians of five. The last
line is how many times less time the tower takes than `concat` for 400 items.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import onepeace
from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.manifest import Shards, read_manifest
from onepeace.progress import progress_bar
from onepeace.reader import FloatMatrix, mean
from onepeace.sequences import Segment, SequenceEmbedding
from onepeace.training.texts import with_article

QUESTION = "In item {}, what is there?"  # no question of training has these words
SIZES = (1, 5, 10, 20, 50, 100, 200, 400)
MOST_ASKED = 20
MOST_NUMBERED = 400  # the tower tells so many numbers apart
MOST_JOINED = 20  # items, for accuracy; ...
ASKED_JOINED = 2  # ... and questions of an album
IN_ORDER = 6  # items of an album whose order is asked
TO_COUNT, OFTEN = 12, 5  # items of an album in which one thing is there 1 to 5 times
HOW_OFTEN = "how often can you see {a}?"
SO_OFTEN = "I see {a} {n} times"  # no text of training has these words
COST = (100, 400)

Table = dict[str, dict[int, list[float]]]  # what -> size -> percent, one a draw and tower
Towers = Sequence[tuple[str, onepeace.Embedder]]


class Pictures(NamedTuple):
    """Embedded pictures with their names. N: pictures, D: dimension, C: names."""

    vectors: FloatMatrix  # (N, D)
    truth: np.ndarray  # (N,)
    names: list[str]
    labels: FloatMatrix  # (C, D)
    tokens: Tensor | None  # (N, L, W) of the adapter


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder with manifest-test.parquet")
    parser.add_argument("--model", default="onepeace-tiny", help="whose vectors are the items")
    parser.add_argument("--tower", action="append", default=[], help="NAME=FOLDER of a model with a tower; repeat")
    parser.add_argument("--albums", type=int, default=30, help="of each size")
    parser.add_argument("--seeds", type=int, default=3, help="of the draws")
    parser.add_argument("--no-concat", action="store_true")
    parser.add_argument("--no-cost", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="draw the figures there")
    parser.add_argument("--cost", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    named = args.tower or [f"hyper={args.model}"]
    towers = [(name, folder) for name, _, folder in (each.partition("=") for each in named)]
    if args.cost:
        print(json.dumps(cost(towers[0][1], args.cost[0], int(args.cost[1]))))
        return
    models = [(name, onepeace.load_embedder(folder, dtype="float32")) for name, folder in towers]
    base = models[0][1]
    pictures = embedded(base, args.data, not args.no_concat)
    zero_shot = 100 * np.mean((pictures.vectors @ pictures.labels.T).argmax(axis=1) == pictures.truth)
    print(f"{len(pictures.vectors)} pictures, {len(pictures.names)} names; zero-shot alone {zero_shot:.1f} %")
    found = accuracy(models, base, pictures, args.albums, args.seeds)
    print(f"{'in %, mean of ' + str(args.seeds) + ' draws (range)':30}" + "".join(f"{n:>15}" for n in SIZES))
    for name, by_size in found.items():
        cells = {n: f"{np.mean(v):.1f} ({min(v):.0f}-{max(v):.0f})" for n, v in by_size.items()}
        print(f"{name:30}" + "".join(f"{cells.get(n, ''):>15}" for n in SIZES))
    ordered = orders(models, base, pictures, 10 * args.albums, args.seeds)
    print(f"order of {IN_ORDER}, chance 50:")
    for name, values in ordered.items():
        print(f"{name:30}{np.mean(values):15.1f} ({min(values):.0f}-{max(values):.0f})")
    print(f"{'told to be absent, in %':30}" + "".join(f"{n:>15}" for n in SIZES))
    for name, shares in told_absent(base, pictures, args.albums).items():
        print(f"{name:30}" + "".join(f"{shares[n]:15.1f}" if n in shares else f"{'':>15}" for n in SIZES))
    counted = counts(base, pictures, 10 * args.albums, args.seeds)
    print(f"counted in albums of {TO_COUNT}, in %:")
    for name, values in counted.items():
        print(f"{name:30}{np.mean(values):15.1f} ({min(values):.0f}-{max(values):.0f})")
    costs = {} if args.no_cost else measured_costs(args.data, towers[0])
    again = 0.0 if args.no_cost else second_question(base, args.data)
    if args.json:
        args.json.write_text(json.dumps({"accuracy": found, "order": ordered, "counts": counted, "cost": costs}))
    if args.plot:
        plot(found, args.plot)
    if costs:
        tower, concat = (costs[f"{mode} 400"] for mode in ("tower", "concat"))
        print(f"tower: 400 items take {tower['seconds'] / costs['tower 100']['seconds']:.2f} times as long as 100")
        print(f"a first question to 100 pictures takes {again:.1f} times as long as a second")
        print(f"memory: {tower['MiB'] / concat['MiB']:.3f} of concat's for 400 items")
        print(f"{concat['seconds'] / tower['seconds']:.1f}")


def embedded(model: onepeace.Embedder, data: Path, with_tokens: bool) -> Pictures:
    rows = [row for row in read_manifest(data / "manifest-test.parquet") if row["source"] == "caltech101"]
    shards = Shards(data)
    contents = [shards.read(row["image"]) for row in rows]
    vectors = model.encode([onepeace.Image(content) for content in contents], show_progress_bar=True)
    names = sorted({row["label"] for row in rows})
    spoken = [name.replace("_", " ") for name in names]
    labels = model.encode([f"a photo of {with_article(name)}" for name in spoken])
    truth = np.array([names.index(row["label"]) for row in rows])
    tokens = None
    if with_tokens:
        network, preprocessor = model.folder.model(), model.reader.preprocessors[Modality.IMAGE]
        made = []
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            for start in range(0, len(contents), 64):
                read = [torch.from_numpy(model.reader.windows("image", c)[0]) for c in contents[start : start + 64]]
                made.append(network.tokens(Modality.IMAGE, *preprocessor.collate(read)).embeddings.half())
        tokens = torch.cat(made)
    return Pictures(vectors, truth, spoken, labels, tokens)


def accuracy(models: Towers, base: onepeace.Embedder, pictures: Pictures, albums: int, seeds: int) -> Table:
    """Ask for items by their numbers."""
    figures: Table = defaultdict(lambda: defaultdict(list))
    with progress_bar(seeds * len(SIZES), "albums") as advance:
        for seed in range(seeds):
            draws = np.random.default_rng(seed)
            for size in SIZES:
                right: dict[tuple[str, int], list[bool]] = defaultdict(list)
                for _ in range(albums):
                    album = draws.choice(len(pictures.vectors), size, replace=False)
                    places = np.arange(size) if size <= MOST_ASKED else draws.choice(size, MOST_ASKED, replace=False)
                    texts = [QUESTION.format(place + 1) for place in places]
                    answers = {
                        (name, run): asked(model, pictures.vectors[album], texts)
                        for run, (name, model) in enumerate(models)
                    }
                    answers["mean", 0] = np.repeat(mean(pictures.vectors[album])[None], len(places), axis=0)
                    if pictures.tokens is not None and size <= MOST_JOINED:
                        some = texts[:ASKED_JOINED]
                        answers["concat", 0] = joined(base, pictures.tokens[torch.from_numpy(album)], some)
                    for (name, run), rows in answers.items():
                        told = places[: len(rows)]
                        item = (rows @ pictures.vectors[album].T).argmax(axis=1) == told
                        right[f"{name}, item", run] += item.tolist()
                        if len(rows) == len(places):
                            right[f"{name}, strict", run].append(bool(item.all()))
                        named = (rows @ pictures.labels.T).argmax(axis=1) == pictures.truth[album[told]]
                        right[f"{name}, named", run] += named.tolist()
                for (name, _), values in right.items():
                    figures[name][size].append(100 * float(np.mean(values)))
                advance(1)
    return figures


def orders(
    models: Towers, base: onepeace.Embedder, pictures: Pictures, albums: int, seeds: int
) -> dict[str, list[float]]:
    """Ask which of two statements fits, the true one or the one with the names exchanged."""
    figures: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        draws = np.random.default_rng(seed)
        right: dict[tuple[str, int], list[bool]] = defaultdict(list)
        for _ in range(albums):
            names = draws.choice(len(pictures.names), IN_ORDER, replace=False)
            album = [draws.choice(np.flatnonzero(pictures.truth == name)) for name in names]
            first, second = sorted(draws.choice(IN_ORDER, 2, replace=False))
            a, b = (with_article(pictures.names[names[place]]) for place in (first, second))
            texts = [f"{a} then {b}", f"{b} then {a}"]
            vectors = pictures.vectors[album]
            for run, (name, model) in enumerate(models):
                true, false = model.ask(texts, sequence(vectors))
                right[name, run].append(true.match > false.match)
            true_fit, false_fit = base.encode(texts) @ mean(vectors)
            right["mean", 0].append(bool(true_fit > false_fit))
        for (name, _), values in right.items():
            figures[name].append(100 * float(np.mean(values)))
    return figures


def counts(model: onepeace.Embedder, pictures: Pictures, albums: int, seeds: int) -> dict[str, list[float]]:
    """Ask how often something is there, and which of two statements fits: the number, or one more or less."""
    figures: dict[str, list[float]] = defaultdict(list)
    for seed in range(seeds):
        draws = np.random.default_rng(seed)
        right: dict[str, list[bool]] = defaultdict(list)
        for _ in range(albums):
            number = int(draws.integers(1, OFTEN + 1))
            name = draws.choice(np.flatnonzero(np.bincount(pictures.truth) >= number))
            others = draws.choice(np.flatnonzero(pictures.truth != name), TO_COUNT - number, replace=False)
            those = draws.choice(np.flatnonzero(pictures.truth == name), number, replace=False)
            vectors = pictures.vectors[draws.permutation([*those, *others])]
            a, other = with_article(pictures.names[name]), number + int(draws.choice([-1, 1]))
            texts = [HOW_OFTEN.format(a=a), *(SO_OFTEN.format(a=a, n=n) for n in (number, other))]
            question, true, false = model.ask(texts, sequence(vectors))
            if question.count is not None:
                right["number told"].append(question.count == number)
                right["number told, or the next"].append(abs(question.count - number) <= 1)
            right["asks how often is understood"].append(question.count is not None)
            right["statement told from the next"].append(true.match > false.match)
        for kind, values in right.items():
            figures[kind].append(100 * float(np.mean(values)))
    return figures


def told_absent(model: onepeace.Embedder, pictures: Pictures, albums: int) -> dict[str, dict[int, float]]:
    """Ask for numbers and names that albums have, and for some that they do not have; one draw."""
    draws = np.random.default_rng(0)
    told: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for size in SIZES:
        for _ in range(albums):
            album = draws.choice(len(pictures.vectors), size, replace=False)
            shown, counts = np.unique(pictures.truth[album], return_counts=True)
            others = np.setdiff1d(np.arange(len(pictures.names)), shown)
            beyond = np.arange(size + 1, min(3 * size + 10, MOST_NUMBERED) + 1)
            texts = {
                "a number it has": [QUESTION.format(number) for number in some_of(np.arange(1, size + 1), draws)],
                "a number it has not": [QUESTION.format(number) for number in some_of(beyond, draws)],
                "a name it has": [with_article(pictures.names[i]) for i in some_of(shown[counts == 1], draws)],
                "a name it has not": [with_article(pictures.names[i]) for i in some_of(others, draws)],
            }
            for kind, some in texts.items():
                answers = model.ask(some, sequence(pictures.vectors[album]))
                told[kind][size] += [answer.absent >= 0.5 for answer in answers]
    return {
        kind: {size: 100 * float(np.mean(each)) for size, each in by_size.items() if each}
        for kind, by_size in told.items()
    }


def some_of(values: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    return values if len(values) <= MOST_ASKED else draws.choice(values, MOST_ASKED, replace=False)


def sequence(vectors: FloatMatrix) -> SequenceEmbedding:
    return SequenceEmbedding([Segment(n, "image", row) for n, row in enumerate(vectors, start=1)])


def asked(model: onepeace.Embedder, vectors: FloatMatrix, texts: list[str]) -> FloatMatrix:
    answers: list[onepeace.SequenceAnswer] = model.ask(texts, sequence(vectors))
    return np.stack([answer.vector for answer in answers])


@torch.inference_mode()
def joined(model: onepeace.Embedder, tokens_NLW: Tensor, texts: list[str]) -> FloatMatrix:
    """Return what texts become that are read together with the tokens of all pictures."""
    network = network_of(model)
    preprocessor = model.reader.preprocessors[Modality.TEXT]
    words = network.tokens(Modality.TEXT, *preprocessor.collate([preprocessor(text) for text in texts]))
    x_LW = tokens_NLW.flatten(0, 1).float()
    pictures = TokenSequence(
        Modality.IMAGE, x_LW.expand(len(texts), -1, -1), torch.zeros(len(texts), len(x_LW), dtype=torch.bool)
    )
    out: FloatMatrix = network.heads[Modality.TEXT](network.features([words, pictures])[0]).float().numpy()
    return out


_networks: dict[int, onepeace.model.onepeace.OnePeace] = {}


def network_of(model: onepeace.Embedder) -> onepeace.model.onepeace.OnePeace:
    if id(model) not in _networks:
        _networks[id(model)] = model.folder.model().eval()
    return _networks[id(model)]


def measured_costs(data: Path, tower: tuple[str, str]) -> dict[str, dict[str, float]]:
    runs: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(3):
        for size in COST:
            for mode in ("tower", "concat"):
                command = [sys.executable, __file__, str(data), "--tower", "=".join(tower), "--cost", mode, str(size)]
                runs[f"{mode} {size}"].append(json.loads(subprocess.check_output(command)))
    costs = {
        key: {name: statistics.median(run[name] for run in each) for name in each[0]} for key, each in runs.items()
    }
    for key, told in costs.items():
        print(f"{key:>10} items: " + ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
    return costs


def cost(folder: str, mode: str, size: int) -> dict[str, float]:
    """Ask once to warm up with a small album, then once with one of random items that are embedded already."""
    model = onepeace.load_embedder(folder, dtype="float32")
    draws, text = np.random.default_rng(0), [QUESTION.format(7)]
    picture = network_of(model).tokens(Modality.IMAGE, torch.randn(1, 3, 256, 256)).embeddings

    def once(count: int) -> float:
        rows = draws.normal(size=(count, model.dimension)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        tokens = picture.detach().repeat(count, 1, 1)
        start = time.perf_counter()
        if mode == "tower":
            asked(model, rows, text)
        else:
            joined(model, tokens, text)
        return time.perf_counter() - start

    once(2)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: that of loading was higher
    before = kibibytes("VmRSS")
    seconds = once(size)
    return {"seconds": seconds, "MiB": (kibibytes("VmHWM") - before) / 1024}


def kibibytes(what: str) -> int:
    """Return what this process holds now (VmRSS), or held at most (VmHWM)."""
    return int(Path("/proc/self/status").read_text().split(f"{what}:")[1].split()[0])


def second_question(model: onepeace.Embedder, data: Path) -> float:
    """Return how many times as long a first question takes: it embeds the album."""
    rows = [row for row in read_manifest(data / "manifest-test.parquet") if row["source"] == "caltech101"][:100]
    shards = Shards(data)
    pictures = onepeace.Sequence([onepeace.Image(shards.read(row["image"])) for row in rows])
    ratios = []
    for number in range(5):
        start = time.perf_counter()
        album = model.encode_sequence(pictures)
        model.ask(QUESTION.format(2 * number + 1), album)
        between = time.perf_counter()
        model.ask(QUESTION.format(2 * number + 2), album)
        ratios.append((between - start) / (time.perf_counter() - between))
    return statistics.median(ratios)


def plot(found: Table, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4), sharey=True, layout="constrained")
    for axis, what in zip(axes, ("item", "named", "strict"), strict=True):
        for name, by_size in found.items():
            if name.endswith(what):
                values = np.array(list(by_size.values()))
                axis.plot(list(by_size), values.mean(axis=1), marker="o", markersize=3, label=name.rpartition(",")[0])
                axis.fill_between(list(by_size), values.min(axis=1), values.max(axis=1), alpha=0.2)
        axis.set(title=what, xlabel="items of the album", xscale="log", ylim=(0, 102))
        axis.set_xticks(SIZES, SIZES)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("right, %")
    axes[0].axvline(16, color="grey", linestyle=":")
    axes[0].annotate("longest in training", (16, 5), fontsize=8, rotation=90, ha="right")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
