"""Why a zero-shot classifier decided as it did: the weights of the parts of an input. T: parts of a sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from encoders.media import open_audio, open_image, open_text
from encoders.modality import Modality
from onepeace.explanation import Explanation, Weights
from onepeace.inputs import Part, parts_of
from onepeace.occlusion import Array, picture_weights, sound_weights, stretches, word_weights
from onepeace.reader import mean

if TYPE_CHECKING:
    from onepeace.zero_shot import ZeroShotClassifier

HEARD = 32_000  # Hz of the waveform that an explanation draws


def explain(classifier: ZeroShotClassifier, value: Any, label: str | None = None) -> Explanation:
    """Return how much each part of an input speaks for a label, the predicted one by default.

    Raises:
        MediaError: the input cannot be read.
        ValueError: a label that is none of the classifier's, or an input of several parts.
    """
    parts = parts_of(value)
    if len(parts) != 1:
        raise ValueError(f"an explanation is of one picture, sound or text, got {len(parts)} parts")
    if label is not None and label not in classifier.labels:
        raise ValueError(f"label {label!r} is none of {', '.join(classifier.labels)}")
    (part,) = parts
    row_D = classifier.model.encode(value)
    probabilities_L = classifier.probabilities(row_D[None], part.modality)[0]
    place = int(probabilities_L.argmax()) if label is None else classifier.labels.index(label)
    if classifier.other and classifier.calibration(part.modality).fit_cosine is not None:
        probabilities_L *= classifier.fits(row_D[None], part.modality).max()  # as `predict` says it
    found = _FINDERS[part.modality](classifier, part, place)
    tokens, words, times, source = found
    if part.modality is not Modality.TEXT:
        words = _prompt_words(classifier, part.modality, place, row_D)
    return Explanation(
        classifier.labels[place], float(probabilities_L[place]), part.modality, tokens, words, times, source
    )


Found = tuple[Weights, list[tuple[str, float]], list[tuple[float, float, float]], Any]


def _picture(classifier: ZeroShotClassifier, part: Part, place: int) -> Found:
    reader = classifier.model.reader
    ((pixels, _),) = reader.read(part)

    def scores(windows: Sequence[Array]) -> NDArray[np.floating]:
        return _log_odds(classifier, classifier.model.embed_windows("image", windows), Modality.IMAGE, place)

    weights_GG = picture_weights(pixels.numpy(), scores)
    return weights_GG, [], [], open_image(part.source, reader.preprocessors[part.modality].limits)


def _sound(classifier: ZeroShotClassifier, part: Part, place: int) -> Found:
    """Hide stretches in each window of a sound while the vectors of its other windows stay."""
    model = classifier.model
    preprocessor: Any = model.reader.preprocessors[part.modality]
    rate = preprocessor.config.sample_rate
    windows = [(samples.numpy(), span) for samples, span in model.reader.read(part)]
    rows_WD = model.embed_windows("audio", [samples for samples, _ in windows])
    times: list[tuple[float, float, float]] = []
    for number, (samples_N, span) in enumerate(windows):
        assert span is not None
        first, last = span
        heard = max(1, min(len(samples_N), round((last - first) * rate)))

        def scores(changed: Sequence[Array], number: int = number) -> NDArray[np.floating]:
            mixed = []
            for row_D in model.embed_windows("audio", changed):
                own_WD = rows_WD.copy()
                own_WD[number] = row_D
                mixed.append(mean(own_WD))
            return _log_odds(classifier, np.stack(mixed), Modality.AUDIO, place)

        bounds = stretches(heard, rate)
        weights_T = sound_weights(samples_N, bounds, rate, scores)
        times += [
            (first + start / rate, first + end / rate, float(weight))
            for (start, end), weight in zip(bounds, weights_T, strict=True)
        ]
    tokens = np.array([weight for _, _, weight in times], dtype=np.float32)
    return tokens, [], times, (open_audio(part.source, HEARD, preprocessor.limits), HEARD)


def _text(classifier: ZeroShotClassifier, part: Part, place: int) -> Found:
    def scores(texts: Sequence[str]) -> NDArray[np.floating]:
        return _log_odds(classifier, classifier.model.encode_text(list(texts)), Modality.TEXT, place)

    text = open_text(part.source)
    words = word_weights(text, scores)
    return np.array([weight for _, weight in words], dtype=np.float32), words, [], text


_FINDERS = {Modality.IMAGE: _picture, Modality.AUDIO: _sound, Modality.TEXT: _text}


def _prompt_words(
    classifier: ZeroShotClassifier, modality: Modality, place: int, row_D: Array
) -> list[tuple[str, float]]:
    """Return the words of a label's longest prompt, with what the label's log-odds lose without each."""
    prompt = max(classifier.prompts(modality)[place], key=lambda text: len(text.split()))

    def scores(texts: Sequence[str]) -> NDArray[np.floating]:
        cosines_L = classifier.label_rows(modality) @ row_D
        cosines_NL = np.tile(cosines_L, (len(texts), 1))
        cosines_NL[:, place] = classifier.model.encode_text(list(texts)) @ row_D
        return log_odds(classifier.calibration(modality).probabilities(cosines_NL), place)

    return word_weights(prompt, scores)


def _log_odds(classifier: ZeroShotClassifier, rows_ND: Array, modality: Modality, place: int) -> NDArray[np.floating]:
    return log_odds(classifier.probabilities(rows_ND, modality), place)


def log_odds(probabilities_NL: NDArray[np.floating], place: int) -> NDArray[np.floating]:
    """Return the log of how much likelier one label is than all others together, (N,)."""
    exact_NL = probabilities_NL.astype(np.float64)
    rest_N = np.delete(exact_NL, place, axis=1).sum(axis=1)
    tiny = np.finfo(np.float32).tiny
    out: NDArray[np.floating] = np.log(np.maximum(exact_NL[:, place], tiny)) - np.log(np.maximum(rest_N, tiny))
    return out
