"""Reference figures of the shipped model: what its vectors are, as figures.json beside this file holds them.

They were computed in float32. `python benchmarks/check_figures.py` writes them anew after the weights have changed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onepeace.check.finding import Finding, Outcome
from onepeace.check.promises import REFERENCE
from onepeace.check.samples import Samples

if TYPE_CHECKING:
    from onepeace.embedder import Embedder
    from onepeace.reader import FloatMatrix

PATH = Path(__file__).with_name("figures.json")
DIGITS = 8  # behind the point; float32 has seven, and numbers of a unit vector are below 1


@dataclass(frozen=True)
class Figures:
    """The vectors (D,) of the first sample of each modality, and the model that they are of."""

    model: str
    fingerprint: str
    vectors: dict[str, FloatMatrix]

    @classmethod
    def of(cls, model: Embedder, samples: Samples) -> Figures:
        """Compute them with a model in float32."""
        vectors = {modality: model.encode(samples.of(modality)[0]) for modality in model.modalities}
        return cls(model.name, model.fingerprint, vectors)

    @classmethod
    def read(cls, path: Path = PATH) -> Figures:
        """Read what `write` wrote."""
        told = json.loads(path.read_text(encoding="utf-8"))
        vectors = {name: np.asarray(row, dtype=np.float32) for name, row in told["vectors"].items()}
        return cls(told["model"], told["fingerprint"], vectors)

    def write(self, path: Path = PATH) -> None:
        """Write them, a vector a line."""
        lines = ",\n".join(
            f'    "{name}": [{", ".join(f"{value:.{DIGITS}f}" for value in row)}]' for name, row in self.vectors.items()
        )
        head = f'{{\n  "model": {json.dumps(self.model)},\n  "fingerprint": "{self.fingerprint}",\n'
        path.write_text(f'{head}  "vectors": {{\n{lines}\n  }}\n}}\n', encoding="utf-8")

    def compare(self, model: Embedder, samples: Samples, dtype: str) -> Finding:
        """Compare a model's vectors with these, within what its type may cost."""
        number, cosine = REFERENCE[dtype]
        told, wrong = [], []
        for modality, expected_D in self.vectors.items():
            row_D = model.encode(samples.of(modality)[0])
            distance = 1 - float(row_D.astype(np.float64) @ expected_D)
            largest = float(np.abs(row_D - expected_D).max())
            told.append(f"{modality} {max(distance, 0.0):.0e}")
            if not distance <= cosine or (number is not None and not largest <= number):
                wrong.append(modality)
        detail = f"cosine distance to the reference: {', '.join(told)}"
        if wrong:
            others = f"the vectors of {', '.join(wrong)} are not those of the release"
            return Finding(Outcome.FAILED, f"{detail}; {others}", ADVICE[wrong == ["image"] or wrong == ["audio"]])
        return Finding(Outcome.OK, f"{detail}; at most {cosine:g}")


ADVICE = {
    True: "install Pillow, soundfile and soxr again: the decoder gives other data",
    False: "install onepeace and torch again, with the versions of constraints.txt",
}
