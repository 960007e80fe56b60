"""Fitting a model's calibration on labelled rows, and measuring it on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from encoders.modality import Modality
from onepeace.calibration import Calibration, fit_calibration
from onepeace.embedder import Embedder
from onepeace.evaluate.encoder import Encoder
from onepeace.evaluate.rows import MEDIA, Row, read_inputs, shares_labels
from onepeace.evaluate.run import by_source, of_modality
from onepeace.manifest import ManifestError
from onepeace.metrics import accuracy, expected_calibration_error, negative_log_likelihood
from onepeace.zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class Labelled:
    """Rows of one source and modality, and their cosines with the labels of that source."""

    source: str
    modality: Modality
    cosines: NDArray[np.floating]  # (N, L)
    true: NDArray[np.int64]  # (N,) places of the right labels


@dataclass(frozen=True)
class Fitness:
    """How far a source's probabilities can be believed, before calibration and after it."""

    source: str
    modality: str
    fitted: bool  # the calibration was fitted on these very rows
    rows: int
    labels: int
    accuracy: float  # percent; the same before and after
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as JSON can hold them."""
        return asdict(self)


@dataclass
class Calibrating:
    """What was fitted, and how well."""

    calibrations: dict[str, Calibration]  # by modality
    sources: dict[str, list[str]]  # that each was fitted on
    fitness: list[Fitness] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)  # (what could not be used, why)


def calibrate(
    model: Embedder,
    inputs: Sequence[Path],
    where: Mapping[str, Sequence[str]] | None = None,
    test: Sequence[Path] = (),
    *,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
) -> Calibrating:
    """Fit a calibration for each modality that has labelled rows, and measure it on them and on the rows of `test`.

    Labels are those that occur in a source, in the default templates, as `onepeace eval` has them. "Before" is the
    softmax at the model's own logit scale.

    Raises:
        ManifestError: an input cannot be read, or no source has rows that share labels.
    """
    encoder = Encoder(model, batch_size, show_progress_bar)
    fitting, failures = _labelled(encoder, inputs, where or {})
    if not fitting:
        raise ManifestError(
            f"nothing to calibrate on in {', '.join(map(str, inputs))}: rows need pictures or sounds and a label that "
            "other rows share"
        )
    held = {kind: [one for one in fitting if one.modality is kind] for kind in MEDIA}
    found = Calibrating(
        {str(kind): fit_calibration([(one.cosines, one.true) for one in own]) for kind, own in held.items() if own},
        {str(kind): [one.source for one in own] for kind, own in held.items() if own},
        failures=failures,
    )
    found.fitness += [_fitness(model, found, one, fitted=True) for one in fitting]
    if test:
        measured, failures = _labelled(encoder, test, {})
        found.failures += failures
        found.fitness += [_fitness(model, found, one, fitted=False) for one in measured]
    found.failures += encoder.failures
    return found


def _labelled(
    encoder: Encoder, inputs: Sequence[Path], where: Mapping[str, Sequence[str]]
) -> tuple[list[Labelled], list[tuple[str, str]]]:
    read = read_inputs(inputs, where)
    found = []
    for source, rows in by_source(read.rows).items():
        for modality in MEDIA:
            members = of_modality(modality, rows)
            if members and shares_labels(members) and encoder.model.supports(modality):
                encoder.embed(modality, [(row.id, row.media[modality]) for row in members])
                readable = [row for row in members if encoder.has(row.media[modality])]
                if len({row.label for row in readable}) >= 2:
                    found.append(_cosines(encoder, source, modality, readable))
    return found, read.failures


def _cosines(encoder: Encoder, source: str, modality: Modality, rows: Sequence[Row]) -> Labelled:
    labels = sorted({str(row.label) for row in rows})
    label_rows_LD = ZeroShotClassifier(encoder.model, labels).label_rows(modality)
    rows_ND = encoder.media([row.media[modality] for row in rows])
    return Labelled(
        source, modality, rows_ND @ label_rows_LD.T, np.array([labels.index(str(row.label)) for row in rows])
    )


def _fitness(model: Embedder, found: Calibrating, one: Labelled, *, fitted: bool) -> Fitness:
    plain = Calibration(temperature=1 / model.model.logit_scale)
    before = plain.probabilities(one.cosines)
    after = found.calibrations.get(str(one.modality), plain).probabilities(one.cosines)
    return Fitness(
        one.source,
        str(one.modality),
        fitted,
        len(one.true),
        one.cosines.shape[1],
        accuracy(after.argmax(axis=1), one.true),
        expected_calibration_error(before, one.true),
        expected_calibration_error(after, one.true),
        negative_log_likelihood(before, one.true),
        negative_log_likelihood(after, one.true),
    )
