"""Zero-shot classification: a label is the mean of its prompts' embeddings (Radford et al., 2021, section 3.1.4).

N: inputs, L: labels, T: prompts of a label, D: embedding dimension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from encoders.modality import Modality
from onepeace.calibration import Calibration
from onepeace.inputs import Audio, Compose, Image, MediaError, Text, listed, parts_of
from onepeace.predict.answers import Prediction

if TYPE_CHECKING:
    from onepeace.embedder import Embedder
    from onepeace.explanation import Explanation

IMAGE_TEMPLATES = ("{}", "a photo of {}", "a picture of {}")
AUDIO_TEMPLATES = ("{}", "the sound of {}", "this is a sound of {}")
TEMPLATES = {Modality.IMAGE: IMAGE_TEMPLATES, Modality.AUDIO: AUDIO_TEMPLATES, Modality.TEXT: ("{}",)}
OTHER = "other"  # the answer when no label fits
FITS = 0.5  # probability from which a label fits, unless told

_ARTICLE_BEFORE = re.compile(r"\ban? \{\}")
_ARTICLE = re.compile(r"(a|an|the|some|two|three|one|my) ", re.IGNORECASE)
_VOWEL = re.compile(r"(?!uni[^nm]|use|usu|eu|one\b|once|ufo|uk|ur[aei])[aeiou]|hour|honest|heir", re.IGNORECASE)


@dataclass(frozen=True)
class LabelSet:
    """All labels that fit one input, each on its own: none, one or several.

    >>> LabelSet(["rain", "thunder"], {"thunder": 0.6, "rain": 0.9, "a dog": 0.1}).labels
    ['rain', 'thunder']
    """

    labels: list[str]  # the best first
    scores: dict[str, float]  # of every label: the probability that it fits, whatever else does


def prompt(template: str, label: str) -> str:
    """Return a label in its template, with the article that the label asks for.

    Templates with "a {}" suit any label: "an" is put before a vowel, and a label with an article keeps its own.

    >>> prompt("a photo of a {}", "elephant")
    'a photo of an elephant'
    >>> prompt("a photo of a {}", "the sea")
    'a photo of the sea'
    """
    if _ARTICLE.match(label):
        template = _ARTICLE_BEFORE.sub("{}", template)
    else:
        template = _ARTICLE_BEFORE.sub("an {}" if _VOWEL.match(label) else "a {}", template)
    return template.replace("{}", label)


def label_rows(prompt_rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit rows (L, D) of L labels, from the rows (L, T, D) of each in T templates."""
    rows = prompt_rows.mean(axis=1)
    out: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return out


