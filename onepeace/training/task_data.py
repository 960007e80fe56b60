"""The questions that a task learns from, under Lightning: rows of manifests, and batches as what trains takes them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from torch.utils.data import DataLoader

from encoders.modality import Modality
from onepeace.model.task_head import CORNERS, TaskConfig, TaskKind
from onepeace.training.augment import AugmentConfig
from onepeace.training.questions import Layout, Question, Wanted, read_questions, vocabulary
from onepeace.training.task_inputs import FreshSet, PassSet, TaskSet, TokenSet

log = logging.getLogger(__name__)

Medium = Literal["text", "image", "audio"]
LABELLED = ("classify", "tag")  # kinds whose answers are labels
SLOTS = 16  # where boxes or spans are searched for; `model.slots` says otherwise
GEOMETRIC = ("ground", "detect", "locate")  # kinds whose answers are places, which must stay where they are


class TaskData(L.LightningDataModule):
    """Rows of manifests, or of folders with one sub-folder a class, as questions with their right answers.

    A row is a question: columns `image`, `image2`, `audio` and `text` hold what is shown and asked, `label`, `answers`,
    `choices`, `box`, `boxes` and `spans` what is right. Rows that cannot be used are counted in the log.

    Args:
        train: manifests (Parquet, CSV, JSONL) or class folders to learn from.
        validation: those to measure on. An answer that `train` lacks counts as a wrong one.
        modalities: what is read together, in this order: image, or text and image, ...
        kind: of answers: classify, tag, choose, ground, detect or locate.
        pictures: 2: the text is about the pictures of `image` and `image2`.
        answers: how many labels are learned at most, the most frequent of `train`; None: all.
        where: column -> value, or values, that rows must have.
        layout: `official`: the files are tables (TSV) as the official code reads them.
        root: folder that paths in official tables count from; None: the table's own.
        disguise: what makes tokens of training media sees pictures in other colours and hears sounds at another pitch,
            drawn for each, so that colour and pitch are known from `model.detail` alone: then they are known of things
            that never had them.
        augment: how media that are read anew (`model.train: all`) are altered; None: not at all.
        cache: folder that keeps what is frozen makes of the inputs.
        batch_size: rows of a step.
        num_workers: processes that read inputs anew; 0: the training process does.

    Raises:
        ValueError: no usable rows, fewer than two labels, or rows that do not go together.
    """

    def __init__(
        self,
        train: list[Path],
        validation: list[Path],
        modalities: list[Medium],
        kind: TaskKind = "classify",
        pictures: int = 1,
        answers: int | None = None,
        where: dict[str, str | list[str]] | None = None,
        layout: Layout = "manifest",
        root: Path | None = None,
        disguise: bool = False,
        augment: AugmentConfig | None = None,
        cache: Path = Path("runs/features"),
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"data.batch_size must be at least 1, got {batch_size}")
        if answers is not None and (answers < 2 or kind not in LABELLED):
            raise ValueError(f"data.answers is a number of labels, at least 2, of {' or '.join(LABELLED)}")
        if augment is not None and kind == "locate":
            raise ValueError("data.augment: altering moves what is to be located in a sound; leave it out")
        if augment is not None and kind in GEOMETRIC and (augment.flip or augment.min_area < 1.0):
            raise ValueError(f"data.augment: a task that {kind}s places needs flip 0 and min_area 1, or they move")
        self.disguise = disguise
        self.augment, self.cache, self.batch_size, self.num_workers = augment, Path(cache), batch_size, num_workers
        conditions = {k: [v] if isinstance(v, str) else v for k, v in (where or {}).items()}
        wanted = Wanted(kind, tuple(Modality(m) for m in modalities), pictures)
        self.questions = {
            name: read_questions(paths, conditions, wanted, f"data.{name}", layout, root)
            for name, paths in (("train", train), ("validation", validation))
        }
        labels = vocabulary(self.questions["train"], answers) if kind in LABELLED else ()
        if labels:
            self._keep_known(labels)
        choices = self._keep_alike() if kind == "choose" else 1
        self.task = TaskConfig(
            kind=kind,
            modalities=wanted.modalities,
            outputs=len(labels) or {"choose": 1, "ground": CORNERS}.get(kind, SLOTS),
            pictures=pictures,
            choices=choices,
            labels=labels,
        )
        self._sets: dict[str, TaskSet] = {}

    @property
    def label_counts(self) -> dict[str, int]:
        """Label -> how many rows that train have it, in the order of the outputs."""
        counts = Counter(label for question in self.questions["train"] for label in question.answers)
        return {label: counts[label] for label in self.task.labels}

    def setup(self, stage: str) -> None:
        """Compute what the module's frozen parts make of the inputs, or read it from the cache."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        if self.disguise and (module.trained != "fusion" or not module.detailed):
            raise ValueError("data.disguise needs model.train: fusion, and model.detail that tells what is true")
        for name, questions in self.questions.items():
            if name in self._sets:
                continue
            if self.task.kind == "locate":
                _tell_late(questions, module.model.window_seconds, f"data.{name}")
            if module.trained == "all":
                augment = self.augment if name == "train" else None
                self._sets[name] = FreshSet(module.model, module.reader, questions, augment)
            elif module.trained == "head":
                self._sets[name] = PassSet(module.model, module.reader, questions, self.cache, f"data.{name}")
            else:
                disguise = self.disguise and name == "train"
                self._sets[name] = TokenSet(
                    module.model, module.reader, questions, self.cache, f"data.{name}", disguise
                )

    def train_dataloader(self) -> DataLoader[int]:
        """Return shuffled batches."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[int]:
        """Return batches in order."""
        return self._loader("validation")

    def description(self) -> dict[str, Any]:
        """Return what the model card says of the rows that train: source -> rows and licences."""
        by_source: dict[str, list[Question]] = {}
        for question in self.questions["train"]:
            by_source.setdefault(question.source, []).append(question)
        return {
            source: {"rows": len(rows), "licences": sorted({row.licence for row in rows if row.licence})}
            for source, rows in by_source.items()
        }

    def _loader(self, name: str) -> DataLoader[int]:
        chosen = self._sets[name]
        return DataLoader(
            chosen,
            self.batch_size,
            shuffle=name == "train",
            collate_fn=chosen.collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def _keep_known(self, labels: tuple[str, ...]) -> None:
        """Leave out rows that train whose answers are all too rare, and count unknown ones of the others."""
        if len(labels) < 2:
            raise ValueError(f"data.train has one label only: {', '.join(labels)}")
        known = set(labels)
        self._keep("train", lambda question: not known.isdisjoint(question.answers), "have rare answers only")
        asked = self.questions["validation"]
        if unknown := [question for question in asked if known.isdisjoint(question.answers)]:
            named = ", ".join(sorted({label for question in unknown for label in question.answers})[:5])
            if len(unknown) == len(asked):
                raise ValueError(f"data.validation: no row has a label that is learned; it has {named}, ...")
            log.warning(
                "data.validation: %d of %d rows have answers that are not learned, and count as wrong: %s",
                len(unknown),
                len(asked),
                named,
            )

    def _keep_alike(self) -> int:
        """Leave out rows with another number of choices than most, and return that number."""
        (most, _), *_ = Counter(len(question.texts) for question in self.questions["train"]).most_common()
        for name in self.questions:
            self._keep(name, lambda question: len(question.texts) == most, f"have not {most} choices, as most do")
        return most

    def _keep(self, name: str, fits: Callable[[Question], bool], why: str) -> None:
        rows = self.questions[name]
        kept = [question for question in rows if fits(question)]
        if not kept:
            raise ValueError(f"data.{name}: none of the {len(rows)} rows can be used: {len(rows)} {why}")
        if len(kept) < len(rows):
            log.warning("data.%s: %d of %d rows are left out: they %s", name, len(rows) - len(kept), len(rows), why)
        self.questions[name] = kept


def _tell_late(questions: Sequence[Question], seconds: float, title: str) -> None:
    """Log how many rows have spans that no window holds which is heard in training."""
    late = sum(any(start >= seconds for start, _ in question.spans or ()) for question in questions)
    if late:
        log.warning(
            "%s: %d of %d rows have spans behind the first window of %g s, which are left out: cut long sounds",
            title,
            late,
            len(questions),
            seconds,
        )
