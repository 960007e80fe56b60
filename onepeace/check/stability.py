"""Whether a vector belongs to its input alone: twice the same, and the same among others. N: inputs, D: width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onepeace.check.finding import Finding, Outcome
from onepeace.check.promises import STABLE
from onepeace.check.samples import Samples

if TYPE_CHECKING:
    from onepeace.embedder import Embedder

ADVICE = "install torch again, in the version of constraints.txt"


def repeats(model: Embedder, samples: Samples) -> Finding:
    """Encode each input twice: every bit must be the same."""
    different = [
        modality
        for modality in model.modalities
        if not np.array_equal(*(model.encode(samples.of(modality)[0]) for _ in range(2)))
    ]
    if different:
        return Finding(Outcome.FAILED, f"{', '.join(different)}: another vector the second time", ADVICE)
    return Finding(Outcome.OK, f"{', '.join(model.modalities)}: bit for bit the same twice")


def alone_and_together(model: Embedder, samples: Samples, dtype: str) -> Finding:
    """Encode inputs alone, in a crowd, and in that backwards: vectors must stay within what the type may cost."""
    inputs = [value for modality in model.modalities for value in samples.of(modality)]
    alone_ND = np.stack([model.encode(value) for value in inputs]).astype(np.float64)
    together_ND = model.encode(inputs, batch_size=7)
    backwards_ND = model.encode(inputs[::-1], batch_size=5)[::-1]
    worst = max(float((1 - (alone_ND * rows).sum(1)).max()) for rows in (together_ND, backwards_ND))
    told = f"{len(inputs)} inputs alone, in batches and backwards: cosine distance {max(worst, 0.0):.0e}"
    if not worst <= STABLE[dtype]:
        return Finding(Outcome.FAILED, f"{told}, at most {STABLE[dtype]:g} is promised", ADVICE)
    return Finding(Outcome.OK, f"{told}, at most {STABLE[dtype]:g}")
