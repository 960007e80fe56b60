"""From manifests to training batches: sources, the streams that mix them, and the batch of each step.

A batch is a pure function of (seed, step): a run that goes on from a checkpoint, on any number of processes, sees what
an uninterrupted one would have seen. B: rows of this process, N: texts, F: width of a teacher's features, M: classes
that a teacher sees in the batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from encoders.modality import Modality
from onepeace.manifest import ManifestError, Shards
from onepeace.training.augment import Reader, collate_features
from onepeace.training.features import Features
from onepeace.training.mixing import Origin
from onepeace.training.rows import Row, SourceConfig
from onepeace.training.sampling import BalancedOrder, EvenOrder, Order, shares
from onepeace.training.texts import TextBank
from onepeace.training.wording import drop_words, joined

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Pairs of one modality and text: every step takes one batch of every stream."""

    modality: str  # image or audio
    batch_size: int  # over all processes
    sources: list[SourceConfig]
    every_label: bool = False  # one text of each label of the stream joins the keys of every batch
    train_text: bool = True  # False: the texts of this stream are fixed targets
    # Share of the sounds that are mixed with another of the stream, and their texts joined by "and". A mix matches what
    # is said of both together and of each alone. Cached features are mixed in further views only: set sources.views.
    mix: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        check_media(self.modality, "streams.modality")
        if self.batch_size < 2 or not self.sources:
            raise ValueError(f"streams: {self.modality} needs a batch_size of at least 2 and at least one source")
        if not 0.0 <= self.mix <= 1.0:
            raise ValueError(f"streams.mix must be in [0, 1], got {self.mix}")
        if self.mix and self.modality != Modality.AUDIO:
            raise ValueError(f"streams.mix mixes sounds: leave it out of the {self.modality} stream")
        for source in self.sources:
            if self.every_label and source.positives == "id":
                raise ValueError(
                    f"streams.every_label: source {source.name} has no labels; say which column holds them, as in "
                    "`positives: label`"
                )


def check_media(modality: str, where: str) -> None:
    """Refuse what no text can be paired with.

    Raises:
        ValueError: not the name of a modality, or text itself.
    """
    known = [name for name in Modality if name is not Modality.TEXT]
    if modality not in known:
        raise ValueError(f"{where} must be one of {', '.join(known)}, got {modality!r}")


