"""The inputs of a task's questions as batches: features of a frozen trunk, tokens of frozen adapters, or read anew.

What is frozen runs once over each distinct text, picture and sound, however many questions are about it. B: questions
of a batch, R: texts of a question (choices, or 1), L: tokens with the class token, D: width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from encoders.image.adapter import PatchAdapter
from encoders.media import Audio, Image
from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.inputs import Part
from onepeace.model.task_model import TaskModel
from onepeace.reader import InputReader
from onepeace.training.augment import AugmentConfig, Reader, build_reader
from onepeace.training.disguise import disguised
from onepeace.training.features import Features, build_features, cache_key, weights_key
from onepeace.training.questions import Opened, Question
from onepeace.training.task_targets import collate_targets, target_of

log = logging.getLogger(__name__)

Trained = Literal["head", "fusion", "all"]
WRAPPERS: dict[Modality, Any] = {Modality.IMAGE: Image, Modality.AUDIO: Audio}
REPORTED = 10  # inputs that cannot be read and are named in the log

Padded = tuple[Tensor, Tensor]  # (rows, L, D) and the padding (rows, L)


class TaskBatch(NamedTuple):
    """Inputs, in the form that the set makes them, and the right answers."""

    inputs: Any  # PassFeatures: [Padded of each pass]; the others: modality -> Padded, or what the adapter takes
    second: Any  # the same of the second pictures; () where there are none
    target: Any  # of B questions


@dataclass(frozen=True)
class Distinct:
    """The distinct inputs of some questions, and which of them each question shows."""

    inputs: Mapping[Modality, Sequence[str | Opened]]
    shown: Sequence[Mapping[Modality, tuple[int, ...]]]  # of each question: its texts; its pictures; its sound

    @classmethod
    def of(cls, questions: Iterable[Question], modalities: Sequence[Modality]) -> Distinct:
        """Return those of the questions, in the order of their keys: tasks about the same media share a cache."""
        rows: list[dict[Modality, Sequence[str | Opened]]]
        rows = [{**question.media, Modality.TEXT: question.texts} for question in questions]
        inputs: dict[Modality, list[str | Opened]]
        inputs = {m: sorted({each for given in rows for each in given[m]}, key=key_of) for m in modalities}
        numbers = {m: {each: number for number, each in enumerate(listed)} for m, listed in inputs.items()}
        return cls(inputs, [{m: tuple(numbers[m][each] for each in given[m]) for m in modalities} for given in rows])


def key_of(given: str | Opened) -> str:
    """Return what stands for an input in the key of a cache."""
    return given if isinstance(given, str) else given.key


class TaskSet(Dataset[int]):
    """Questions by number; `collate` makes a batch of several numbers."""

    def __init__(self, model: TaskModel, questions: Sequence[Question], distinct: Distinct) -> None:
        numbers = {label: number for number, label in enumerate(model.task.labels)}
        self.task = model.task
        self.distinct = distinct
        seconds = model.window_seconds if Modality.AUDIO in model.task.modalities else 0.0
        self.targets = [target_of(question, model.task, numbers, seconds) for question in questions]
        self.members = list(range(len(questions)))  # questions whose inputs can be read

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, item: int) -> int:
        return self.members[item]

    def collate(self, items: Sequence[int]) -> TaskBatch:
        """Return the batch of the questions `items`."""
        raise NotImplementedError

    def _target(self, items: Sequence[int]) -> Any:
        return collate_targets([self.targets[item] for item in items], self.task)

    def _inputs(self, items: Sequence[int], modality: Modality, second: bool = False) -> list[int]:
        """Return the numbers of a modality's inputs in a batch: all texts, but one picture of a question."""
        shown = [self.distinct.shown[item][modality] for item in items]
        if modality is Modality.TEXT:
            return [number for numbers in shown for number in numbers]
        return [numbers[second] for numbers in shown]


