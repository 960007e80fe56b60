"""The LightningModule of contrastive training: it wires model, losses, schedule and logs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L
import torch
import yaml
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from encoders.modality import Modality
from encoders.pretrained import PretrainedConfig, load_pretrained, pretrained_tokenizer
from encoders.teachers import build_teacher
from onepeace.checkpoint import open_folder
from onepeace.model.config import ModelConfig
from onepeace.model.decoder import Decoder, DecoderConfig
from onepeace.model.onepeace import OnePeace
from onepeace.reader import model_folder
from onepeace.training.data import PairBatch, StepBatch
from onepeace.training.distillation import Distillation, DistillationConfig
from onepeace.training.evaluation import EvaluationBatch, Recall
from onepeace.training.export import ENVELOPE, read_training_checkpoint
from onepeace.training.fine_tuning import fine_tuning_config
from onepeace.training.gather import gather_rows
from onepeace.training.guard import StepGuard, check_weights, clip_gradients
from onepeace.training.losses import even_targets, fits, multi_positive_loss
from onepeace.training.masking import keep_tokens
from onepeace.training.optim import OptimizerConfig, build_optimizer, train_only
from onepeace.training.pretraining import DenoisingConfig, Passes, denoising_terms, draw_views, pretraining_passes
from onepeace.training.start import load_start, mean_weights
from onepeace.training.texts import word_starts

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the loss terms; 0 leaves a term out."""

    contrastive: float = 1.0
    scale: float | None = None  # fixed inverse temperature; None: the model's learned one
    smoothing: float = 0.0  # share of the contrastive target that goes to the other keys
    keep_tokens: int | None = None  # feature tokens of a picture that are kept in training; None: all
    denoising: DenoisingConfig | None = None  # masked feature distillation through a decoder; None: no decoder
    decoder: DecoderConfig = DecoderConfig()

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.contrastive < 0.0:
            raise ValueError(f"loss.contrastive must not be negative, got {self.contrastive}")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"loss.smoothing must be in [0, 1), got {self.smoothing}")
        if self.keep_tokens is not None and self.keep_tokens < 1:
            raise ValueError(f"loss.keep_tokens must be at least 1, got {self.keep_tokens}")
        if self.denoising is not None and self.keep_tokens is not None:
            raise ValueError("loss.denoising masks tokens itself: leave loss.keep_tokens out")


