"""Whole evaluations of little packs against loops over the same vectors, and what cannot be measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_media import picture, sound

from onepeace import Audio, Embedder, Image, ZeroShotClassifier
from onepeace.evaluate import Evaluation, Measurement, evaluate, measure
from onepeace.evaluate.classification import Classification
from onepeace.manifest import ManifestError

WORDS = ["dog", "cat", "rain", "bird"]
GERMAN = ["hund", "the cat", "a street", "night"]


def write(folder: Path, rows: Sequence[dict[str, Any]], name: str = "manifest.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four drawings with a sound and names in two languages; two spoken names of each; labelled sounds."""
    folder = tmp_path_factory.mktemp("pack")
    for i in range(24):
        (folder / f"{i}.png").write_bytes(picture(i))
        (folder / f"{i}.flac").write_bytes(sound(i))
    drawings: list[dict[str, Any]] = [
        {
            "id": f"drawing-{i}",
            "source": "drawings",
            "image": f"{i}.png",
            "audio": f"{i}.flac",
            "texts": [{"lang": "en", "text": f"a {WORDS[i]}"}, {"lang": "de", "text": GERMAN[i]}],
        }
        for i in range(4)
    ]
    del drawings[3]["texts"][1]  # three of four have a German name
    spoken = [
        {
            "id": f"spoken-{i}",
            "source": "spoken",
            "audio": f"{4 + i}.flac",
            "image_ref": f"drawing-{i % 4}",
            "label": WORDS[i % 4],
            "texts": [{"lang": "de", "text": GERMAN[i % 4]}] if i < 5 else [],
        }
        for i in range(8)
    ]
    classed = [
        {"id": f"{split}-{i}", "source": "classed", "audio": f"{i}.flac", "label": WORDS[i % 3], "fold": i % 4}
        for split, first, last in (("test", 0, 12), ("train", 12, 24))
        for i in range(first, last)
    ]
    return {
        "drawings": write(folder, drawings, "drawings.jsonl"),
        "spoken": write(folder, spoken, "spoken.jsonl"),
        "test": write(folder, classed[:12], "test.jsonl"),
        "train": write(folder, classed[12:], "train.jsonl"),
    }


def figures(evaluation: Evaluation) -> dict[tuple[str, str, str], Measurement]:
    return {(m.source, m.task, m.metric): m for m in evaluation.measurements}


def recall(queries: np.ndarray, keys: np.ndarray, partners: Sequence[set[int]], k: int) -> float:
    """Percent of the queries with one of their partners among the k best, by a loop."""
    found = 0
    for query, own in zip(queries, partners, strict=True):
        best = sorted(range(len(keys)), key=lambda j: -float(query @ keys[j]))[:k]
        found += bool(own & set(best))
    return 100 * found / len(queries)


def test_all_six_directions_are_those_of_loops(embedder: Embedder, tables: dict[str, Path]) -> None:
    found = figures(measure(embedder, [tables["drawings"]]))
    vectors = {
        "image": embedder.encode([Image(picture(i)) for i in range(4)]),
        "audio": embedder.encode([Audio(sound(i)) for i in range(4)]),
        "text": embedder.encode([f"a {word}" for word in WORDS]),
    }
    tasks = {task for _, task, _ in found}
    assert tasks == {f"{a} to {b}" for a in vectors for b in vectors if a != b}
    for task in tasks:
        a, b = task.split(" to ")
        for k in (1, 5):
            m = found["drawings", task, f"R@{k}"]
            assert m.value == pytest.approx(recall(vectors[a], vectors[b], [{i} for i in range(4)], k))
            assert m.low <= m.value <= m.high
            assert (m.queries, m.candidates, m.chance) == (4, 4, 25.0 if k == 1 else 100.0)
            assert m.to_dict()["times_chance"] == m.value / m.chance


def test_sounds_that_share_a_picture_all_find_it_and_it_finds_any_of_them(
    embedder: Embedder, tables: dict[str, Path]
) -> None:
    found = figures(measure(embedder, [tables["drawings"], tables["spoken"]], {"source": ["spoken"]}))
    pictures = embedder.encode([Image(picture(i)) for i in range(4)])
    sounds = embedder.encode([Audio(sound(4 + i)) for i in range(8)])
    to_image, to_audio = found["spoken", "audio to image", "R@1"], found["spoken", "image to audio", "R@1"]
    assert (to_image.queries, to_image.candidates, to_image.chance) == (8, 4, 25.0)
    assert (to_audio.queries, to_audio.candidates, to_audio.chance) == (4, 8, pytest.approx(25.0))  # 2 of 8 are right
    assert to_image.value == pytest.approx(recall(sounds, pictures, [{i % 4} for i in range(8)], 1))
    assert to_audio.value == pytest.approx(recall(pictures, sounds, [{i, i + 4} for i in range(4)], 1))
    assert ("spoken", "zero-shot image", "accuracy") not in found  # the drawings' own rows were not chosen


