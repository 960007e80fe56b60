"""Zero-shot classification: a label is the mean of its prompts' embeddings (Radford et al., 2021, section 3.1.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onepeace.embedder import Embedder

IMAGE_TEMPLATES = ("{}", "a photo of {}", "a picture of {}")
AUDIO_TEMPLATES = ("{}", "the sound of {}", "this is a sound of {}")


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one input: its best label, and every label's probability."""

    label: str
    probability: float
    probabilities: dict[str, float]


def label_rows(prompt_rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return unit rows (L, D) of L labels, from the rows (L, T, D) of each in T templates."""
    rows = prompt_rows.mean(axis=1)
    out: NDArray[np.float32] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return out


def label_probabilities(rows: NDArray[np.float32], labels: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Return the softmax (N, L) of `scale` times the cosines between unit rows (N, D) and labels (L, D)."""
    logits = scale * rows @ labels.T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    out: NDArray[np.float32] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return out


class ZeroShotClassifier:
    """Classify pictures and sounds by words alone."""

    def __init__(
        self,
        model: Embedder,
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
        temperature: float | None = None,
    ) -> None:
        """Embed every label in every template; `temperature` None takes the model's own.

        Raises:
            ValueError: fewer than two labels, one twice, or a template without `{}`.
        """
        if len(labels) < 2 or len(set(labels)) != len(labels):
            raise ValueError("labels must be two or more different names")
        if bad := [template for template in templates if "{}" not in template]:
            raise ValueError(f"a template needs {{}} where the label goes, got {bad[0]!r}")
        self.model = model
        self.labels = list(labels)
        self.templates = list(templates)
        self.scale = model.model.logit_scale if temperature is None else 1.0 / temperature
        prompts = [template.format(label) for label in labels for template in templates]
        self.label_rows = label_rows(model.encode_text(prompts).reshape(len(labels), len(templates), -1))

    def probabilities(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (N, labels) softmax probabilities for embedding rows (N, D)."""
        return label_probabilities(rows, self.label_rows, self.scale)

    def predict(self, inputs: Sequence[Any], **options: Any) -> list[Prediction]:
        """Return one prediction an input; `options` go to `Embedder.encode`."""
        table = self.probabilities(np.atleast_2d(self.model.encode(list(inputs), **options)))
        return [
            Prediction(
                self.labels[int(row.argmax())], float(row.max()), dict(zip(self.labels, row.tolist(), strict=True))
            )
            for row in table
        ]