class TokenSet(TaskSet):
    """Tokens that frozen adapters made of each distinct input; with `disguise`, of other colours and pitches."""

    def __init__(
        self,
        model: TaskModel,
        reader: InputReader,
        questions: Sequence[Question],
        folder: Path,
        title: str,
        disguise: bool = False,
    ) -> None:
        super().__init__(model, questions, Distinct.of(questions, model.task.modalities))
        self.tokens = {
            modality: _kept_tokens(model, reader, modality, inputs, folder, title, disguise)
            for modality, inputs in self.distinct.inputs.items()
        }
        readable = {modality: features.readable for modality, features in self.tokens.items()}
        self.members = [
            item
            for item, shown in enumerate(self.distinct.shown)
            if all(readable[m][list(numbers)].all() for m, numbers in shown.items())
        ]
        _check_members(self, len(questions), title)

    def collate(self, items: Sequence[int]) -> TaskBatch:
        """Return tokens with their padding, by modality."""
        inputs = {m: self._padded(m, self._inputs(items, m)) for m in self.tokens}
        second: tuple[Tensor, ...] = ()
        if self.task.pictures == 2:
            second = self._padded(Modality.IMAGE, self._inputs(items, Modality.IMAGE, second=True))
        return TaskBatch(inputs, second, self._target(items))

    def _padded(self, modality: Modality, numbers: Sequence[int]) -> Padded:
        return padded([self.tokens[modality][number].float() for number in numbers])


class PassSet(TaskSet):
    """Features that a frozen trunk made of each distinct pass: the one input, or several that are read together."""

    def __init__(
        self, model: TaskModel, reader: InputReader, questions: Sequence[Question], folder: Path, title: str
    ) -> None:
        super().__init__(model, questions, Distinct.of(questions, model.task.modalities))
        if len(model.task.modalities) == 1:
            (modality,) = model.task.modalities
            inputs = self.distinct.inputs[modality]
            features = [_kept_features(model, reader, modality, inputs, folder, title)]
            self.passes = [[shown[modality] for shown in self.distinct.shown]]
        else:
            tokens = TokenSet(model, reader, questions, folder, title)
            features, self.passes = [], []
            for second in range(model.task.pictures):
                joint, members = _joint_passes(self.distinct, model.task.modalities, second)
                self.passes.append(members)
                features.append(_kept_passes(model, tokens, joint, bool(second), folder, title))
        self.features = features
        self.members = [
            item
            for item in range(len(questions))
            if all(f.readable[list(p[item])].all() for f, p in zip(self.features, self.passes, strict=True))
        ]
        _check_members(self, len(questions), title)

    def collate(self, items: Sequence[int]) -> TaskBatch:
        """Return features with their padding, of each pass."""
        inputs = [
            padded([features[number].float() for item in items for number in passes[item]])
            for features, passes in zip(self.features, self.passes, strict=True)
        ]
        return TaskBatch(inputs, (), self._target(items))


class FreshSet(TaskSet):
    """Inputs that are read anew for each batch, and altered by chance where `augment` is given."""

    def __init__(
        self, model: TaskModel, reader: InputReader, questions: Sequence[Question], augment: AugmentConfig | None
    ) -> None:
        super().__init__(model, questions, Distinct.of(questions, model.task.modalities))
        self.reader = reader
        self.readers: dict[Modality, Reader] = {}
        if augment is not None:
            media = [m for m in model.task.modalities if m is not Modality.TEXT]
            self.readers = {m: build_reader(model.config, m, augment) for m in media}
        self.unreadable: set[int] = set()  # questions that were left out
        self._text = cache(self._read_text)

    def collate(self, items: Sequence[int]) -> TaskBatch:
        """Return what the adapters take, by modality; questions whose media cannot be read are left out.

        Raises:
            ValueError: not one can be read.
        """
        read = [(item, given) for item in items if (given := self._read(item)) is not None]
        if not read:
            raise ValueError("none of the pictures and sounds of a batch can be read; the log names them")
        inputs = {}
        for modality in self.task.modalities:
            count = None if modality is Modality.TEXT else 1  # all texts, but one picture or sound
            inputs[modality] = self._collate(modality, [each for _, given in read for each in given[modality][:count]])
        second: tuple[Tensor, ...] = ()
        if self.task.pictures == 2:
            second = self._collate(Modality.IMAGE, [given[Modality.IMAGE][1] for _, given in read])
        return TaskBatch(inputs, second, self._target([item for item, _ in read]))

    def _read(self, item: int) -> dict[Modality, list[Any]] | None:
        try:
            return {
                modality: [self._medium(modality, number) for number in numbers]
                for modality, numbers in self.distinct.shown[item].items()
            }
        except ValueError as error:  # MediaError, ManifestError
            if item not in self.unreadable and len(self.unreadable) < REPORTED:
                log.warning("a question is left out: %s", error)
            self.unreadable.add(item)
            return None

    def _medium(self, modality: Modality, number: int) -> Any:
        given: Any = self.distinct.inputs[modality][number]
        if modality is Modality.TEXT:
            return self._text(given)
        if modality not in self.readers:
            return first_window(self.reader, modality, given)
        rng = np.random.default_rng(int(torch.randint(2**31, ()).item()))
        reader = self.readers[modality]
        return reader.masked(reader(given.open(), rng), rng)

    def _read_text(self, text: str) -> Tensor:
        return first_window(self.reader, Modality.TEXT, text)

    def _collate(self, modality: Modality, items: list[Any]) -> tuple[Tensor, ...]:
        if modality in self.readers:
            return self.readers[modality].collate(items)
        return self.reader.preprocessors[modality].collate(items)