def test_a_sound_whose_pictures_row_is_absent_is_named(embedder: Embedder, tables: dict[str, Path]) -> None:
    evaluation = measure(embedder, [tables["spoken"]])
    assert ("spoken-0", "its picture's row, drawing-0, is not in the measured manifests") in evaluation.failures
    assert not evaluation.retrievals


def test_each_language_has_its_own_figures(embedder: Embedder, tables: dict[str, Path]) -> None:
    evaluation = measure(embedder, [tables["drawings"], tables["spoken"]], languages=["en", "de"])
    found = {(m.source, m.task, m.metric, m.language): m for m in evaluation.measurements}
    german = found["drawings", "text to image", "R@1", "de"]
    assert (german.queries, german.candidates) == (3, 4)  # a drawing without a German name is still a candidate
    assert found["drawings", "image to text", "R@1", "de"].queries == 3
    images, texts = embedder.encode([Image(picture(i)) for i in range(4)]), embedder.encode(GERMAN[:3])
    assert german.value == pytest.approx(recall(texts, images, [{i} for i in range(3)], 1))
    assert found["drawings", "audio to image", "R@1", None].queries == 4
    assert figures(measure(embedder, [tables["drawings"]], languages=["all"])).keys() == {
        key[:3] for key in found if key[0] == "drawings"
    }
    classifier = ZeroShotClassifier(embedder, sorted(GERMAN), ["{}"])
    predicted = classifier.predict([Audio(sound(4 + i)) for i in range(8)])
    expected = 100 * np.mean([p.label == GERMAN[i % 4] for i, p in enumerate(predicted)])
    assert found["spoken", "zero-shot audio", "accuracy", "de"].value == pytest.approx(expected)
    with pytest.raises(ManifestError, match=r"'fr'; there are de, en"):
        measure(embedder, [tables["drawings"]], languages=["fr"])


def test_probes_learn_from_the_rows_that_are_not_measured(embedder: Embedder, tables: dict[str, Path]) -> None:
    evaluation = measure(embedder, [tables["test"]], probe=[tables["test"], tables["train"]])
    assert evaluation.notes == ["12 rows are measured, so no probe is trained on them"]
    alone = figures(measure(embedder, [tables["test"]], probe=[tables["train"]]))
    assert figures(evaluation) == alone
    known = embedder.encode([Audio(sound(i)) for i in range(12, 24)])
    right = 0
    for i in range(12):
        cosines = known @ embedder.encode(Audio(sound(i)))
        votes = {word: sum(np.exp(cosines[j] / 0.07) for j in range(12) if WORDS[j % 3] == word) for word in WORDS[:3]}
        right += max(votes, key=lambda word: votes[word]) == WORDS[i % 3]
    assert alone["classed", "kNN audio", "accuracy"].value == pytest.approx(100 * right / 12)
    assert alone["classed", "linear probe audio", "accuracy"].candidates == 3


def test_a_class_that_a_probe_has_not_seen_counts_as_wrong(embedder: Embedder, tables: dict[str, Path]) -> None:
    part = write(
        tables["train"].parent,
        [
            {"id": f"part-{i}", "source": "classed", "audio": f"{i}.flac", "label": WORDS[i % 3]}
            for i in range(12, 24)
            if i % 3
        ],
        "part.jsonl",
    )
    evaluation = measure(embedder, [tables["test"]], probe=[part])
    (probe,) = [one for one in evaluation.classifications if one.task == "linear probe audio"]
    assert list(probe.labels) == ["cat", "rain"]
    assert probe.recalls[probe.classes.index("dog")] == 0.0
    assert figures(evaluation)["classed", "linear probe audio", "accuracy"].value <= 100 * 8 / 12


def test_nothing_of_the_measured_sources_to_learn_from_is_noted(embedder: Embedder, tables: dict[str, Path]) -> None:
    evaluation = measure(embedder, [tables["test"]], probe=[tables["drawings"]])
    assert "no labelled rows of a measured source" in evaluation.notes[0]
    assert {m.task for m in evaluation.measurements} == {"zero-shot audio"}


