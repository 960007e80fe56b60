"""The data of a training run under Lightning: manifests, cached features, texts, what teachers say, and the loaders."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from encoders.adapter import Preprocessor
from encoders.modality import Modality
from encoders.teachers import Teacher, teacher_key
from onepeace.manifest import Shards
from onepeace.model.onepeace import OnePeace
from onepeace.training.augment import AugmentConfig, Reader, build_reader
from onepeace.training.data import Source, StepBatch, Stream, StreamConfig, TrainingSteps
from onepeace.training.distillation import Distillation, lesson_rows, media_lessons
from onepeace.training.evaluation import EvaluationBatch, EvaluationBatches, EvaluationConfig
from onepeace.training.features import Features, build_features, cache_key, weights_key
from onepeace.training.mixing import Origin, draw_partners
from onepeace.training.rows import Row, SourceConfig, load_rows
from onepeace.training.text_features import cached_text_features
from onepeace.training.texts import LabelConfig, TextBank, fill, label_names, recombine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listing:
    """What is known of a source before its media are read."""

    config: SourceConfig
    name: str  # of its caches
    rows: Sequence[Row]
    shards: Shards
    reader: Reader
    adapter: Any
    backbone: str | None  # key of its frozen weights, whose output is cached; None: nothing is


class ContrastiveData(L.LightningDataModule):
    """Streams of pairs for training and sets for validation.

    Args:
        streams: what trains; each step takes one batch of each.
        evaluations: what recall is measured on.
        root: folder of the manifests; None: ONEPEACE_DATA, or ../shared/data.
        manifest: the training rows, below `root`.
        cache: folder for what frozen backbones and teachers make of each row; None: nothing is cached, and media are
            read, altered and run through the backbones in every step.
        steps_per_epoch: between checkpoints and validations; None: until every source has shown every row.
        distilled_texts: further texts a step that only learn from the teachers of texts, over all processes.
        recombined_texts: how many of them are made by recombining captions.
        labels: names of things that join them.
        augment: how media are altered.
        limit_rows: at most so many rows a source, for trying things out.
        num_workers: processes that prepare batches; 0: the training process does.
        seed: of the order, the views and the texts.
    """

    def __init__(
        self,
        streams: list[StreamConfig],
        evaluations: list[EvaluationConfig] | None = None,
        root: Path | None = None,
        manifest: Path = Path("manifest-train.parquet"),
        cache: Path | None = None,
        steps_per_epoch: int | None = None,
        distilled_texts: int = 0,
        recombined_texts: int = 0,
        labels: list[LabelConfig] | None = None,
        augment: AugmentConfig = AugmentConfig(),  # noqa: B008 - frozen
        limit_rows: int | None = None,
        num_workers: int = 0,
        seed: int = 3407,
    ) -> None:
        super().__init__()
        if not streams:
            raise ValueError("data.streams is empty: name at least one modality to train")
        self.stream_configs = streams
        self.evaluation_configs = evaluations or []
        self.root = root or Path(os.environ.get("ONEPEACE_DATA", "../shared/data"))
        self.manifest = manifest
        self.cache = cache
        self.steps_per_epoch = steps_per_epoch
        self.distilled_texts = distilled_texts
        self.recombined_texts = recombined_texts
        self.label_configs = labels or []
        self.augment = augment
        self.limit_rows = limit_rows
        self.num_workers = num_workers
        self.seed = seed
        self.first_step = 0
        self.skipped: dict[str, str] = {}  # id of a medium that could not be read -> why
        self.steps: TrainingSteps | None = None
        self.evaluations: list[EvaluationBatches] = []
        self._shards: dict[Path, Shards] = {}

    def check(self) -> None:
        """Read all manifests.

        Raises:
            ManifestError: one cannot be read, or lacks what its source asks for.
        """
        for stream in self.stream_configs:
            for source in stream.sources:
                load_rows(source, Modality(stream.modality), source.manifest or self.root / self.manifest)
        for evaluation in self.evaluation_configs:
            for manifest in evaluation.manifests:
                for source in evaluation.sources:
                    load_rows(source, Modality(evaluation.modality), source.manifest or self.root / manifest)

    def setup(self, stage: str) -> None:
        """Read the manifests, cache features, collect the texts, and ask the teachers."""
        if not self.evaluations:
            self._set_up_evaluations()
        if stage == "fit" and self.steps is None:
            self._set_up_training()

    def _set_up_training(self) -> None:
        module = self._module()
        groups = [self._training_sources(config) for config in self.stream_configs]
        bank = TextBank(
            self._training_texts([source for group in groups for source in group]), self._text_preprocessor()
        )
        concepts: dict[str, int] = {}
        streams = [
            Stream(config, group, bank, concepts) for config, group in zip(self.stream_configs, groups, strict=True)
        ]
        for number, distillation in enumerate(module.distillations):
            self._teach(number, distillation, module.teachers[number], streams, bank)
        if self.distilled_texts and not bank.lessons:
            raise ValueError("data.distilled_texts learn from a teacher of texts: name one in model.distillations")
        rank, processes = module.trainer.global_rank, module.trainer.world_size
        self.steps = TrainingSteps(streams, bank, self.distilled_texts, self.seed, rank, processes)
        self.steps_per_epoch = self.steps_per_epoch or max(stream.pass_steps for stream in streams)

    def _set_up_evaluations(self) -> None:
        # Their texts have a bank of their own, so that no held-out text is ever drawn for training.
        for number, config in enumerate(self.evaluation_configs):
            group = [
                self._plain_source(self._listing(config.modality, source, manifest, AugmentConfig()))
                for manifest in config.manifests
                for source in config.sources
            ]
            texts = dict.fromkeys(text for source in group for row in source.rows for text in row.texts)
            bank = TextBank(list(texts), self._text_preprocessor())
            self.evaluations.append(EvaluationBatches(number, config, group, bank))

    def _text_preprocessor(self) -> Preprocessor:
        module = self._module()
        preprocessor: Preprocessor = module.model.config.adapters[Modality.TEXT].preprocessor(module.tokenizer)
        return preprocessor

    def train_dataloader(self) -> DataLoader[StepBatch]:
        """Return the loader of the steps that are left of this epoch, then of whole ones."""
        assert self.steps is not None
        assert self.steps_per_epoch is not None
        return StepLoader(self.steps, self.steps_per_epoch, self.first_step, self.num_workers)

    def val_dataloader(self) -> list[DataLoader[EvaluationBatch]]:
        """Return one loader an evaluation set."""
        return [DataLoader(evaluation, batch_size=None) for evaluation in self.evaluations]

    def state_dict(self) -> dict[str, Any]:
        """Return where training stands: batches are functions of the step, so the step is all."""
        return {"step": self._module().trainer.global_step, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at the step of a checkpoint.

        Raises:
            ValueError: the checkpoint was trained with another seed, so its order cannot go on.
        """
        if state_dict["seed"] != self.seed:
            raise ValueError(f"the checkpoint was trained with data.seed {state_dict['seed']}, not {self.seed}")
        self.first_step = state_dict["step"]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take note of the media that were left out, by workers too."""
        if isinstance(batch, StepBatch):
            self.skipped |= batch.skipped
        return batch

    def teardown(self, stage: str) -> None:
        """Say how many media were left out, if any."""
        if self.skipped:
            named = ", ".join(list(self.skipped)[:10])
            log.warning("%d media could not be read and were left out: %s", len(self.skipped), named)

    def description(self) -> dict[str, dict[str, Any]]:
        """Return of each source that trains, for the model card: rows, those with several media, and licences."""
        described: dict[str, dict[str, Any]] = {}
        for stream in self.steps.streams if self.steps else ():
            for source in stream.sources:
                licences = sorted({source.rows[row].licence for row in source.members} - {""})
                several = sum(source.rows[row].several_media for row in source.members)
                described[source.config.name] = {
                    "rows": len(source.members),
                    "rows_with_several_media": several,
                    "licences": licences,
                }
        return described

    def _module(self) -> Any:
        assert self.trainer is not None
        return self.trainer.lightning_module

    def _listing(self, modality: str, config: SourceConfig, manifest: Path, augment: AugmentConfig) -> Listing:
        """Return what is known of a source before its media are read."""
        model: OnePeace = self._module().model
        path = config.manifest or self.root / manifest
        rows = load_rows(config, Modality(modality), path)[: self.limit_rows]
        shards = self._shards.setdefault(path.parent, Shards(path.parent))
        reader = build_reader(model.config, Modality(modality), augment)
        adapter: Any = model.adapters[modality]
        backbone = None
        if self.cache is not None and getattr(adapter, "frozen", False):
            backbone = weights_key(adapter.frozen_part)
        return Listing(config, f"{config.name}-{path.stem}", rows, shards, reader, adapter, backbone)

    def _plain_source(self, listing: Listing) -> Source:
        """Return a source of media that are never altered."""
        views = [self._features(listing, 0)] if listing.backbone else []
        return Source(listing.config, listing.rows, listing.shards, listing.reader, views, augment=False)

    def _training_sources(self, stream: StreamConfig) -> list[Source]:
        """Return a stream's sources; views of cached features are mixed across them."""
        listings = [self._listing(stream.modality, config, self.manifest, self.augment) for config in stream.sources]
        if not all(listing.backbone for listing in listings):
            sources = [Source(each.config, each.rows, each.shards, each.reader) for each in listings]
            for source in sources:
                source.read(0, np.random.default_rng(0))  # that no medium can be read is better known before training
            return sources
        if stream.mix and all(config.views == 1 for config in stream.sources):
            raise ValueError(
                "streams.mix: features that are cached are mixed in further views than the plain one, and every source "
                "has only that: set sources.views to 2 or more, or leave data.cache out"
            )
        plain = [self._features(listing, 0) for listing in listings]
        sources = []
        for number, listing in enumerate(listings):
            alone: list[Origin | None] = [None] * len(listing.rows)
            views, partners = [plain[number]], [alone]
            for view in range(1, listing.config.views):
                partners.append(
                    draw_partners(
                        [[row.concept for row in each.rows] for each in listings],
                        [features.readable for features in plain],
                        [config.weight for config in stream.sources],
                        stream.mix,
                        number,
                        self.seed,
                        view,
                    )
                    if stream.mix
                    else alone
                )
                views.append(self._features(listing, view, listings, partners[view]))
            sources.append(Source(listing.config, listing.rows, listing.shards, listing.reader, views, True, partners))
        return sources

    def _features(
        self,
        listing: Listing,
        view: int,
        listings: Sequence[Listing] = (),
        partners: Sequence[Origin | None] = (),
    ) -> Features:
        """Return one view's features: view 0 is plain, the others are altered, and mixed with partners."""
        assert self.cache is not None
        rows, shards, reader, adapter = listing.rows, listing.shards, listing.reader, listing.adapter
        parts: dict[str, Any] = {
            "backbone": listing.backbone,
            "preprocess": dataclasses.asdict(reader.preprocessor.config),
            "view": view,
            "augment": reader.key() if view else None,
            "seed": self.seed if view else None,
            "rows": [row.media for row in rows],
        }
        if any(partners):
            mixed = [
                each and (listings[each.source].name, listings[each.source].rows[each.row].media) for each in partners
            ]
            parts["mixed"] = {"with": mixed, "level": self.augment.mix_level}
        device = self._module().device

        def read(item: int) -> Any:
            data = shards.read(rows[item].media)
            if not view:
                return reader(data)
            rng = np.random.default_rng([self.seed, view, item])
            altered = reader(data, rng)
            if partners and (partner := partners[item]):
                other = listings[partner.source]
                second = reader(other.shards.read(other.rows[partner.row].media), rng)
                altered = reader.mix(altered, second, rng)
            return reader.masked(altered, rng)

        @torch.inference_mode()
        def encode(items: list[Any]) -> list[Tensor]:
            inputs = [tensor.to(device) for tensor in reader.collate(items)]
            with torch.autocast(device.type, torch.bfloat16):
                return list(adapter.features(*inputs))

        was_training = adapter.training
        adapter.eval()
        folder = self.cache / f"{listing.name}-view{view}-{cache_key(parts)}"
        features = build_features(folder, len(rows), read, encode, title=f"{listing.name} view {view}")
        adapter.train(was_training)
        return features

    def _training_texts(self, sources: Sequence[Source]) -> list[str]:
        texts = [text for source in sources for row in source.rows for text in row.texts]
        names = []
        for config in self.label_configs:
            listed = label_names(config)
            names += listed
            texts += [text for name in listed for text in fill(config.templates, name, config.articles)]
        for distillation in self._module().distillations:
            if distillation.config.kind == "labels":
                texts += [text for said in distillation.class_texts for text in said]
        if self.recombined_texts:
            captions = [text for source in sources for row in source.rows for text in row.texts if " " in text]
            texts += recombine(captions, names, self.recombined_texts, self.seed)
        return list(dict.fromkeys(texts))

    def _teach(
        self, number: int, distillation: Distillation, teacher: Teacher, streams: Sequence[Stream], bank: TextBank
    ) -> None:
        """Give every text, or every medium, of the teacher's modality what it says of it."""
        if self.cache is None:
            raise ValueError("model.distillations: teachers run once, and data.cache is where that is kept: set it")
        config = distillation.config.teacher
        key, title = teacher_key(config), config.title
        if teacher.modality is Modality.TEXT:
            bank.lessons[number] = cached_text_features(teacher, key, bank.texts, self.cache)
            return
        taught = [stream for stream in streams if stream.config.modality == teacher.modality]
        if not taught:
            raise ValueError(f"model.distillations: {title} teaches {teacher.modality}, and no stream has any")
        device = self._module().device
        for stream in taught:
            if distillation.config.kind == "labels":
                stream.class_texts[number] = [
                    [bank.numbers[text] for text in said] for said in distillation.class_texts
                ]
            for source in stream.sources:
                name = f"{title}-{source.config.name}"
                features = media_lessons(teacher, key, name, source.rows, source.shards, self.cache, device)
                source.lessons[number] = lesson_rows(features, distillation, teacher.width)


class StepSampler(Sampler[int]):
    """The numbers of the steps of one epoch after another, from a first step on."""

    def __init__(self, steps_per_epoch: int, first_step: int) -> None:
        self.steps_per_epoch = steps_per_epoch
        self.next_step = first_step

    def __iter__(self) -> Iterator[int]:
        """Yield the steps that are left of the epoch.

        A loader with workers makes two iterators and uses the second, so only one that is used may move on.
        """
        first, self.next_step = self.next_step, (self.next_step // self.steps_per_epoch + 1) * self.steps_per_epoch
        yield from range(first, self.next_step)

    def __len__(self) -> int:
        """Return the steps of a whole epoch."""
        return self.steps_per_epoch


class StepLoader(DataLoader[StepBatch]):
    """A loader that Lightning may stop and resume anywhere: the data module's state names the step."""

    def __init__(self, dataset: TrainingSteps, steps_per_epoch: int, first_step: int, num_workers: int) -> None:
        sampler = StepSampler(steps_per_epoch, first_step)
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return nothing; having the method tells Lightning that this loader resumes."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Do nothing: the sampler was built at the right step."""
