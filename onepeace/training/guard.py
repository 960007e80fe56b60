"""What keeps a run's weights numbers: steps without a finite loss or gradient change nothing, and too many stop it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

log = logging.getLogger(__name__)


class NotFiniteError(ValueError):
    """A training whose loss, gradients or weights are no numbers any more; the message names the way back."""


class StepGuard:
    """Counts the steps that are skipped, and stops a run in which all are."""

    def __init__(self, most: int) -> None:
        self.most = most  # in a row
        self.skipped = 0
        self._in_a_row = 0

    def admits(self, finite: bool, step: int, checkpoint: str) -> bool:
        """Tell whether a step may change the weights.

        Raises:
            NotFiniteError: too many in a row may not.
        """
        if finite:
            self._in_a_row = 0
            return True
        self.skipped += 1
        self._in_a_row += 1
        log.warning("step %d is skipped: its loss or gradient is not finite", step)
        if self._in_a_row >= self.most:
            raise NotFiniteError(
                f"no loss or gradient was finite in the {self._in_a_row} steps up to {step}; the last good checkpoint "
                f"is {checkpoint}: go on from it with a lower model.optimizer.lr, or raise optimizer.max_skipped"
            )
        return False


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale all gradients together so that their norm is at most `most` (0: leave them), and return what it was.

    Gradients that are divided among processes (FSDP) count whole; a scalar parameter's never is divided.
    """
    trained = [parameter for parameter in parameters if parameter.grad is not None]
    divided = [parameter for parameter in trained if isinstance(parameter.grad, DTensor)]
    whole = [parameter for parameter in trained if not isinstance(parameter.grad, DTensor)]
    norms = []
    for part in filter(None, (divided, whole)):
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in part if parameter.grad is not None])
        norms.append(norm.full_tensor() if isinstance(norm, DTensor) else norm)
    total = torch.linalg.vector_norm(torch.stack(norms)) if len(norms) > 1 else norms[0]
    if most:
        for part in filter(None, (divided, whole)):
            torch.nn.utils.clip_grads_with_norm_(part, most, total)
    return total


def check_weights(state: Mapping[str, Any], checkpoint: str) -> None:
    """Refuse to save weights or statistics that are not finite.

    Raises:
        NotFiniteError: some are not; the message names them.
    """
    bad = [name for name, value in state.items() if isinstance(value, Tensor) and not value.isfinite().all()]
    if bad:
        raise NotFiniteError(
            f"{len(bad)} tensors of the model are not finite, so no checkpoint is written: {', '.join(bad[:3])}; the "
            f"last good one is {checkpoint}: go on from it with a lower model.optimizer.lr"
        )
