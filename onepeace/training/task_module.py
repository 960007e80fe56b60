"""The LightningModule that trains a task's model: it wires model, loss, schedule and logs. B: questions, C: labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.checkpoint import open_folder
from onepeace.model.block import Block
from onepeace.model.task_head import SEARCHED, TaskConfig
from onepeace.model.task_model import TaskModel
from onepeace.reader import InputReader, model_folder
from onepeace.training.export import ENVELOPE
from onepeace.training.fine_tuning import HEAD_ONLY, KEPT_ADAPTERS, begin_as_nothing, fine_tuning_config
from onepeace.training.lora import LoraConfig, add_lora
from onepeace.training.optim import OptimizerConfig, train_only
from onepeace.training.optimised import OptimisedModule
from onepeace.training.start import load_start
from onepeace.training.task_data import Medium
from onepeace.training.task_inputs import TaskBatch, Trained, kept_sequence
from onepeace.training.task_losses import balanced_weights, task_loss
from onepeace.training.task_targets import task_figures

log = logging.getLogger(__name__)


class TaskModule(OptimisedModule):
    """Trains the head of a task, and on request the model below it.

    Args:
        start: the model that it starts from: a shipped model's name or an export folder.
        task: what is read and answered; that of the data.
        train: `head`: the trunk keeps its weights, and what it makes of the inputs is kept. `fusion`: the fusion
            encoder trains with the head, on tokens of the adapters that are kept. `all`: the adapters train too, and
            inputs are read anew.
        pooled: the modality whose tokens the head reads; None: the first of the task, the image where boxes are found.
        attention_pooling: a learned query asks all tokens; False: the head reads the class token's feature alone.
        pooler: a further layer with tanh behind the pooling.
        pooler_dropout: in it.
        hidden_ratio: width of the head's hidden layer, in widths of a token.
        slots: boxes or spans that are found at most, where they are searched for; None: 16.
        decoder_layers: of the slots' decoder, where they are searched for; 0: each token answers for its own place.
        smoothing: share of the target that goes to the other classes, where one label is right.
        class_weights: `balanced`: rows count by how rare their class is, where one label is right.
        drop_path: share of branches skipped at the last block; None: as in the start.
        image_size: pixels a side; None: as in the start.
        detail: parts a side of a token's place, whose colours (in time: whose spectra) its backbone's token is told
            besides; None: as in the start.
        layers: blocks of the fusion encoder: those beyond the start's own come behind them, and add nothing at first;
            None: as in the start.
        frozen_backbones: whether the networks below the adapters keep their weights; None: as in the start.
        lora: low-rank changes train in the place of the trunk's own weights, and are merged into them at export.
        optimizer: AdamW and its schedule.

    Raises:
        ValueError: no such model, it does not read what the task asks about, or options that do not go together.
    """

    model: TaskModel

    def __init__(
        self,
        start: str,
        task: TaskConfig,
        train: Trained = "head",
        pooled: Medium | None = None,
        attention_pooling: bool = True,
        pooler: bool = False,
        pooler_dropout: float = 0.0,
        hidden_ratio: float = 2.0,
        slots: int | None = None,
        decoder_layers: int = 2,
        smoothing: float = 0.0,
        class_weights: Literal["balanced"] | None = None,
        drop_path: float | None = None,
        image_size: int | None = None,
        detail: int | None = None,
        layers: int | None = None,
        frozen_backbones: bool | None = None,
        lora: LoraConfig | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"model.smoothing must be in [0, 1), got {smoothing}")
        if class_weights and task.kind != "classify":
            raise ValueError(f"model.class_weights are for tasks that classify, and this one {task.kind}s")
        folder = open_folder(model_folder(start))
        if missing := [m for m in task.modalities if m not in folder.config.adapters]:
            raise ValueError(
                f"model.start: {start} reads {', '.join(folder.config.adapters)}, not {', '.join(missing)}"
            )
        if slots is not None and task.kind not in SEARCHED:
            raise ValueError(f"model.slots is for tasks that {' or '.join(SEARCHED)}, got {task.kind}")
        if slots is not None and decoder_layers == 0:
            raise ValueError("model.slots counts learned slots: with model.decoder_layers 0 each token is one")
        if pooled is None and task.kind == "ground":
            pooled = "image"
        task = replace(
            task,
            pooled=pooled and Modality(pooled),
            attention_pooling=attention_pooling,
            pooler=pooler,
            pooler_dropout=pooler_dropout,
            hidden_ratio=hidden_ratio,
            decoder_layers=decoder_layers,
            outputs=task.outputs if slots is None else slots,
        )
        if train == "head":
            if (drop_path, image_size, detail, layers, lora) != (None,) * 5:
                raise ValueError(
                    "model.drop_path, image_size, detail, layers and lora change the trunk: "
                    "set model.train to fusion or all"
                )
            config = replace(folder.config, adapters={m: folder.config.adapters[m] for m in task.modalities})
        else:
            config = fine_tuning_config(
                folder.config, task.modalities, task.pictures, drop_path, image_size, frozen_backbones, detail, layers
            )
        if frozen_backbones is False and train != "all":
            raise ValueError("model.frozen_backbones: false trains what reads the inputs: set model.train to all")
        self.trained: Trained = train
        self.smoothing, self.class_weights, self.optimizer_config = smoothing, class_weights, optimizer
        self.reader = InputReader(replace(folder, config=config))
        self.model = TaskModel(config, task)
        tensors = folder.tensors()
        if folder.task is not None and not _answers_alike(folder.task, task):
            tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
        report = load_start(self.model, tensors)
        for block in self.model.fusion.blocks[folder.config.layers :]:
            begin_as_nothing(cast(Block, block))
        if train != "head":
            log.info("%s: %s", start, report)
        self.lora = lora
        if lora is not None:
            trains = [p for p in self.model.head.parameters() if p.requires_grad]
            add_lora(self.model, lora)
            for parameter in trains:
                parameter.requires_grad_(True)
        elif train != "all":
            train_only(self.model.named_parameters(), HEAD_ONLY if train == "head" else KEPT_ADAPTERS, "model")
        self.figures: dict[str, float] = {}  # of the last validation
        self._answers: list[tuple[Tensor, Any]] = []  # of this validation: logits and targets
        self.register_buffer("weight_C", None, persistent=False)

    def setup(self, stage: str) -> None:
        """Weigh the classes."""
        if self.class_weights:
            counts = self._data.label_counts
            self.weight_C = balanced_weights(list(counts.values())).to(self.device)

    @property
    def detailed(self) -> bool:
        """Tell whether all pictures and sounds come with details of the input."""
        media = [m for m in self.model.task.modalities if m is not Modality.TEXT]
        return all(getattr(self.model.config.adapters[m], "detail", 0) for m in media)

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit

    def logits(self, batch: TaskBatch) -> Tensor:
        """Return the answers: (B, C), (B, choices) or (B, 4); (B, slots, ...) where things are searched for."""
        model = self.model
        if self.trained == "all":
            return model(batch.inputs, batch.second)
        if self.trained == "head":
            return model.answer([TokenSequence(model.task.pooled_modality, *kept) for kept in batch.inputs])
        first = [kept_sequence(model, m, batch.inputs[m]) for m in model.task.modalities]
        second = kept_sequence(model, Modality.IMAGE, batch.second, second=True) if batch.second else None
        return model.answer(model.passes_of(first, second))

    def training_step(self, batch: TaskBatch, batch_idx: int) -> Tensor:
        """Return the loss of a step."""
        loss = task_loss(self.model.task.kind, self.logits(batch), batch.target, self.smoothing, self.weight_C)
        self.log("train/loss", loss, batch_size=len(batch.target), prog_bar=True)
        return loss

    def on_train_epoch_start(self) -> None:
        """Keep the statistics of backbones that train: a fine-tuning's batches are few and small."""
        for module in self.model.adapters.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()

    def on_validation_epoch_start(self) -> None:
        """Collect afresh."""
        self._answers = []

    def validation_step(self, batch: TaskBatch, batch_idx: int) -> None:
        """Answer a batch."""
        target = batch.target.cpu() if isinstance(batch.target, Tensor) else [each.cpu() for each in batch.target]
        self._answers.append((self.logits(batch).float().cpu(), target))

    def on_validation_epoch_end(self) -> None:
        """Log how well the rows were answered, in percent."""
        logits, targets = zip(*self._answers, strict=True)
        figures: Mapping[str, float] = task_figures(self.model.task, logits, targets)
        self.figures = {f"{name} on the validation rows": figure for name, figure in figures.items()}
        self.log_dict({f"val/{name}": figure for name, figure in figures.items()}, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an export needs: plain data only, so that the file loads with `weights_only`."""
        super().on_save_checkpoint(checkpoint)
        tokenizer = self.reader.folder.tokenizer() if Modality.TEXT in self.model.modalities else None
        checkpoint[ENVELOPE] = {
            "model": self.model.config.to_dict(),
            "task": self.model.task.to_dict(),
            "tokenizer": None if tokenizer is None else tokenizer.to_str(),
            "trained_on": self._data.description(),
            "figures": self.figures,
            "lora_scale": None if self.lora is None else self.lora.scale,
        }


def _answers_alike(start: TaskConfig, task: TaskConfig) -> bool:
    """Tell whether the head of one task is one of the other: equal shapes do not say that outputs mean the same."""
    one, other = start.to_dict(), task.to_dict()
    return all(one[name] == other[name] for name in one if name not in ("pooler_dropout", "choices"))
