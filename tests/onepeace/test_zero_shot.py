"""The classifier against softmax and logistic functions written down again, and on the gallery."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from little_media import picture, sound

import onepeace
from onepeace import Audio, Calibration, Compose, Embedder, Image, ZeroShotClassifier
from onepeace.checkpoint import open_folder
from onepeace.zero_shot import OTHER, prompt

LABELS = ["dog", "cat", "rain"]
MADE = {
    "image": Calibration(temperature=0.05, spread=0.1, exponent=0.5, fit_cosine=0.1, fit_width=0.05),
    "audio": Calibration(temperature=0.02, fit_cosine=0.3, fit_width=0.1),
}


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Embedder:
    path = shutil.copytree(model_folder, tmp_path_factory.mktemp("calibrated") / "model")
    open_folder(path).write_calibrations(MADE, {"image": ["photos"], "audio": ["sounds"]})
    return onepeace.load(path, dtype="float32")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("template", "label", "expected"),
    [
        ("a photo of a {}", "dog", "a photo of a dog"),
        ("a photo of a {}", "owl", "a photo of an owl"),
        ("A {} of an {}", "hour", "A hour of an hour"),  # a capital A is left alone
        ("a photo of an {}", "unicorn", "a photo of a unicorn"),
        ("a photo of a {}", "the sea", "a photo of the sea"),
        ("a photo of a {}", "an owl", "a photo of an owl"),
        ("the sound of {}", "owl", "the sound of owl"),
        ("{}", "{}", "{}"),
    ],
)
def test_a_prompt_has_the_article_of_its_label(template: str, label: str, expected: str) -> None:
    assert prompt(template, label) == expected


def test_without_calibration_it_is_a_softmax_at_the_logit_scale(embedder: Embedder) -> None:
    values = [Image(picture(1)), Audio(sound(1)), "a dog in the rain"]
    rows = embedder.encode(values)
    found = ZeroShotClassifier(embedder, LABELS, ["{}", "a {}"]).predict(values)
    texts = embedder.encode_text([template.format(label) for label in LABELS for template in ("{}", "a {}")])
    labels = unit(texts.reshape(3, 2, -1).mean(axis=1))
    expected = torch.softmax(torch.from_numpy(embedder.model.logit_scale * rows @ labels.T), dim=1).numpy()
    for prediction, row in zip(found, expected, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)
        assert prediction.label == LABELS[row.argmax()]
        assert prediction.top(2)[0] == (prediction.label, prediction.probability)


def test_each_modality_has_its_own_calibration_and_templates(calibrated: Embedder) -> None:
    values = [Audio(sound(1)), Image(picture(1)), Compose("a dog", Audio(sound(2)))]
    found = ZeroShotClassifier(calibrated, LABELS).predict(values)
    for value, prediction, kind in zip(values, found, ("audio", "image", "audio"), strict=True):
        templates = {"audio": onepeace.zero_shot.AUDIO_TEMPLATES, "image": onepeace.zero_shot.IMAGE_TEMPLATES}[kind]
        texts = calibrated.encode_text([template.format(label) for label in LABELS for template in templates])
        cosines = calibrated.encode(value) @ unit(texts.reshape(3, 3, -1).mean(axis=1)).T
        made = MADE[kind]
        temperature = made.temperature * (made.spread / cosines.std()) ** made.exponent
        expected = torch.softmax(torch.from_numpy(cosines / temperature), dim=0)
        assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)


def test_labels_may_have_prompts_of_their_own(embedder: Embedder) -> None:
    labels = {"dry": "the street at night", "wet": ["the rain", "{} street"]}
    classifier = ZeroShotClassifier(embedder, labels)
    assert classifier.prompts() == [["the street at night"], ["the rain", "wet street"]]
    texts = embedder.encode_text(["the street at night", "the rain", "wet street"])
    np.testing.assert_allclose(classifier.label_rows(), [texts[0], unit(texts[1] + texts[2])], atol=1e-5)


def test_label_sets_hold_what_reaches_its_threshold(calibrated: Embedder) -> None:
    classifier = ZeroShotClassifier(calibrated, LABELS)
    values = [Image(picture(seed)) for seed in range(6)]
    cosines = calibrated.encode(values) @ classifier.label_rows("image").T
    fits = 1 / (1 + np.exp(-(cosines - 0.1) / 0.05))
    thresholds = {"dog": 0.2, "cat": 0.9}
    for found, row in zip(classifier.predict_sets(values, thresholds), fits, strict=True):
        assert list(found.scores.values()) == pytest.approx(row.tolist(), abs=1e-5)
        limits = np.array([0.2, 0.9, 0.5])
        assert found.labels == [LABELS[i] for i in np.argsort(-row) if row[i] >= limits[i]]


def test_other_is_the_answer_where_no_label_fits(calibrated: Embedder) -> None:
    values = [Image(picture(seed)) for seed in range(8)]
    plain = ZeroShotClassifier(calibrated, LABELS)
    best = plain.fits(calibrated.encode(values)).max(axis=1)
    threshold = float(np.median(best))
    found = ZeroShotClassifier(calibrated, LABELS, other=threshold).predict(values)
    for one, before, fit in zip(found, plain.predict(values), best, strict=True):
        assert (one.label == OTHER) == (fit < threshold)
        assert one.probability == one.probabilities[one.label]
        assert sum(one.probabilities.values()) == pytest.approx(1, abs=1e-6)
        assert one.probabilities[OTHER] == pytest.approx(1 - fit, abs=1e-6)
        for label, share in before.probabilities.items():
            assert one.probabilities[label] == pytest.approx(share * fit, abs=1e-6)


def test_one_input_gives_one_answer_and_a_list_of_one_a_list(calibrated: Embedder) -> None:
    classifier, value = ZeroShotClassifier(calibrated, LABELS), Image(picture(1))
    assert [classifier.predict(value)] == classifier.predict([value])
    assert [classifier.predict_sets(value)] == classifier.predict_sets([value])
    assert isinstance(classifier.predict(Image(b"nothing"), errors="return"), onepeace.MediaError)


def test_an_explanation_says_the_probability_of_the_prediction(calibrated: Embedder) -> None:
    for other in (False, True):
        classifier, value = ZeroShotClassifier(calibrated, LABELS, other=other), Image(picture(2))
        shown = classifier.explain(value)
        assert shown.probability == pytest.approx(classifier.predict(value).probabilities[shown.label], abs=1e-5)


def test_what_cannot_be_read_never_loses_the_rest(embedder: Embedder) -> None:
    classifier = ZeroShotClassifier(embedder, LABELS)
    values = [Image(picture(1)), Image(b"nothing"), Audio(sound(1))]
    first, bad, last = classifier.predict(values, errors="return", batch_size=2)
    assert isinstance(bad, onepeace.MediaError)
    assert [first, last] == classifier.predict([values[0], values[2]])
    with pytest.raises(onepeace.MediaError, match="input 1"):
        classifier.predict(values)
    with pytest.raises(ValueError, match="'raise' or 'return'"):
        classifier.predict(values, errors="ignore")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"labels": ["dog"]}, "two or more names, got 1"),
        ({"labels": "dog"}, "a list of names"),
        ({"labels": ["dog", "cat", "dog"]}, "'dog' is there twice"),
        ({"labels": ["dog", " "]}, "needs a name"),
        ({"labels": {"dog": [], "cat": "a cat"}}, "needs a name and a prompt, got 'dog'"),
        ({"templates": ["a photo"]}, "needs {} where"),
        ({"templates": "a {}"}, "a list"),
        ({"temperature": 0.0}, "positive"),
        ({"other": True}, "onepeace calibrate"),
        ({"other": 1.5}, "between 0 and 1"),
        ({"labels": ["dog", "other"], "other": 0.5}, "called 'other' already"),
    ],
)
def test_mistakes_are_named(embedder: Embedder, arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ZeroShotClassifier(embedder, **{"labels": LABELS} | arguments)


def test_thresholds_that_cannot_work_are_named(calibrated: Embedder) -> None:
    classifier = ZeroShotClassifier(calibrated, LABELS)
    with pytest.raises(ValueError, match="'bird', which is none"):
        classifier.predict_sets([Image(picture(1))], {"bird": 0.5})
    with pytest.raises(ValueError, match="between 0 and 1"):
        classifier.predict_sets([Image(picture(1))], 2.0)