def first_window(reader: InputReader, modality: Modality, given: str | Opened) -> Tensor:
    """Return what a preprocessor makes of an input, of a long sound its first window.

    Raises:
        MediaError, ManifestError: it cannot be read.
    """
    source: Any = given if isinstance(given, str) else WRAPPERS[modality](given.open())
    return reader.read(Part(modality, source))[0][0]


def kept_sequence(model: TaskModel, modality: Modality, kept: Padded, second: bool = False) -> TokenSequence:
    """Return kept tokens as the adapter would hand them on: with its dropout in training, and its attention bias."""
    adapter: Any = model.adapters[modality]
    embeddings_BLD, padding_BL = adapter.resumed(kept[0]), kept[1]
    if second and isinstance(adapter, PatchAdapter) and adapter.second_type_embedding is not None:
        embeddings_BLD = embeddings_BLD + adapter.second_type_embedding
    return TokenSequence(
        modality, adapter.dropout(embeddings_BLD), padding_BL, adapter.position_bias(embeddings_BLD.shape[1])
    )


def padded(items: Sequence[Tensor]) -> Padded:
    """Return items (L, D) as a batch: zeros behind shorter ones, and where these are."""
    lengths_B = torch.tensor([len(item) for item in items])
    x_BLD = pad_sequence(list(items), batch_first=True)
    return x_BLD, torch.arange(x_BLD.shape[1]) >= lengths_B[:, None]


def _kept_tokens(
    model: TaskModel,
    reader: InputReader,
    modality: Modality,
    inputs: Sequence[str | Opened],
    folder: Path,
    title: str,
    disguise: bool = False,
) -> Features:
    """Return what a frozen adapter makes of each input, (L, D) or with details (L, D + E), kept in `folder`.

    Of media in `disguise` details alone tell colour and pitch: tokens are of other colours, or another pitch.
    """
    adapter: Any = model.adapters[modality]
    details = 0 if adapter.detail is None else adapter.detail.in_features
    key: dict[str, Any] = {"adapter": weights_key(adapter, without="detail."), "details": details}

    def run(batch: tuple[Tensor, ...], numbers: Sequence[int]) -> TokenSequence:
        if not disguise or modality is Modality.TEXT:
            return adapter.kept(*batch)
        return adapter.kept(*batch, seen=disguised(batch, modality, [key_of(inputs[number]) for number in numbers]))

    return _kept(
        model,
        key | ({"disguise": True} if disguise and modality is not Modality.TEXT else {}),
        reader,
        modality,
        inputs,
        folder,
        f"{title} {modality} tokens",
        run,
    )


def _kept_features(
    model: TaskModel,
    reader: InputReader,
    modality: Modality,
    inputs: Sequence[str | Opened],
    folder: Path,
    title: str,
) -> Features:
    """Return the features (L, D) that a frozen trunk makes of each input, kept in `folder`."""
    return _kept(
        model,
        {"trunk": [weights_key(model.adapters), weights_key(model.fusion)]},
        reader,
        modality,
        inputs,
        folder,
        f"{title} {modality}",
        lambda batch, _: model.features([model.tokens(modality, *batch)])[0],
    )