@pytest.mark.parametrize(
    ("labels", "reason"), [(["dog", "dog"], "are all of one class"), (["owl", "crow"], "have none of its labels")]
)
def test_rows_that_teach_nothing_of_the_labels_are_noted(
    embedder: Embedder, tables: dict[str, Path], labels: list[str], reason: str
) -> None:
    rows = [{"id": f"t{i}", "source": "classed", "audio": f"{i}.flac", "label": labels[i]} for i in range(2)]
    evaluation = measure(embedder, [tables["test"]], probe=[write(tables["test"].parent, rows, f"{labels[0]}.jsonl")])
    assert evaluation.notes == [f"no probe of classed: the rows to train it on {reason}"]


def test_media_that_are_missing_or_damaged_are_skipped_and_named(embedder: Embedder, tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    (tmp_path / "3.png").write_bytes(b"no picture")
    rows = [{"id": f"row-{i}", "image": f"{i}.png", "text": f"a {WORDS[i % 4]}"} for i in range(5)]
    manifest = write(tmp_path, rows)
    evaluation = measure(embedder, [manifest])
    assert [name for name, _ in evaluation.failures] == ["row-4", "row-3"]
    assert figures(evaluation)["manifest", "text to image", "R@1"].candidates == 3
    assert len(evaluate(embedder, [manifest])) == 6
    gone = write(tmp_path, rows[3:], "gone.jsonl")
    with pytest.raises(ManifestError, match=r"nothing to measure.*row-4"):
        measure(embedder, [gone])


def test_a_class_none_of_whose_rows_can_be_read_is_left_out(embedder: Embedder, tmp_path: Path) -> None:
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
    rows = [{"image": f"{i}.png", "label": WORDS[i // 3]} for i in range(9)]  # all of "rain" is missing
    evaluation = measure(embedder, [write(tmp_path, rows)])
    assert evaluation.failures[0] == ("rain", "no row of this class can be read; it is left out")
    assert figures(evaluation)["manifest", "zero-shot image", "accuracy"].candidates == 2


def test_an_id_of_two_rows_is_refused(embedder: Embedder, tmp_path: Path, tables: dict[str, Path]) -> None:
    with pytest.raises(ManifestError, match="two rows have the id 'drawing-0'"):
        measure(embedder, [tables["drawings"], tables["drawings"]])
    plain = write(tmp_path, [{"image": "a.png", "text": "a dog"}])
    with pytest.raises(ManifestError, match="two rows have the id"):
        measure(embedder, [plain, plain])


def test_texts_of_another_form_are_refused(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="texts must hold strings"):
        measure(embedder, [write(tmp_path, [{"id": "a", "image": "a.png", "texts": [{"words": "a dog"}]}])])


def classification(labels: int, truth: Sequence[int], rng: np.random.Generator) -> Classification:
    names = [f"label {i:03}" for i in range(labels)]
    scores = rng.normal(size=(len(truth), labels))
    return Classification(
        "s", "zero-shot image", names, scores, [names[i] for i in truth], list(map(str, range(len(truth))))
    )


def test_top_5_and_class_recall_are_those_of_a_loop(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 9, 60).tolist()
    one = classification(9, truth, rng)
    found = {m.metric: m for m in one.measurements}
    order = np.argsort(-one.scores, axis=1)
    assert found["top-5 accuracy"].value == pytest.approx(
        100 * np.mean([t in o[:5] for t, o in zip(truth, order, strict=True)])
    )
    recalls = [np.mean([o[0] == c for t, o in zip(truth, order, strict=True) if t == c]) for c in sorted(set(truth))]
    assert found["mean class recall"].value == pytest.approx(100 * np.mean(recalls))
    assert found["accuracy"].chance == pytest.approx(100 / 9)
    assert found["top-5 accuracy"].chance == pytest.approx(500 / 9)
    assert "top-5 accuracy" not in {m.metric for m in classification(5, [0, 1, 4], rng).measurements}
    (worst, *_) = one.most_confused(1)
    pairs = [(t, int(o[0])) for t, o in zip(truth, order, strict=True) if t != o[0]]
    assert worst.count == max(pairs.count(pair) for pair in pairs)


def test_a_label_without_rows_has_no_say_in_the_mean_over_classes(rng: np.random.Generator) -> None:
    one = classification(3, [0, 0, 2], rng)
    assert np.isnan(one.recalls[1])
    assert {m.metric: m.value for m in one.measurements}["mean class recall"] == pytest.approx(np.nanmean(one.recalls))
