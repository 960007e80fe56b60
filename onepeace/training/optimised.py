"""What training modules of one model and one optimiser share: AdamW, its schedule, clipping, and safe checkpoints."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import nn

from onepeace.training.guard import check_weights, clip_gradients
from onepeace.training.optim import OptimizerConfig, build_optimizer


class OptimisedModule(L.LightningModule):
    """Trains `model` by `optimizer_config`; subclasses set both."""

    model: nn.Module
    optimizer_config: OptimizerConfig

    def configure_optimizers(self) -> Any:
        """Return AdamW over what trains, and its schedule over all steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = build_optimizer(
            self.model.named_parameters(), self.optimizer_config, steps, fused=self.device.type != "mps"
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip the norm of all gradients together, which Lightning refuses to do with a fused optimiser."""
        clip_gradients(self.parameters(), float(gradient_clip_val or 0.0))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that are no numbers.

        Raises:
            NotFiniteError: a weight is no number.
        """
        check_weights(checkpoint["state_dict"], str(self.trainer.ckpt_path or "none: there is none yet"))
