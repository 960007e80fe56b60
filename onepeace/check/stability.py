"""Whether a vector belongs to its input alone: twice the same, and the same among others. N: inputs, D: width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onepeace.check.finding import Finding, Outcome
from onepeace.check.promises import ANSWERS, STABLE
from onepeace.check.samples import Samples

if TYPE_CHECKING:
    from onepeace.embedder import Embedder
    from onepeace.predict.predictor import TaskPredictor

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


def answers_alone_and_together(predictor: TaskPredictor, samples: Samples) -> Finding:
    """Ask the head of a task about inputs alone and in a crowd: what it says must stay the same but for rounding."""
    from onepeace.predict.question import CHOICES, SECOND, question

    reader, count = predictor.reader, len(samples.texts)
    shown: dict[str, list[Any]] = {kind: samples.of(kind)[:count] for kind in ("text", "image", "audio")}
    shown |= {SECOND: shown["image"][::-1], CHOICES: [list(samples.texts)] * count}
    rows = [
        row
        for values in zip(*(shown[part] for part in predictor.reads), strict=True)
        for row in reader.prepare(
            question(dict(zip(predictor.reads, values, strict=True)), predictor.task, predictor.name, "a sample")
        ).rows(predictor.task.choices)
    ]
    alone = [predictor.numbers([row])[0] for row in rows]
    worst = max(float(np.abs(one - other).max()) for one, other in zip(alone, predictor.numbers(rows), strict=True))
    told = f"{count} inputs alone and together: numbers differ by {worst:.0e}"
    if not worst <= ANSWERS:
        return Finding(Outcome.FAILED, f"{told}, at most {ANSWERS:g} is promised", ADVICE)
    return Finding(Outcome.OK, f"{told}, at most {ANSWERS:g}")