class ZeroShotClassifier:
    """Classify pictures and sounds by words alone.

    >>> import onepeace
    >>> model = onepeace.load("onepeace-tiny", dtype="float32")
    >>> classifier = onepeace.ZeroShotClassifier(model, ["a cat", "a dog", "a violin"])
    >>> classifier.predict(onepeace.Image("cat.jpg")).label  # one in, one out; a list in, a list out
    'a cat'
    >>> flags = onepeace.ZeroShotClassifier(model, {"indoors": ["{}", "a room"], "outdoors": ["a street", "a forest"]})
    >>> flags.labels
    ['indoors', 'outdoors']
    >>> flags.prompts()
    [['indoors', 'a room'], ['a street', 'a forest']]
    >>> classifier.templates("audio")
    ['{}', 'the sound of {}', 'this is a sound of {}']
    >>> rows = model.encode([onepeace.Image("cat.jpg")])  # vectors that are there already
    >>> classifier.label_rows().shape[1], classifier.probabilities(rows).sum().round(4).item()
    (512, 1.0)
    >>> classifier.decide(rows)[0].label, bool(classifier.calibration().temperature < 1)
    ('a cat', True)
    >>> thresholds = classifier.thresholds({"a cat": 0.3})  # 0.5 for the others
    >>> [labels.labels for labels in classifier.fitting(rows, "image", thresholds)]
    [['a cat']]
    >>> classifier.predict_sets([onepeace.Image("cat.jpg")])[0].labels
    ['a cat']
    >>> bool(classifier.fits(rows).max() > 0.5)
    True
    >>> classifier.explain("a cat on the grass").label
    'a cat'
    """

    def __init__(
        self,
        model: Embedder,
        labels: Sequence[str] | Mapping[str, str | Sequence[str]],
        templates: Sequence[str] | None = None,
        temperature: float | None = None,
        *,
        other: bool | float = False,
    ) -> None:
        """Say what there is to choose from; labels are embedded when an input of their modality comes.

        Args:
            model: what embeds inputs and labels.
            labels: names; or names with their own prompts, where `{}` may stand for the name.
            templates: prompts around a name, for names without their own; by default those of the input's modality:
                `IMAGE_TEMPLATES`, `AUDIO_TEMPLATES`, and the name itself for texts.
            temperature: what cosines are divided by; by default as the model folder is calibrated, else the inverse of
                the model's logit scale. See `docs/zero-shot.md`.
            other: answer `OTHER` where no label fits with this probability; True stands for 0.5.

        Raises:
            ValueError: fewer than two labels, one twice, an empty one, a template without `{}`, a label without
                prompts, a temperature or threshold that cannot work, or `other` of a model that is not calibrated.
        """
        own = {name: _listed(prompts) for name, prompts in labels.items()} if isinstance(labels, Mapping) else {}
        self.labels = list(labels)
        if isinstance(labels, str):
            raise ValueError(f"labels must be a list of names, got the one string {labels!r}")
        if len(self.labels) < 2:
            raise ValueError(f"labels must be two or more names, got {len(self.labels)}")
        if twice := [label for i, label in enumerate(self.labels) if label in self.labels[:i]]:
            raise ValueError(f"labels must differ, and {twice[0]!r} is there twice")
        if empty := [label for label in self.labels if not label.strip() or own.get(label) == []]:
            raise ValueError(f"every label needs a name and a prompt, got {empty[0]!r}")
        if templates is not None and (isinstance(templates, str) or not templates):
            raise ValueError(f"templates must be a list of one or more, got {templates!r}")
        if bad := [template for template in templates or () if "{}" not in template]:
            raise ValueError(f"a template needs {{}} where the label goes, got {bad[0]!r}")
        if temperature is not None and not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        if not isinstance(other, bool) and not 0 < other < 1:
            raise ValueError(f"other must be a probability between 0 and 1, or True, got {other}")
        if other and OTHER in self.labels:
            raise ValueError(f"a label is called {OTHER!r} already: rename it, or leave other at False")
        self.model = model
        self.other = other
        self._own = own
        self._templates = None if templates is None else list(templates)
        self._temperature = temperature
        self._calibrations = model.folder.calibrations()
        self._rows: dict[tuple[str, ...], NDArray[np.float32]] = {}
        if other and not any(made.fit_cosine is not None for made in self._calibrations.values()):
            self.calibration().fits(np.zeros((1, 2)))  # says what to do

    def templates(self, modality: str = "image") -> list[str]:
        """Return the prompts around a name, for inputs of a modality."""
        return list(TEMPLATES[Modality(modality)]) if self._templates is None else self._templates

    def prompts(self, modality: str = "image") -> list[list[str]]:
        """Return the prompts of each label, for inputs of a modality."""
        own = [self._own.get(label) or self.templates(modality) for label in self.labels]
        return [[prompt(template, label) for template in each] for label, each in zip(self.labels, own, strict=True)]

    def label_rows(self, modality: str = "image") -> NDArray[np.float32]:
        """Return a unit row (L, D) for each label: the direction of the mean of its prompts' vectors."""
        prompts = self.prompts(modality)
        flat = tuple(text for each in prompts for text in each)
        if flat not in self._rows:
            rows = self.model.encode_text(list(flat))
            ends = np.cumsum([len(each) for each in prompts])
            self._rows[flat] = np.concatenate([label_rows(part[None]) for part in np.split(rows, ends[:-1])])
        return self._rows[flat]

    def calibration(self, modality: str = "image") -> Calibration:
        """Return how cosines of a modality's inputs with labels become probabilities."""
        known = self._calibrations.get(str(modality))
        if self._temperature is None:
            return known or Calibration(temperature=1 / self.model.model.logit_scale)
        plain = Calibration(temperature=self._temperature)
        if known is None:
            return plain
        return replace(plain, fit_cosine=known.fit_cosine, fit_width=known.fit_width)

    def probabilities(self, rows: NDArray[np.float32], modality: str = "image") -> NDArray[np.float32]:
        """Return (N, L): which label it is, for embedding rows (N, D) of inputs of a modality."""
        return self.calibration(modality).probabilities(rows @ self.label_rows(modality).T)

    def fits(self, rows: NDArray[np.float32], modality: str = "image") -> NDArray[np.float32]:
        """Return (N, L): the probability that each label fits, whatever others do, for rows (N, D) of a modality.

        Raises:
            ValueError: the model folder is not calibrated for this modality.
        """
        return self.calibration(modality).fits(rows @ self.label_rows(modality).T)

    @overload
    def predict(
        self, inputs: Image | Audio | Text | Compose, *, errors: str = "raise", **options: Any
    ) -> Prediction: ...
    @overload
    def predict(
        self, inputs: Sequence[Any], *, errors: Literal["raise"] = "raise", **options: Any
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, inputs: Sequence[Any], *, errors: Literal["return"], **options: Any
    ) -> list[Prediction | MediaError]: ...
    def predict(self, inputs: Any, *, errors: str = "raise", **options: Any) -> Any:
        """Return one prediction an input, for a list a list; `options` (batch_size, show_progress_bar) go to the model.

        With `errors="return"`, the place of an input that cannot be read holds its error, and the others are answered.

        Raises:
            MediaError: an input cannot be read, and errors are to be raised.
        """
        return self._each(inputs, errors, options, self.decide)

    @overload
    def predict_sets(
        self,
        inputs: Image | Audio | Text | Compose,
        threshold: float | Mapping[str, float] = FITS,
        *,
        errors: str = "raise",
        **options: Any,
    ) -> LabelSet: ...
    @overload
    def predict_sets(
        self,
        inputs: Sequence[Any],
        threshold: float | Mapping[str, float] = FITS,
        *,
        errors: Literal["raise"] = "raise",
        **options: Any,
    ) -> list[LabelSet]: ...
    @overload
    def predict_sets(
        self,
        inputs: Sequence[Any],
        threshold: float | Mapping[str, float] = FITS,
        *,
        errors: Literal["return"],
        **options: Any,
    ) -> list[LabelSet | MediaError]: ...
    def predict_sets(
        self,
        inputs: Any,
        threshold: float | Mapping[str, float] = FITS,
        *,
        errors: str = "raise",
        **options: Any,
    ) -> Any:
        """Return all labels that fit an input, or each of a list, with a probability of `threshold` or more.

        The threshold is one for all, or one a label.

        Raises:
            MediaError: an input cannot be read, and errors are to be raised.
            ValueError: a threshold that is no probability or of an unknown label, or a model that is not calibrated.
        """
        thresholds_L = self.thresholds(threshold)
        return self._each(inputs, errors, options, lambda rows, kind: self.fitting(rows, kind, thresholds_L))

    def thresholds(self, threshold: float | Mapping[str, float]) -> NDArray[np.float32]:
        """Return one threshold a label (L,); labels that a mapping leaves out get 0.5."""
        given = threshold if isinstance(threshold, Mapping) else dict.fromkeys(self.labels, threshold)
        if unknown := [label for label in given if label not in self.labels]:
            raise ValueError(f"a threshold is given for {unknown[0]!r}, which is none of the labels")
        if bad := [value for value in given.values() if not 0 <= value <= 1]:
            raise ValueError(f"a threshold must be a probability between 0 and 1, got {bad[0]}")
        return np.array([given.get(label, FITS) for label in self.labels], dtype=np.float32)

    def decide(self, rows: NDArray[np.float32], modality: str = "image") -> list[Prediction]:
        """Return the predictions for embedding rows (N, D) of inputs of a modality.

        Where nothing may fit, `OTHER` has what the best label's fit lacks, and the labels divide the rest.
        """
        table = self.probabilities(rows, modality)
        if not self.other:
            named = [dict(zip(self.labels, row.tolist(), strict=True)) for row in table]
            return [Prediction(label := max(each, key=each.__getitem__), each[label], each) for each in named]
        below = FITS if self.other is True else float(self.other)
        found = []
        for row, best in zip(table, self.fits(rows, modality).max(axis=1), strict=True):
            label = self.labels[int(row.argmax())] if best >= below else OTHER
            each = dict(zip([*self.labels, OTHER], [*(row * best).tolist(), float(1 - best)], strict=True))
            found.append(Prediction(label, each[label], each))
        return found

    def fitting(self, rows: NDArray[np.float32], modality: str, thresholds_L: NDArray[np.float32]) -> list[LabelSet]:
        """Return the labels whose fit reaches their threshold, for embedding rows (N, D) of inputs of a modality."""
        return [
            LabelSet(
                [self.labels[i] for i in np.argsort(-row_L, kind="stable") if row_L[i] >= thresholds_L[i]],
                dict(zip(self.labels, row_L.tolist(), strict=True)),
            )
            for row_L in self.fits(rows, modality)
        ]

    def explain(self, value: Any, label: str | None = None) -> Explanation:
        """Return how much each part of one input speaks for a label, the predicted one by default.

        Parts of pictures are blurred, of sounds silenced and words left out, one after the other; a part's weight is
        what the label's log-odds lose by it. A picture takes a hundred forwards of the model.

        Raises:
            MediaError: the input cannot be read.
            ValueError: a label that is none of the classifier's, or an input of several parts.
        """
        from onepeace.explain import explain

        return explain(self, value, label)

    def _each(self, inputs: Any, errors: str, options: dict[str, Any], answer: Any) -> Any:
        if errors not in ("raise", "return"):
            raise ValueError(f"errors must be 'raise' or 'return', got {errors!r}")
        values, single = listed(inputs)
        if errors == "raise":
            kept, rows = list(range(len(values))), np.atleast_2d(self.model.encode(values, **options))
            failures: Sequence[tuple[int, str]] = ()
        else:
            result = self.model.encode_many(values, **options)
            kept, rows, failures = result.kept, result.vectors, result.failures
        out: list[Any] = [None] * len(values)
        for i, reason in failures:
            out[i] = MediaError(reason)
        kinds = np.array([kind_of(values[i]) for i in kept])
        for kind in dict.fromkeys(kinds.tolist()):
            places = np.flatnonzero(kinds == kind)
            for place, found in zip(places, answer(rows[places], kind), strict=True):
                out[kept[place]] = found
        return out[0] if single else out


def kind_of(value: Any) -> str:
    """Return the modality that an input is classified as: that of its first part that is no text, else text."""
    modalities = [part.modality for part in parts_of(value)]
    return str(next((modality for modality in modalities if modality is not Modality.TEXT), Modality.TEXT))


def _listed(prompts: str | Sequence[str]) -> list[str]:
    return [prompts] if isinstance(prompts, str) else list(prompts)