class ContrastiveModule(L.LightningModule):
    """Contrastive training of a OnePeace model on pairs of media and text (Wang et al., 2023, section 2.2).

    Args:
        model: YAML file with the model's sizes; or else
        start: a model that is fine-tuned: a shipped model's name or an export folder. Every block gets position tables
            of its own, as in the official fine-tuned models.
        modalities: those of `start` that stay; empty: all.
        drop_path: of a fine-tuned model; None: as in `start`.
        image_size: of a fine-tuned model, pixels a side; None: as in `start`.
        pretrained: what its adapters start from.
        start_from: a .ckpt of an earlier run whose weights are loaded, after `pretrained`; its schedule is not. Of
            several the mean.
        tokenizer: tokenizer.json; None: the one that belongs to `pretrained.text`.
        trainable: regular expressions of parameter names; what fits none is frozen. Empty: everything that the model
            itself does not freeze trains.
        loss: weights of the loss terms.
        distillations: teachers, and how they are learned from.
        optimizer: AdamW and its schedule.
        recompute: compute each block a second time in the backward pass instead of keeping what lies between: memory
            for time, the same gradients.
    """

    model: OnePeace

    def __init__(
        self,
        model: Path | None = None,
        start: str | None = None,
        modalities: tuple[Literal["text", "image", "audio"], ...] = (),
        drop_path: float | None = None,
        image_size: int | None = None,
        pretrained: PretrainedConfig = PretrainedConfig(),  # noqa: B008 - frozen
        start_from: Path | list[Path] | None = None,
        tokenizer: Path | None = None,
        trainable: tuple[str, ...] = (),
        loss: LossConfig = LossConfig(),
        distillations: list[DistillationConfig] | None = None,
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if (model is None) == (start is None):
            raise ValueError("give model.model, a file with the sizes of a new model, or model.start, a model to tune")
        if start is None and (modalities or drop_path is not None or image_size is not None):
            raise ValueError("model.modalities, drop_path and image_size change model.start: name one")
        self.loss_config = loss
        self.optimizer_config = optimizer
        if start is not None:
            self.model, self.tokenizer = _tuned(start, [Modality(m) for m in modalities], drop_path, image_size)
        else:
            assert model is not None
            self.model, self.tokenizer = _new(model, pretrained, tokenizer)
        self.model.fusion.recompute = recompute
        self.teachers = tuple(build_teacher(config.teacher) for config in distillations or ())  # no part of the weights
        self.distillations = nn.ModuleList(
            Distillation(config, teacher, self.model.config.embedding_dim)
            for config, teacher in zip(distillations or (), self.teachers, strict=True)
        )
        self.trained_on: dict[str, Any] = {}  # source -> rows and licences, of earlier stages too
        self.decoder: Decoder | None = None
        if loss.denoising is not None:
            self.decoder = Decoder(loss.decoder, self.model.config)
            self.word_starts_V = word_starts(self.tokenizer)
        if start_from is not None:
            paths = start_from if isinstance(start_from, list) else [start_from]
            checkpoints = [read_training_checkpoint(path) for path in paths]
            report = load_start(self, mean_weights([checkpoint["state_dict"] for checkpoint in checkpoints]))
            log.info("%s: %s", ", ".join(map(str, paths)), report)
            for checkpoint in checkpoints:
                self.trained_on |= checkpoint[ENVELOPE].get("trained_on", {})
        if trainable:
            train_only(self.trained_parts(), trainable, "model.trainable")
        self.figures: dict[str, float] = {}  # of the last validation
        self._recalls: list[Recall] = []
        self._step_started = 0.0
        self._scalars: set[nn.Parameter] = set()  # parameters that are whole in every process, where others are divided
        self._guard = StepGuard(optimizer.max_skipped)
        self._losses_finite = torch.tensor(True)  # since the last update of the weights

    def trained_parts(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters of the model by name, then those that stay behind: `decoder.`, `distillations.`."""
        yield from self.model.named_parameters()
        yield from self.distillations.named_parameters("distillations")
        if self.decoder is not None:
            yield from self.decoder.named_parameters("decoder")

    def _distillations(self) -> Iterator[tuple[int, Distillation]]:
        for number, distillation in enumerate(self.distillations):
            assert isinstance(distillation, Distillation)
            yield number, distillation

    @property
    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]  # set by Trainer.fit

    def setup(self, stage: str) -> None:
        """Freeze what no batch of this run reaches: several processes would wait for its gradient."""
        if stage != "fit":
            return
        streams = self._data.stream_configs
        reached = {str(stream.modality) for stream in streams}
        if self._data.distilled_texts or any(stream.train_text for stream in streams):
            reached.add(Modality.TEXT)
        # A decoder that predicts texts learns to, even where the text encoder itself keeps its weights.
        joint = self.loss_config.denoising is not None and self.loss_config.denoising.joint
        decoded = reached | {Modality.TEXT} if joint else reached
        for name, parameter in self.trained_parts():
            if set(name.split(".")) & (set(Modality) - (decoded if name.startswith("decoder.") else reached)):
                parameter.requires_grad_(False)
        self.trained_on = self.trained_on | self._data.description()

    def configure_model(self) -> None:
        """Divide the weights among a ModelParallelStrategy's processes (FSDP; Zhao et al., 2023, arXiv:2304.11277)."""
        if self.device_mesh is None or isinstance(self, FSDPModule):
            return
        mesh = self.device_mesh["data_parallel"]
        self._scalars = {parameter for parameter in self.parameters() if parameter.ndim == 0}  # which it cannot divide
        for block in (*self.model.fusion.blocks, *(self.decoder.fusion.blocks if self.decoder else ())):
            fully_shard(block, mesh=mesh)
        fully_shard(self, mesh=mesh, ignored_params=self._scalars)
        for name in ("training_step", "validation_step"):
            register_fsdp_forward_method(self, name)

    def on_after_backward(self) -> None:
        """Average the gradients that FSDP leaves alone."""
        for parameter in self._scalars:
            if parameter.grad is not None:
                parameter.grad = cast(Tensor, self.all_gather(parameter.grad)).mean(dim=0)

    def training_step(self, batch: StepBatch, batch_idx: int) -> Tensor:
        """Return the loss of a step: the weighted sum over streams and terms."""
        total = torch.zeros((), device=self.device)
        for number, pair in enumerate(batch.pairs):
            for name, weight, value in self._terms(pair, batch.step * len(batch.pairs) + number):
                self.log(f"train/{pair.modality}_{name}", value, batch_size=len(pair))
                total = total + weight * value
        if batch.ids is not None:
            vectors_ND = self._embed_texts(batch.ids)
            for number, distillation in self._distillations():
                if number in batch.text_lessons:
                    value = distillation(vectors_ND, batch.text_lessons[number])
                    self.log(f"train/texts_{distillation.config.title}", value, batch_size=len(batch.ids))
                    total = total + distillation.config.weight * value
        self._losses_finite = self._losses_finite.to(self.device) & total.detach().isfinite()
        self.log("train/loss", total, prog_bar=True, batch_size=1)
        self.log("train/scale", self.model.logit_scale().detach(), batch_size=1)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return total

    def _terms(self, pair: PairBatch, chance: int) -> list[tuple[str, float, Tensor]]:
        """Return the terms of one stream: name, weight, value. Masks depend on the number `chance`."""
        config, paired = self.loss_config, len(pair)
        terms = []
        further = pair.ids if config.denoising is None else pair.ids[paired:]  # texts without media of their own
        with torch.set_grad_enabled(torch.is_grad_enabled() and pair.train_text):
            text_ND = self._embed_texts(further) if len(further) else None
        if config.denoising is None:
            media_BD = self._embed_media(pair)
        else:
            passes, denoising = self._denoise(pair, config.denoising, chance)
            terms += denoising
            media_BD = passes.media
            text_ND = passes.text if text_ND is None else torch.cat([passes.text, text_ND])
        assert text_ND is not None
        scale = self.model.logit_scale() if config.scale is None else media_BD.new_tensor(config.scale)
        if config.contrastive:
            # Texts of further labels are the same in all processes, so only paired ones are gathered.
            key_ND = torch.cat([gather_rows(text_ND[:paired]), text_ND[paired:].detach()])
            key_concept_N = torch.cat([gather_rows(pair.text_concepts[:paired]), pair.text_concepts[paired:]])
            target_BN = even_targets(fits(pair.media_concepts, key_concept_N))
            contrastive = multi_positive_loss(media_BD, key_ND, scale, target_BN, config.smoothing)
            if pair.train_text:
                target_BN = even_targets(fits(gather_rows(pair.media_concepts), pair.text_concepts[:paired]).T)
                key_BD = gather_rows(media_BD)
                to_media = multi_positive_loss(text_ND[:paired], key_BD, scale, target_BN, config.smoothing)
                contrastive = (contrastive + to_media) / 2
            terms.append(("contrastive", config.contrastive, contrastive))
        for number, distillation in self._distillations():
            name, weight = distillation.config.title, distillation.config.weight
            if number in pair.class_ids:
                with torch.set_grad_enabled(torch.is_grad_enabled() and pair.train_text):
                    class_MD = self._embed_texts(pair.class_ids[number])
                target_BM = pair.media_lessons[number]
                terms.append((name, weight, multi_positive_loss(media_BD, class_MD, scale, target_BM)))
            elif number in pair.media_lessons:
                terms.append((name, weight, distillation(media_BD, pair.media_lessons[number])))
            elif number in pair.text_lessons and pair.train_text:
                terms.append((name, weight, distillation(text_ND, pair.text_lessons[number])))
        return terms

    def _denoise(
        self, pair: PairBatch, config: DenoisingConfig, chance: int
    ) -> tuple[Passes, list[tuple[str, float, Tensor]]]:
        """Return the passes over a stream's pairs, and its denoising terms."""
        assert self.decoder is not None
        text: Any = self.model.adapters[Modality.TEXT]
        media: Any = self.model.adapters[pair.modality]
        ids_BL = pair.ids[: len(pair)]
        ids_BL = ids_BL[:, : int((ids_BL != text.pad_id).sum(dim=1).max())]
        features = _as_float(pair.media)[0] if pair.cached else media.features(*pair.media)
        generator = torch.Generator().manual_seed(chance * self.trainer.world_size + self.global_rank)
        with torch.no_grad():
            shapes = text.from_features(ids_BL), media.from_features(features)
        views = draw_views(config, shapes[0], self.word_starts_V[ids_BL.cpu()], shapes[1], generator)
        passes = pretraining_passes(
            self.model, self.decoder, ids_BL, pair.modality, features, views, config, not pair.train_text
        )
        terms = denoising_terms(passes, views, config)
        return passes, [(name, weight, value) for name, (weight, value) in terms.items()]

    def _embed_media(self, batch: PairBatch | EvaluationBatch) -> Tensor:
        adapter: Any = self.model.adapters[batch.modality]
        tokens = adapter.from_features(*_as_float(batch.media)) if batch.cached else adapter(*batch.media)
        if self.training and self.loss_config.keep_tokens is not None:
            tokens = keep_tokens(tokens, self.loss_config.keep_tokens)
        return self.model.embed_tokens(tokens)

    def _embed_texts(self, ids_NL: Tensor, parts: int = 2) -> Tensor:
        """Return (N, D) unit rows. Texts run in parts of similar length, so that short ones carry little padding."""
        if len(ids_NL) < 8 * parts:
            return self.model.embed_text(ids_NL)
        pad_id = self.model.config.adapters[Modality.TEXT].preprocess.pad_id  # type: ignore[attr-defined]
        lengths_N = (ids_NL != pad_id).sum(dim=1)
        order_N = lengths_N.argsort(stable=True)
        vectors = [self.model.embed_text(ids_NL[part, : int(lengths_N[part].max())]) for part in order_N.chunk(parts)]
        return torch.cat(vectors)[order_N.argsort()]

    def configure_optimizers(self) -> Any:
        """Return AdamW over what trains, and its schedule, stepped with it."""
        steps = int(self.trainer.estimated_stepping_batches)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # it must be left to find what is not finite
        optimizer, schedule = build_optimizer(self.trained_parts(), self.optimizer_config, steps, fused=scaler is None)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients together; where it or the loss is not finite, the step changes nothing.

        Lightning itself refuses to clip with a fused optimiser. A step without gradients is one that AdamW, too, leaves
        out: moments and weight decay included.
        """
        norm = clip_gradients(self.parameters(), float(gradient_clip_val or 0.0))
        # The gradients are those of all processes already, the losses are not.
        finite = self.trainer.strategy.reduce_boolean_decision(bool(self._losses_finite & norm.isfinite()))
        self._losses_finite = torch.ones_like(self._losses_finite)
        if not self._guard.admits(finite, self.trainer.global_step, self._last_checkpoint()):
            optimizer.zero_grad(set_to_none=True)

    def on_train_batch_start(self, batch: StepBatch, batch_idx: int) -> None:
        """Seed what the step draws, so that a resumed run drops the same units as one that never stopped."""
        seed = int(self._data.seed)
        torch.manual_seed(seed * 1_000_003 + batch.step * self.trainer.world_size + self.global_rank)
        self._step_started = time.perf_counter()

    def on_train_batch_end(self, outputs: Any, batch: StepBatch, batch_idx: int) -> None:
        """Log the pairs of all processes that went through in a second."""
        rows = sum(len(pair) for pair in batch.pairs) * self.trainer.world_size
        self.log("samples/s", rows / (time.perf_counter() - self._step_started), prog_bar=True, batch_size=1)
        if self._guard.skipped:
            self.log("train/skipped_steps", float(self._guard.skipped), batch_size=1)

    def on_validation_epoch_start(self) -> None:
        """Start with empty sets."""
        self._recalls = [Recall(config) for config in self._data.evaluation_configs]

    def validation_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Embed a part of an evaluation set."""
        self._recalls[batch.number].add(batch, self._embed_media(batch), self._embed_texts(batch.ids, parts=4))

    def on_validation_epoch_end(self) -> None:
        """Log recall both ways. Every process has seen the whole sets, so all have the same figures."""
        figures = {name: value for recall in self._recalls for name, value in recall.figures().items()}
        self.log_dict(figures)
        if figures:
            self.log("mean_recall", sum(figures.values()) / len(figures), prog_bar=True)
        if not self.trainer.sanity_checking:
            self.figures = figures

    def _last_checkpoint(self) -> str:
        callback: Any = self.trainer.checkpoint_callback
        saved = callback and (callback.last_model_path or callback.best_model_path)
        return str(saved or self.trainer.ckpt_path or "none: there is none yet")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an export needs: plain data only, so that the file loads with `weights_only`.

        Raises:
            NotFiniteError: a weight is no number.
        """
        check_weights(checkpoint["state_dict"], self._last_checkpoint())
        checkpoint[ENVELOPE] = {
            "model": self.model.config.to_dict(),
            "tokenizer": self.tokenizer.to_str(),
            "trained_on": self.trained_on,
            "figures": self.figures,
        }


def _new(file: Path, pretrained: PretrainedConfig, tokenizer: Path | None) -> tuple[OnePeace, Any]:
    """Return a new model and its tokenizer. Raises ValueError."""
    from tokenizers import Tokenizer

    if not Path(file).is_file():
        raise ValueError(f"model.model: {file} does not exist; paths in a config count from {Path.cwd()}")
    model = OnePeace(ModelConfig.from_dict(yaml.safe_load(Path(file).read_text(encoding="utf-8"))))
    if Modality.TEXT not in model.modalities:
        raise ValueError(f"{file}: contrastive training pairs media with text, but the model has no text adapter")
    load_pretrained(dict(model.adapters.items()), pretrained)
    if tokenizer is not None:
        return model, Tokenizer.from_file(str(tokenizer))
    if pretrained.text is None:
        raise ValueError("set model.tokenizer to a tokenizer.json, or model.pretrained.text")
    return model, pretrained_tokenizer(pretrained.text)


def _tuned(
    start: str, modalities: Sequence[Modality], drop_path: float | None, image_size: int | None
) -> tuple[OnePeace, Any]:
    """Return a model that begins with another's weights, and its tokenizer. Raises ValueError."""
    folder = open_folder(model_folder(start))
    tokenizer = folder.tokenizer()
    chosen = modalities or tuple(folder.config.adapters)
    if tokenizer is None or Modality.TEXT not in chosen:
        raise ValueError(f"model.start: contrastive training pairs media with text, and {start} is to read none")
    model = OnePeace(fine_tuning_config(folder.config, chosen, 1, drop_path, image_size))
    log.info("%s: %s", start, load_start(model, folder.tensors()))
    return model, tokenizer


def _as_float(media: tuple[Any, ...]) -> list[Any]:
    """Return cached float16 features in float32."""
    return [[item.float() for item in part] if isinstance(part, list) else part.float() for part in media]
