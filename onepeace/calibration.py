"""From cosines to probabilities that can be believed. N: rows, L: labels.

Which label: a softmax whose temperature is fitted on labelled rows (Guo et al., 2017, arXiv:1706.04599) and depends on
how far a row's cosines spread, so that one fit serves label sets that are easy or hard to tell apart (after Joy et al.,
2023, arXiv:2207.06211). Whether a label fits at all, whatever the others do: a logistic function of its cosine (Platt,
1999).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

FORMAT_VERSION = 1
SMALLEST_SPREAD = 1e-3  # of a row's cosines; below it they say nothing


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How cosines of one modality's vectors with labels become probabilities."""

    temperature: float  # of a row whose cosines spread by `spread`
    spread: float = 1.0  # standard deviation of a row's cosines over the labels
    exponent: float = 0.0  # the temperature goes with spread to the power of minus this; 0: one temperature for all
    fit_cosine: float | None = None  # where a label is as likely to fit as not; None: never fitted
    fit_width: float | None = None  # cosine that multiplies the odds by e

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, value in asdict(self).items():
            if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
                raise ValueError(f"calibration.{name} must be a finite number, got {value!r}")
        for name in ("temperature", "spread", "fit_width"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"calibration.{name} must be positive, got {value}")
        if self.exponent < 0:
            raise ValueError(f"calibration.exponent must not be negative, got {self.exponent}")
        if (self.fit_cosine is None) != (self.fit_width is None):
            raise ValueError("calibration.fit_cosine and calibration.fit_width go together")

    def probabilities(self, cosines_NL: Floats) -> NDArray[np.float32]:
        """Return (N, L): which of the labels it is, as probabilities that add up to one.

        >>> Calibration(temperature=0.1).probabilities(np.array([[0.3, 0.1]])).round(2).tolist()
        [[0.8799999952316284, 0.11999999731779099]]
        """
        spread_N1 = np.maximum(cosines_NL.std(axis=1, keepdims=True), SMALLEST_SPREAD)
        logits_NL = cosines_NL / (self.temperature * (self.spread / spread_N1) ** self.exponent)
        exponentials_NL = np.exp(logits_NL - logits_NL.max(axis=1, keepdims=True))
        return (exponentials_NL / exponentials_NL.sum(axis=1, keepdims=True)).astype(np.float32)

    def fits(self, cosines: Floats) -> NDArray[np.float32]:
        """Return, for each cosine, the probability that the label fits, where it is as likely to as not beforehand.

        Raises:
            ValueError: this was never fitted.

        >>> Calibration(temperature=0.1, fit_cosine=0.4, fit_width=0.1).fits(np.array([0.4, 0.6])).round(2).tolist()
        [0.5, 0.8799999952316284]
        """
        if self.fit_cosine is None or self.fit_width is None:
            raise ValueError(
                "whether a label fits at all is only known to a calibrated model: run `onepeace calibrate MANIFEST "
                "--model FOLDER --write` on labelled pictures or sounds"
            )
        return (1 / (1 + np.exp((self.fit_cosine - cosines) / self.fit_width))).astype(np.float32)


def read_calibrations(data: Any) -> tuple[dict[str, Calibration], dict[str, list[str]]]:
    """Return the calibration of each modality and the data it was fitted on, from what a model folder's file holds.

    Raises:
        ValueError: another format version, unknown fields, or numbers that cannot work.
    """
    if not isinstance(data, Mapping) or data.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version must be {FORMAT_VERSION}: calibrate the model again")
    modalities = data.get("modalities")
    if not isinstance(modalities, Mapping):
        raise ValueError("modalities must hold a calibration a modality")
    try:
        found = {str(modality): Calibration(**values) for modality, values in modalities.items()}
        sources = {str(modality): [str(name) for name in names] for modality, names in data["fitted_on"].items()}
        return found, sources
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"it is not as `onepeace calibrate` writes it: {error}") from error


def calibrations_data(calibrations: Mapping[str, Calibration], sources: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what a model folder's file holds: the calibrations, and the names of the data they were fitted on."""
    fields = {
        modality: {name: _short(value) for name, value in asdict(calibration).items() if value is not None}
        for modality, calibration in calibrations.items()
    }
    return {
        "format_version": FORMAT_VERSION,
        "modalities": fields,
        "fitted_on": {k: list(v) for k, v in sources.items()},
    }


def fit_calibration(sets: Sequence[tuple[Floats, NDArray[np.integer]]]) -> Calibration:
    """Return the calibration that fits labelled rows best.

    Each set is (cosines (N, L), places of the right labels (N,)) of one source with labels of its own; sources count
    alike, however many rows they have. Temperature and exponent minimise the negative log-likelihood. The logistic
    function is fitted to all pairs of a row and a label, right pairs weighing as much as wrong ones together.

    Raises:
        ValueError: no set, or one without rows or with fewer than two labels.
    """
    from scipy.optimize import minimize

    from onepeace.metrics import negative_log_likelihood

    if not sets or any(len(cosines_NL) == 0 or cosines_NL.shape[1] < 2 for cosines_NL, _ in sets):
        raise ValueError("a calibration needs labelled rows, of two labels or more")
    exact = [(np.asarray(cosines_NL, np.float64), true_N) for cosines_NL, true_N in sets]
    spread = float(np.mean([cosines_NL.std(axis=1).mean() for cosines_NL, _ in exact]))

    def softened(logs: NDArray[np.float64]) -> Calibration:
        return Calibration(temperature=math.exp(logs[0]), spread=spread, exponent=max(0.0, float(logs[1])))

    def loss(logs: NDArray[np.float64]) -> float:
        made = softened(logs)
        return float(np.mean([negative_log_likelihood(made.probabilities(z_NL), true_N) for z_NL, true_N in exact]))

    start = np.array([[math.log(0.05), 0.2], [math.log(0.03), 0.2], [math.log(0.05), 0.6]])
    bounds = [(math.log(1e-3), math.log(10.0)), (0.0, 3.0)]
    found = minimize(loss, start[0], method="Nelder-Mead", bounds=bounds, options={"initial_simplex": start})
    which = softened(found.x)

    own = [z_NL[np.arange(len(true_N)), true_N] for z_NL, true_N in exact]
    rest = [z_NL[np.arange(z_NL.shape[1]) != true_N[:, None]] for z_NL, true_N in exact]

    def misfit(parameters: NDArray[np.float64]) -> float:
        middle, width = parameters[0], math.exp(parameters[1])
        right = np.mean([np.logaddexp(0, (middle - cosines) / width).mean() for cosines in own])
        wrong = np.mean([np.logaddexp(0, (cosines - middle) / width).mean() for cosines in rest])
        return float(right + wrong)

    begin = [float(np.mean([np.median(cosines) for cosines in own])), math.log(0.05)]
    middle, log_width = minimize(misfit, begin, method="Nelder-Mead").x
    return replace(which, fit_cosine=float(middle), fit_width=math.exp(log_width))


def _short(value: float) -> float:
    return float(f"{value:.6g}")
