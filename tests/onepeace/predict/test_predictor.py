"""Answers of every kind of task: against the model on tensors, alone and in crowds, and inputs that are refused."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import PIL.Image
import PIL.ImageOps
import pytest
import torch
from little_media import picture, sound
from task_models import TASKS, write_task_model, write_task_models

import onepeace
import onepeace.predict.question
from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.model.set_head import found
from onepeace.model.task_head import TaskConfig
from onepeace.predict.answers import answer_from_dict
from onepeace.reader import InputReader

WORDS = ["a dog", "the cat in the rain at night", "bird", "a photo of the street", "rain rain rain of the night", "a"]
CHOICES = [["dog", "cat"], ["a dog", "a cat", "rain", "bird"], ["dog", "cat", "rain", "a bird", "street at night"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task_models(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def predictors(folder: Path) -> dict[str, onepeace.TaskPredictor]:
    return {name: onepeace.load_task(folder / name) for name in TASKS}


def noise(seconds: float, seed: int) -> onepeace.Audio:
    samples = np.random.default_rng(seed).normal(scale=0.1, size=round(16_000 * seconds)).astype(np.float32)
    return onepeace.Audio(samples, sampling_rate=16_000)


def inputs_of(task: str, count: int = 6) -> list[dict[str, Any]]:
    """What a task is asked: texts and sounds of different lengths, some sounds longer than a window of 2 s."""
    parts: dict[str, list[Any]] = {
        "text": WORDS,
        "image": [onepeace.Image(picture(seed)) for seed in range(count)],
        "image2": [onepeace.Image(picture(10 + seed)) for seed in range(count)],
        "audio": [noise(seconds, i) for i, seconds in enumerate((1.0, 5.0, 0.3, 2.0, 3.1, 1.7))],
        "choices": [CHOICES[i % 3] for i in range(count)],
    }
    reads = onepeace.predict.question.part_names(TaskConfig.from_dict(TASKS[task]))
    return [{part: parts[part][i] for part in reads} for i in range(count)]


def numbers_of(answer: onepeace.Answer) -> list[float]:
    """Everything in an answer that is a number."""
    if isinstance(answer, onepeace.Prediction | onepeace.Choice):
        return list(answer.probabilities.values())
    if isinstance(answer, onepeace.Grounding):
        return list(answer.box)
    if isinstance(answer, onepeace.Detection):
        return [number for one in answer.boxes for number in (*one.box, one.score)]
    return [number for one in answer.spans for number in (*one.span, one.score)]


@pytest.mark.parametrize("task", TASKS)
def test_an_answer_is_the_same_alone_and_among_others(task: str, predictors: dict[str, onepeace.TaskPredictor]) -> None:
    predictor, inputs = predictors[task], inputs_of(task)
    crowd = predictor.predict(inputs, threshold=0.0)
    assert len({tuple(np.round(numbers_of(one), 4)) for one in crowd}) == len(inputs)  # each is about its own input
    backwards = predictor.predict(inputs[::-1], 4, threshold=0.0)[::-1]
    for asked, among, other in zip(inputs, crowd, backwards, strict=True):
        alone = predictor.ask(asked, threshold=0.0)
        for told in (among, other):
            assert type(told) is type(alone)
            np.testing.assert_allclose(numbers_of(told), numbers_of(alone), rtol=1e-5, atol=6e-5)  # pixels of 60


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_those_of_the_model_on_tensors(
    task: str, folder: Path, predictors: dict[str, onepeace.TaskPredictor]
) -> None:
    opened = open_folder(folder / task)
    model, reader = opened.task_model(), InputReader(opened)
    read = reader.preprocessors
    inputs = inputs_of(task)
    if task == "locate":  # spans of long sounds are joined, which has a test of its own
        inputs = [asked for asked in inputs if len(read["audio"](asked["audio"])) == 1]
    for asked, answer in zip(inputs, predictors[task].predict(inputs, threshold=0.0), strict=True):
        texts = [asked.get("text", "")]
        if task == "choose":
            texts = [f"{asked['text']} answer: {choice}" for choice in asked["choices"]]
            texts += texts[:1] * (-len(texts) % 4)
        windows = read["audio"](asked["audio"]) if "audio" in asked else [None]
        rows = []
        for window in windows:
            made = []
            for first in range(0, len(texts), 4):
                tensors: dict[Any, Any] = {}
                for modality in model.task.modalities:
                    items = {"text": lambda: [read["text"](t) for t in texts[first : first + 4]]}  # noqa: B023
                    items["image"] = lambda: [read["image"](asked["image"])]  # noqa: B023
                    items["audio"] = lambda: [window.samples]  # noqa: B023
                    tensors[modality] = read[modality].collate(items[modality]())
                second = read["image"].collate([read["image"](asked["image2"])]) if "image2" in asked else ()
                with torch.no_grad():
                    made.append(model(tensors, second))
            rows.append(torch.cat(made, dim=-1) if task == "choose" else made[0])
        logits = torch.cat(rows)
        np.testing.assert_allclose(numbers_of(answer), expected(task, logits, asked, windows), rtol=1e-4, atol=1e-4)


def expected(task: str, logits: torch.Tensor, asked: dict[str, Any], windows: list[Any]) -> Any:
    kind = TASKS[task]["kind"]
    if kind == "choose":
        return logits[:, : len(asked["choices"])].softmax(1).mean(0).numpy()
    if kind in ("classify", "tag"):
        return (logits.softmax(1) if kind == "classify" else logits.sigmoid()).mean(0).numpy()
    if kind == "ground":
        left, top, right, bottom = (60 * logits.sigmoid()[0]).tolist()  # the pictures have 60 x 60 pixels
        return [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
    places, scores = found(logits)
    if kind == "detect":
        order = scores[0].argsort(descending=True)
        return torch.cat([60 * places[0], scores[0, :, None]], dim=1)[order].flatten().numpy()
    (window,) = windows
    spans = torch.cat([2.0 * places[0], scores[0, :, None]], dim=1)  # windows are 2 s long
    spans[:, 1] = spans[:, 1].clamp(max=window.end)
    kept = sorted(span for span in spans.tolist() if span[0] < span[1])
    return np.array(kept).flatten()


def turned(size: tuple[int, int], orientation: int, kind: str) -> bytes:
    out = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    PIL.Image.new("RGB", size, (40, 90, 160)).save(out, kind, exif=exif)
    return out.getvalue()


@pytest.fixture(scope="module")
def one_box(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> onepeace.TaskPredictor:
    """A model that always finds the same: from 0.1 to 0.6 of the width, from 0.2 to 0.9 of the height."""
    saying = torch.logit(torch.tensor([0.1, 0.2, 0.6, 0.9])).tolist()
    path = tmp_path_factory.mktemp("planted") / "box"
    return onepeace.load_task(write_task_model(path, folder / "start", TaskConfig.from_dict(TASKS["ground"]), saying))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_boxes_are_in_pixels_of_the_upright_picture(
    kind: str, orientation: int, one_box: onepeace.TaskPredictor
) -> None:
    content = turned((901, 352), orientation, kind)  # large enough that a JPEG is decoded smaller
    found = one_box.ask(image=content, text="a dog")
    shown = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(content)))  # as viewers show it
    assert found.size == shown.size == ((901, 352) if orientation <= 4 else (352, 901))
    width, height = shown.size
    np.testing.assert_allclose(found.box, [0.1 * width, 0.2 * height, 0.6 * width, 0.9 * height], rtol=1e-5)


def test_spans_are_in_seconds_of_the_whole_sound(folder: Path, tmp_path: Path) -> None:
    # Centre and size in shares of a window of 2 s: from 1.0 to 2.0 s of each, with 0.8.
    logits = torch.logit(torch.tensor([0.75, 0.4999999, 0.8])).tolist()
    task = TaskConfig.from_dict(TASKS["locate"] | {"outputs": 1})
    predictor = onepeace.load_task(write_task_model(tmp_path / "span", folder / "start", task, logits))
    spans = predictor.ask(audio=noise(5.5, 1), text="rain").spans
    wanted = [[1.0, 2.0], [3.0, 4.0], [5.0, 5.5]]  # no further than there is sound
    np.testing.assert_allclose([one.span for one in spans], wanted, atol=1e-5)
    np.testing.assert_allclose([one.score for one in spans], 0.8, atol=1e-5)
    never = predictor.ask(audio=noise(0.9, 1), text="rain")  # all of it would be behind the end
    assert (never.present, never.spans, never.presence, never.seconds) == (False, [], 0.0, pytest.approx(0.9))


def test_a_span_that_goes_on_in_the_next_window_is_one(folder: Path, tmp_path: Path) -> None:
    logits = torch.logit(torch.tensor([0.5, 0.9999999, 0.7])).tolist()  # all of a window
    task = TaskConfig.from_dict(TASKS["locate"] | {"outputs": 1})
    predictor = onepeace.load_task(write_task_model(tmp_path / "span", folder / "start", task, logits))
    (whole,) = predictor.ask(audio=noise(7.2, 1), text="rain").spans
    np.testing.assert_allclose(whole.span, [0.0, 7.2], atol=1e-4)


def test_tokens_that_are_slots_find_the_same_alone_and_among_others(folder: Path, tmp_path: Path) -> None:
    """Short sounds, and last windows, have fewer tokens, and so fewer slots."""
    task = TaskConfig.from_dict(TASKS["locate"] | {"decoder_layers": 0})
    predictor = onepeace.load_task(write_task_model(tmp_path / "tokens", folder / "start", task))
    asked = [{"audio": noise(seconds, 1), "text": "rain"} for seconds in (5.3, 0.7, 2.0)]
    for one, among in zip(asked, predictor.predict(asked, threshold=0.002), strict=True):
        alone = predictor.ask(one, threshold=0.002)
        assert alone.spans
        np.testing.assert_allclose([m.span for m in alone.spans], [m.span for m in among.spans], atol=1e-4)
        assert all(0.0 <= m.span.start < m.span.end <= alone.seconds + 1e-6 for m in alone.spans)


def test_what_is_less_sure_than_the_threshold_is_not_present(folder: Path, tmp_path: Path) -> None:
    task = TaskConfig.from_dict(TASKS["detect"] | {"outputs": 1})  # one slot's anchor is in the middle
    logits = torch.logit(torch.tensor([0.5, 0.5, 0.5, 0.25, 0.4])).tolist()
    predictor = onepeace.load_task(write_task_model(tmp_path / "boxes", folder / "start", task, logits))
    asked = {"image": PIL.Image.new("RGB", (200, 80)), "text": "a dog"}
    missing, there = predictor.ask(asked), predictor.ask(asked, threshold=0.39)
    assert (missing.present, missing.boxes, there.present) == (False, [], True)
    assert missing.presence == there.presence == pytest.approx(0.4)
    (one,) = there.boxes
    np.testing.assert_allclose(one.box, [50, 30, 150, 50], atol=1e-4)


def test_rows_columns_and_bare_inputs_are_the_same_question(predictors: dict[str, onepeace.TaskPredictor]) -> None:
    pictures = [onepeace.Image(picture(seed)) for seed in range(3)]
    classify, answer = predictors["classify"], predictors["answer"]
    bare = classify.predict(pictures)
    assert bare == classify.predict([{"image": one} for one in pictures]) == classify.predict(image=pictures)
    assert classify.predict(iter(pictures)) == bare
    np.testing.assert_array_equal(classify.probabilities(pictures), [list(one.probabilities.values()) for one in bare])
    rows = answer.predict([{"image": one, "text": "a dog"} for one in pictures])
    assert rows == answer.predict(image=pictures, text="a dog")
    assert rows == answer.predict(image=pictures, text=["a dog"] * 3)
    assert [answer.ask(image=one, text="a dog").label for one in pictures] == [one.label for one in rows]
    sounds = [noise(1.0, 3), noise(1.0, 4)]
    choose = predictors["choose"]
    assert choose.predict(audio=sounds, choices=["dog", "cat"]) == choose.predict(
        audio=sounds, choices=[["dog", "cat"]] * 2, text=[None, float("nan")]
    )
    samples = {"array": np.zeros(16_000, np.float32), "sampling_rate": 16_000}
    assert predictors["sounds"].predict([samples]) == predictors["sounds"].predict([{"audio": samples}])
    assert classify.predict([]) == []


def test_two_pictures_are_told_apart(predictors: dict[str, onepeace.TaskPredictor]) -> None:
    one, other = onepeace.Image(picture(1)), onepeace.Image(picture(2))
    there = predictors["pair"].ask(image=one, image2=other, text="a dog")
    back = predictors["pair"].ask(image=other, image2=one, text="a dog")
    assert there.probabilities != pytest.approx(back.probabilities)


PICTURE = onepeace.Image(picture(0))
REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    (
        "ground",
        [PICTURE],
        ValueError,
        "input 0 is image alone, and ground reads text and image together",
    ),
    (
        "ground",
        [{"image": PICTURE, "text": "a"}, {"image": PICTURE}],
        ValueError,
        "input 1 has no text, and ground reads",
    ),
    (
        "ground",
        [{"image": PICTURE, "text": "a", "audio": "a.wav"}],
        ValueError,
        "input 0 has audio, and ground reads text a",
    ),
    ("ground", [{"image": PICTURE, "text": " "}], ValueError, "input 0 has an empty text"),
    ("ground", [{"image": PICTURE, "text": 3}], TypeError, "input 0: text must be a str, got int"),
    ("ground", [{"image": onepeace.Audio("a.wav"), "text": "a"}], TypeError, "image is Audio('a.wav'), wanted Image"),
    (
        "ground",
        [{"image": "gone.jpg", "text": "a"}, {"image": PICTURE, "text": "a"}],
        onepeace.MediaError,
        "input 0: cannot",
    ),
    ("pair", [{"image": PICTURE, "text": "a"}], ValueError, "input 0 has no image2"),
    ("choose", [{"audio": "a.wav"}], ValueError, "input 0 has no choices, and choose reads text, audio and choices"),
    ("choose", [{"audio": "a.wav", "choices": "a,b"}], TypeError, "input 0: choices must be a list of texts"),
    ("choose", [{"audio": "a.wav", "choices": ["a"]}], ValueError, "two or more, got 1"),
    ("choose", [{"audio": "a.wav", "choices": ["a", "a"]}], ValueError, "different texts"),
    ("classify", ["a red picture"], ValueError, "input 0 is text, and classify reads image only"),
    ("classify", [onepeace.Compose(PICTURE, "a")], TypeError, "input 0: a Compose is a mix for one vector"),
    ("classify", [b"GIF"], TypeError, "input 0: bytes could be anything"),
    ("classify", "a.jpg", TypeError, "predict takes a list of inputs, got str: ask takes one"),
]


@pytest.mark.parametrize(("task", "inputs", "error", "reason"), REFUSED)
def test_what_cannot_be_asked_is_named_in_one_line(
    task: str, inputs: Any, error: type[Exception], reason: str, predictors: dict[str, onepeace.TaskPredictor]
) -> None:
    with pytest.raises(error, match=re.escape(reason)) as told:
        predictors[task].predict(inputs)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("columns", "error", "reason"),
    [
        ({}, TypeError, "takes a list of inputs, or columns: text, image"),
        ({"picture": [PICTURE]}, TypeError, "no column 'picture': ground reads text and image"),
        ({"image": [PICTURE] * 2, "text": ["a"] * 3}, ValueError, "got 2 of image, 3 of text"),
        ({"image": [PICTURE], "text": "a", "threshold": 2}, ValueError, "threshold must be a probability"),
        ({"image": [PICTURE], "text": "a", "errors": "skip"}, ValueError, "errors must be raise or return"),
        ({"image": [PICTURE], "text": "a", "batch_size": 0}, ValueError, "batch_size must be at least 1"),
    ],
)
def test_columns_that_do_not_go_together_are_refused(
    columns: dict[str, Any], error: type[Exception], reason: str, predictors: dict[str, onepeace.TaskPredictor]
) -> None:
    with pytest.raises(error, match=re.escape(reason)):
        predictors["ground"].predict(**columns)
    with pytest.raises(ValueError, match="no labels"):
        predictors["ground"].probabilities(image=[PICTURE], text="a")


def test_a_table_is_given_by_its_columns(predictors: dict[str, onepeace.TaskPredictor]) -> None:
    table = pandas.DataFrame({"id": [1, 2], "image": [PICTURE, PICTURE], "text": ["a dog", None]})
    with pytest.raises(TypeError, match=re.escape("as in predict(**table[['text', 'image']])")):
        predictors["ground"].predict(table)
    first, lacking = predictors["ground"].predict(**table[["text", "image"]], errors="return")
    assert first.text == "a dog"
    assert str(lacking).startswith("input 1 has no text")


def test_one_bad_input_costs_the_others_nothing(predictors: dict[str, onepeace.TaskPredictor]) -> None:
    good = {"image": PICTURE, "text": "a dog"}
    inputs = [good, {"image": "gone.jpg", "text": "a"}, {"text": "a"}, good, {"image": PICTURE, "text": 3}]
    first, gone, lacking, last, number = predictors["ground"].predict(inputs, errors="return")
    for one in (first, last):
        np.testing.assert_allclose(one.box, predictors["ground"].ask(good).box, atol=1e-3)
    assert isinstance(gone, onepeace.MediaError)
    assert [type(lacking), type(number)] == [ValueError, ValueError]
    assert (str(lacking), str(number)) == (
        'input 2 has no image, and ground reads text and image: {"text": ..., "image": ...}',
        "input 4: text must be a str, got int",
    )


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_written_as_plain_values_and_read_again(
    task: str, predictors: dict[str, onepeace.TaskPredictor]
) -> None:
    answer = predictors[task].ask(inputs_of(task)[0], threshold=0.0)
    again = answer_from_dict(answer.to_dict(), getattr(answer, "text", ""))
    assert type(again) is type(answer)
    np.testing.assert_allclose(numbers_of(again), numbers_of(answer), atol=6e-4)
    assert again.to_dict() == answer.to_dict()
    assert repr(answer).startswith(f"{type(answer).__name__}(")
    assert len(repr(answer)) < 500


def test_folders_load_as_what_they_hold(folder: Path) -> None:
    assert isinstance(onepeace.load(folder / "ground"), onepeace.TaskPredictor)
    assert isinstance(onepeace.load(folder / "start"), onepeace.Embedder)
    with pytest.raises(CheckpointError, match=r"start holds a model that embeds, and no task's head: .*load_embedder"):
        onepeace.load_task(folder / "start")
    with pytest.raises(CheckpointError, match=r"ground holds the head of a task \(ground\) and embeds nothing"):
        onepeace.load_embedder(folder / "ground")
    for name, told in {
        "pair": "TaskPredictor('pair', says which of 2 labels fits, reads text, image and image2)",
        "locate": "TaskPredictor('locate', finds when a sound is heard, reads text and audio)",
    }.items():
        assert repr(onepeace.load(folder / name)) == told
    shown = onepeace.load(folder / "answer")._repr_html_()
    assert "tag: says which of 5 labels fit" in shown
    assert "no, yes, 1, 2, 3" in shown


def test_a_task_that_reads_text_needs_a_vocabulary(folder: Path, tmp_path: Path) -> None:
    for file in (folder / "ground").iterdir():
        if file.name != "tokenizer.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(CheckpointError, match="reads text and has no vocabulary"):
        onepeace.load(tmp_path)


def test_sounds_are_what_wav_files_hold(predictors: dict[str, onepeace.TaskPredictor], tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(sound(2))
    assert predictors["sounds"].predict(audio=[str(tmp_path / "a.flac")]) == predictors["sounds"].predict(
        [onepeace.Audio(sound(2))]
    )
