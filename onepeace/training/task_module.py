"""The LightningModule that trains a head on a frozen trunk: it wires model, loss, schedule and logs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from encoders.tokens import Modality, TokenSequence
from onepeace.checkpoint import open_folder
from onepeace.model.task_head import TaskConfig
from onepeace.model.task_model import TaskModel
from onepeace.reader import InputReader, model_folder
from onepeace.training.export import ENVELOPE
from onepeace.training.fine_tuning import HEAD_ONLY
from onepeace.training.optim import OptimizerConfig, build_optimizer, train_only
from onepeace.training.start import load_start
from onepeace.training.task_data import Batch
from onepeace.training.task_losses import classification_loss


class TaskModule(L.LightningModule):
    """Trains a head that classifies pictures or sounds; the trunk keeps its weights.

    Args:
        start: the model whose trunk it is: a shipped model's name or an export folder.
        modality: image or audio.
        labels: the names of the classes; those of the data.
        hidden_ratio: width of the head's hidden layer, in widths of a token.
        smoothing: share of the target that goes to the other classes.
        optimizer: AdamW and its schedule.

    Raises:
        ValueError: no such model, or it does not read the modality.
    """

    def __init__(
        self,
        start: str,
        modality: Literal["image", "audio"],
        labels: tuple[str, ...],
        hidden_ratio: float = 2.0,
        smoothing: float = 0.1,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"model.smoothing must be in [0, 1), got {smoothing}")
        folder = open_folder(model_folder(start))
        if modality not in folder.config.adapters:
            raise ValueError(f"model.start: {start} reads {', '.join(folder.config.adapters)}, not {modality}")
        self.reader = InputReader(folder)
        self.optimizer_config, self.smoothing = optimizer, smoothing
        task = TaskConfig(
            kind="classify",
            modalities=(Modality(modality),),
            outputs=len(labels),
            hidden_ratio=hidden_ratio,
            labels=tuple(labels),
        )
        config = replace(folder.config, adapters={Modality(modality): folder.config.adapters[Modality(modality)]})
        self.model = TaskModel(config, task)
        load_start(self.model, folder.model().state_dict())
        train_only(self.model.named_parameters(), HEAD_ONLY, "model")
        self.figures: dict[str, float] = {}  # of the last validation
        self._counts = torch.zeros(2, dtype=torch.long)  # right, all

    def logits(self, batch: Batch) -> Tensor:
        """Return (B, labels) for features that the trunk made."""
        features_BLD, padding_BL, _ = batch
        logits: Tensor = self.model.head([TokenSequence(self.model.task.modalities[0], features_BLD, padding_BL)])
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a step."""
        loss = classification_loss(self.logits(batch), batch[2], self.smoothing)
        self.log("train/loss", loss, batch_size=len(batch[2]), prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        """Count afresh."""
        self._counts = torch.zeros(2, dtype=torch.long)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the rows that are told right."""
        right = int((self.logits(batch).argmax(dim=1) == batch[2]).sum())
        self._counts += torch.tensor([right, len(batch[2])])

    def on_validation_epoch_end(self) -> None:
        """Log the share of rows that were told right, in percent."""
        right, count = self._counts.tolist()
        self.figures = {"accuracy on the validation rows": 100.0 * right / max(1, count)}
        self.log("val/accuracy", self.figures["accuracy on the validation rows"], prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Return AdamW over the head, and its schedule over all steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        optimizer, schedule = build_optimizer(
            self.model.named_parameters(), self.optimizer_config, steps, fused=self.device.type != "mps"
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an export needs: plain data only, so that the file loads with `weights_only`."""
        tokenizer = self.reader.folder.tokenizer() if Modality.TEXT in self.model.modalities else None
        checkpoint[ENVELOPE] = {
            "model": self.model.config.to_dict(),
            "task": self.model.task.to_dict(),
            "tokenizer": None if tokenizer is None else tokenizer.to_str(),
            "trained_on": self.trainer.datamodule.description(),  # type: ignore[attr-defined]  # set by Trainer.fit
            "figures": self.figures,
        }