@dataclass  # not frozen: Lightning moves the tensors of a batch in place
class PairBatch:
    """Media and texts of one step, of one process. The first B texts belong to the media, row by row."""

    modality: Modality
    media: tuple[Any, ...]  # arguments of the adapter, or of its `from_features`
    cached: bool  # media are features
    ids: Tensor  # (N, L) token ids
    media_concepts: Tensor  # (B,); (B, 2) where the stream mixes, a lone concept twice
    text_concepts: Tensor  # (N,) or (N, 2)
    train_text: bool = True
    # By the number of the distillation: features (B, F) or soft labels (B, M); ids (M, L) of what is said of each
    # class; features (N, F) of texts.
    media_lessons: dict[int, Tensor] = field(default_factory=dict)
    class_ids: dict[int, Tensor] = field(default_factory=dict)
    text_lessons: dict[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return B."""
        return len(self.media_concepts)


@dataclass
class StepBatch:
    """Everything of one step."""

    step: int
    pairs: tuple[PairBatch, ...]
    ids: Tensor | None = None  # (N, L) of texts that only learn from teachers
    text_lessons: dict[int, Tensor] = field(default_factory=dict)  # (N, F) by the number of the distillation
    skipped: dict[str, str] = field(default_factory=dict)  # media found unreadable since the last batch: id -> why


class Medium(NamedTuple):
    """A medium that was read, and what it shows."""

    item: Any
    row: int
    view: int  # cached; 0 where files are read anew


class Source:
    """Rows of one source with their media: cached features of several views, or files read anew each time."""

    def __init__(
        self,
        config: SourceConfig,
        rows: Sequence[Row],
        shards: Shards,
        reader: Reader,
        views: Sequence[Features] = (),
        augment: bool = True,
        partners: Sequence[Sequence[Origin | None]] = (),
    ) -> None:
        self.config = config
        self.shards = shards
        self.reader = reader
        self.views = views
        self.augment = augment
        self.partners = partners  # of each row in each view: what cached features are mixed with
        self.lessons: dict[int, Tensor] = {}  # number of the distillation -> (rows, F), or (rows, C) soft labels
        self.skipped: dict[str, str] = {}  # row id -> why it could not be read
        readable = np.all([view.readable for view in views], axis=0) if views else np.ones(len(rows), bool)
        self.members: list[int] = np.flatnonzero(readable).tolist()  # rows that can be drawn
        self.rows = rows
        if not self.members:
            raise ManifestError(f"no medium of source {config.name} can be read")
        if len(self.members) < len(rows):
            log.warning("%s: %d of %d rows cannot be read", config.name, len(rows) - len(self.members), len(rows))
            left_out = np.flatnonzero(~readable).tolist()
            self.skipped = dict.fromkeys((rows[row].id for row in left_out), "it was left out of the cached features")
        self.order: Order = EvenOrder(self.members)
        if config.balance:
            if unlabelled := [rows[member].id for member in self.members if not rows[member].label]:
                raise ManifestError(f"sources.balance: row {unlabelled[0]} of source {config.name} has no label")
            self.order = BalancedOrder(self.members, [rows[member].label for member in self.members], config.balance)

    def draws(self, first: int, count: int, seed: int) -> list[int]:
        """Return the rows of draws `first` to `first + count`."""
        return [self.order(draw, seed) for draw in range(first, first + count)]

    def read(self, row: int, rng: np.random.Generator) -> Medium:
        """Return a row's medium.

        A file that cannot be read is counted, reported once, and the next row that can be takes its place.

        Raises:
            ManifestError: not one can be read.
        """
        if self.views:
            view = int(rng.integers(len(self.views)))
            return Medium(self.views[view][row], row, view)
        for turn in range(len(self.rows)):
            candidate = (row + turn) % len(self.rows)
            try:
                data = self.shards.read(self.rows[candidate].media)
                return Medium(self.reader(data, rng if self.augment else None), candidate, 0)
            except (ValueError, OSError) as error:  # ManifestError, MediaError
                name = self.rows[candidate].id
                if name not in self.skipped:
                    log.warning("skipped %s: %s", name, error)
                    self.skipped[name] = str(error)
        first, why = next(iter(self.skipped.items()))
        raise ManifestError(
            f"none of the {len(self.rows)} media of source {self.config.name} can be read; the first is {first}: {why}"
        )


class Stream:
    """Sources of one modality, mixed in fixed shares."""

    def __init__(
        self, config: StreamConfig, sources: Sequence[Source], bank: TextBank, concepts: dict[str, int]
    ) -> None:
        self.config = config
        self.sources = sources
        self.bank = bank
        self.shares = shares([source.config.weight for source in sources], config.batch_size)
        self.concepts = [[concepts.setdefault(row.concept, len(concepts)) for row in source.rows] for source in sources]
        self.texts = [[[bank.numbers[text] for text in row.texts] for row in source.rows] for source in sources]
        self.class_texts: dict[int, list[list[int]]] = {}  # number of the distillation -> texts of each class
        self.label_texts: dict[int, list[int]] = {}  # concept -> texts
        if config.every_label:
            for row_concepts, row_texts in zip(self.concepts, self.texts, strict=True):
                for concept, numbers in zip(row_concepts, row_texts, strict=True):
                    known = self.label_texts.setdefault(concept, [])
                    known.extend(number for number in numbers if number not in known)

    @property
    def pass_steps(self) -> int:
        """Return how many steps it takes until the source that takes longest has shown every row."""
        return max(-(-s.order.pass_draws // share) for s, share in zip(self.sources, self.shares, strict=True))

    def batch(self, step: int, seed: int, rank: int, processes: int) -> PairBatch:
        """Return this process's part of the batch of a step."""
        drawn = [
            Origin(number, row)
            for number, (source, share) in enumerate(zip(self.sources, self.shares, strict=True))
            for row in source.draws(step * share, share, seed + number)
        ]
        order = np.random.default_rng([seed, step]).permutation(len(drawn))
        mine = order[rank::processes]
        items, concepts = [], []
        lessons: dict[int, list[Tensor]] = {}
        texts: list[int | str] = []
        numbers: list[list[int]] = []  # of the whole texts
        others = self._others(drawn, seed, step)
        for place in mine.tolist():
            rng = np.random.default_rng([seed, step, place])
            item, shown = self._show(drawn[place], others.get(place), rng)
            worded = [self._word(*origin, rng) for origin in shown]
            items.append(item)
            texts.append(self._join([text for _, text in worded]))
            numbers.append([number for number, _ in worded])
            concepts.append([self.concepts[origin.source][origin.row] for origin in (shown[0], shown[-1])])
            for lesson in self.sources[0].lessons:
                taught = [self.sources[origin.source].lessons[lesson][origin.row].float() for origin in shown]
                lessons.setdefault(lesson, []).append(torch.stack(taught).mean(dim=0))
        rng = np.random.default_rng([seed, step, len(drawn)])
        labels = [known[int(rng.integers(len(known)))] for known in self.label_texts.values()]
        concept_B2 = torch.tensor(concepts)
        text_concept_N2 = torch.cat([concept_B2, torch.tensor([[c, c] for c in self.label_texts]).view(-1, 2).long()])
        cached = bool(self.sources[0].views)
        media_lessons = {number: torch.stack(rows) for number, rows in lessons.items()}
        class_ids = {}
        for number, class_texts in self.class_texts.items():
            seen = media_lessons[number].sum(dim=0).nonzero().flatten()
            media_lessons[number] = media_lessons[number][:, seen]
            said = [class_texts[int(c)][int(rng.integers(len(class_texts[int(c)])))] for c in seen]
            class_ids[number] = self.bank.batch(said)
        return PairBatch(
            modality=Modality(self.config.modality),
            media=collate_features(items) if cached else self.sources[0].reader.collate(items),
            cached=cached,
            ids=self.bank.batch([*texts, *labels]),
            media_concepts=concept_B2 if self.config.mix else concept_B2[:, 0],
            text_concepts=text_concept_N2 if self.config.mix else text_concept_N2[:, 0],
            train_text=self.config.train_text,
            media_lessons=media_lessons,
            class_ids=class_ids,
            text_lessons=self.bank.lessons_of(numbers + [[number] for number in labels]),
        )

    def _others(self, drawn: Sequence[Origin], seed: int, step: int) -> dict[int, Origin]:
        """Return what each draw is mixed with, by its place in the whole batch: another draw, of another concept."""
        if not self.config.mix or self.sources[0].views:  # cached views are mixed already
            return {}
        concepts = np.array([self.concepts[source][row] for source, row in drawn])
        others = {}
        for place, concept in enumerate(concepts):
            rng = np.random.default_rng([seed, step, place, 1])
            different = np.flatnonzero(concepts != concept)
            if rng.random() < self.config.mix and len(different):
                others[place] = drawn[int(rng.choice(different))]
        return others

    def _show(self, drawn: Origin, other: Origin | None, rng: np.random.Generator) -> tuple[Any, list[Origin]]:
        """Return an item and the rows that it shows: two where it is mixed, now or when it was cached."""
        source = self.sources[drawn.source]
        item, row, view = source.read(drawn.row, rng)
        shown = [Origin(drawn.source, row)]
        if source.views:
            partner = source.partners[view][row] if source.partners else None
            return item, shown + ([partner] if partner else [])
        if other is not None:
            second = self.sources[other.source].read(other.row, rng)
            item = source.reader.mix(item, second.item, rng)
            shown.append(Origin(other.source, second.row))
        return source.reader.masked(item, rng) if source.augment else item, shown

    def _word(self, number: int, row: int, rng: np.random.Generator) -> tuple[int, int | str]:
        """Return a text of a row: its number, and the number again, or how it is worded with words left out."""
        config, captions = self.sources[number].config, self.sources[number].rows[row].captions
        choices = self.texts[number][row]
        choice = int(rng.integers(len(choices)))
        if config.caption_dropout and choice < captions < len(choices) and rng.random() < config.caption_dropout:
            choice = int(rng.integers(captions, len(choices)))
        text = choices[choice]
        if config.word_dropout and choice < captions:
            return text, drop_words(self.bank.texts[text], config.word_dropout, rng)
        return text, text

    def _join(self, texts: Sequence[int | str]) -> int | str:
        """Return the one text, or two in one."""
        if len(texts) == 1:
            return texts[0]
        return joined(*(text if isinstance(text, str) else self.bank.texts[text] for text in texts))


class TrainingSteps(Dataset[StepBatch]):
    """Maps a step to its batch."""

    def __init__(
        self,
        streams: Sequence[Stream],
        bank: TextBank,
        distilled_texts: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        for stream in streams:
            if stream.config.batch_size % processes:
                raise ValueError(
                    f"streams: the {stream.config.modality} batch_size {stream.config.batch_size} "
                    f"cannot be divided among {processes} processes"
                )
        if distilled_texts % processes:
            raise ValueError(f"distilled_texts {distilled_texts} cannot be divided among {processes} processes")
        self.streams = streams
        self.bank = bank
        self.distilled_texts = distilled_texts
        self.seed, self.rank, self.processes = seed, rank, processes
        self._told: set[str] = set()  # media whose loss a batch has reported

    def __getitem__(self, step: int) -> StepBatch:
        """Return the batch of a step."""
        pairs = tuple(
            stream.batch(step, self.seed + 1000 * number, self.rank, self.processes)
            for number, stream in enumerate(self.streams)
        )
        skipped = self._newly_skipped()
        if not self.distilled_texts:
            return StepBatch(step, pairs, skipped=skipped)
        rng = np.random.default_rng([self.seed, step, 7])
        numbers = rng.integers(len(self.bank), size=self.distilled_texts)[self.rank :: self.processes]
        lessons = self.bank.lessons_of([[number] for number in numbers])
        return StepBatch(step, pairs, self.bank.batch(numbers), lessons, skipped)

    def _newly_skipped(self) -> dict[str, str]:
        """Return what could not be read since the last batch: only batches come back from a loader's workers."""
        skipped = {k: why for stream in self.streams for source in stream.sources for k, why in source.skipped.items()}
        new = {name: why for name, why in skipped.items() if name not in self._told}
        self._told |= new.keys()
        return new