def _kept(
    model: TaskModel,
    key: Mapping[str, Any],
    reader: InputReader,
    modality: Modality,
    inputs: Sequence[str | Opened],
    folder: Path,
    title: str,
    run: Callable[[tuple[Tensor, ...], Sequence[int]], TokenSequence],  # of a batch, and of the inputs' numbers
) -> Features:
    preprocessor = reader.preprocessors[modality]
    device = next(model.parameters()).device

    @torch.no_grad()
    def encode(items: list[tuple[Tensor, int]]) -> list[Tensor]:
        read, numbers = zip(*items, strict=True)
        return _rows(run(tuple(tensor.to(device) for tensor in preprocessor.collate(read)), numbers))

    parts = {
        **key,
        "config": model.config.to_dict(),
        "inputs": [key_of(each) for each in inputs],
    }
    return _built(
        model,
        folder,
        parts,
        title,
        len(inputs),
        lambda item: (first_window(reader, modality, inputs[item]), item),
        encode,
    )


def _kept_passes(
    model: TaskModel,
    tokens: TokenSet,
    joint: Sequence[tuple[int, ...]],
    second: bool,
    folder: Path,
    title: str,
) -> Features:
    """Return the features (L, D) of the pooled modality, of inputs read together, kept in `folder`."""
    modalities = model.task.modalities
    device = next(model.parameters()).device

    def read(item: int) -> list[Tensor]:
        rows = [tokens.tokens[m][number].float() for m, number in zip(modalities, joint[item], strict=True)]
        if not all(map(len, rows)):
            raise ValueError("an input of it cannot be read")
        return rows

    @torch.no_grad()
    def encode(items: list[list[Tensor]]) -> list[Tensor]:
        sequences = []
        for modality, rows in zip(modalities, zip(*items, strict=True), strict=True):
            x_BLD, padding_BL = (tensor.to(device) for tensor in padded(rows))
            sequences.append(kept_sequence(model, modality, (x_BLD, padding_BL), second and modality == "image"))
        return _rows(next(s for s in model.features(sequences) if s.modality == model.task.pooled_modality))

    parts = {
        "trunk": [weights_key(model.adapters), weights_key(model.fusion)],
        "config": model.config.to_dict(),
        "task": [*modalities, model.task.pooled_modality, second],
        "inputs": [[key_of(each) for each in tokens.distinct.inputs[m]] for m in modalities],
        "joint": joint,
    }
    return _built(model, folder, parts, f"{title} {' and '.join(modalities)}", len(joint), read, encode)


def _built(
    model: TaskModel, folder: Path, parts: Mapping[str, Any], title: str, count: int, read: Any, encode: Any
) -> Features:
    training = model.training
    model.eval()
    name = f"{title.replace('data.', '').replace(' ', '-')}-{cache_key(parts)}"
    features = build_features(folder / name, count, read, encode, title=title)
    model.train(training)
    return features


def _rows(sequence: TokenSequence) -> list[Tensor]:
    return [x_LD[~padding_L] for x_LD, padding_L in zip(sequence.embeddings, sequence.padding, strict=True)]


def _joint_passes(
    distinct: Distinct, modalities: Sequence[Modality], second: int
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Return the distinct combinations of inputs that are read together, and those of each question."""
    known: dict[tuple[int, ...], int] = {}
    members = []
    for shown in distinct.shown:
        texts = shown.get(Modality.TEXT, (-1,))
        combined = [
            tuple(text if m is Modality.TEXT else shown[m][second if len(shown[m]) > 1 else 0] for m in modalities)
            for text in texts
        ]
        members.append(tuple(known.setdefault(each, len(known)) for each in combined))
    return list(known), members


def _check_members(chosen: TaskSet, count: int, title: str) -> None:
    if left_out := count - len(chosen):
        log.warning("%s: %d of %d questions are left out: their media cannot be read", title, left_out, count)
