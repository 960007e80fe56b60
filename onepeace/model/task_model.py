"""TaskModel: a trunk with the head of one task: classifying, answering, choosing, finding. B: batch, Q: slots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from encoders.image.adapter import PatchAdapter
from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model.config import ModelConfig
from onepeace.model.set_head import AXES, SetHead, TokenSetHead
from onepeace.model.task_head import SEARCHED, TaskConfig, TaskHead
from onepeace.model.trunk import Trunk, initialise

Inputs = Mapping[Modality, tuple[Tensor, ...]]  # what the adapter of each modality takes


class TaskModel(Trunk):
    """One task on several modalities read together (Wang et al., 2023, arXiv:2305.11172, section 3.3).

    Raises:
        ValueError: the model lacks a modality of the task.
    """

    def __init__(self, config: ModelConfig, task: TaskConfig) -> None:
        super().__init__(config)
        if missing := [m for m in task.modalities if m not in config.adapters]:
            raise ValueError(f"the task reads {', '.join(missing)}, the model {', '.join(config.adapters)} only")
        self.task = task
        self.head: SetHead | TokenSetHead | TaskHead
        if task.kind in SEARCHED:
            axes = AXES[task.pooled_modality]
            share = self.token_seconds / self.window_seconds if axes == 1 else None
            if task.decoder_layers:
                self.head = SetHead(config.width, config.heads, task.outputs, task.decoder_layers, axes, share)
            else:
                self.head = TokenSetHead(config.width, axes, share)
        else:
            self.head = TaskHead(config.width, config.heads, task)
        initialise(self)

    @property
    def window_seconds(self) -> float:
        """The longest stretch of sound that is heard at once; spans are shares of it."""
        audio: Any = self.config.adapters[Modality.AUDIO]
        return float(audio.preprocess.max_seconds)

    @property
    def token_seconds(self) -> float:
        """From the beginning of a token of sound to that of the next."""
        audio: Any = self.config.adapters[Modality.AUDIO]
        return float(audio.token_samples / audio.preprocess.sample_rate)

    def passes(self, inputs: Inputs, second: tuple[Tensor, ...] = ()) -> list[TokenSequence]:
        """Return the features that the head reads: of one pass, or of one for each of two pictures.

        Where texts are to be chosen among, their rows are a medium's choices one after the other, then the next
        medium's. `second` is what the adapter takes for the second pictures.

        Raises:
            ValueError: inputs of other modalities than the task's, or a wrong number of rows or pictures.
        """
        if set(inputs) != set(self.task.modalities):
            raise ValueError(f"the task reads {', '.join(self.task.modalities)}, got {', '.join(inputs) or 'nothing'}")
        if bool(second) != (self.task.pictures == 2):
            raise ValueError(f"the task reads {self.task.pictures} pictures an input")
        first = [self.tokens(m, *inputs[m]) for m in self.task.modalities]
        return self.passes_of(first, self.second_pictures(*second) if second else None)

    def passes_of(self, first: Sequence[TokenSequence], second: TokenSequence | None = None) -> list[TokenSequence]:
        """Return what `passes` does for tokens: those of each modality, and of the second pictures."""
        passes = [list(first)]
        if second is not None:
            passes.append([s if s.modality != Modality.IMAGE else second for s in first])
        return [self._pooled(sequences) for sequences in passes]

    def answer(self, passes: Sequence[TokenSequence]) -> Tensor:
        """Return logits for the features of each pass, (B, outputs); (B, choices) where texts are chosen among."""
        logits_BO: Tensor = self.head(passes)
        return logits_BO.view(-1, self.task.choices) if self.task.choices > 1 else logits_BO

    def forward(self, inputs: Inputs, second: tuple[Tensor, ...] = ()) -> Tensor:
        """Return logits, (B, outputs), as `passes` takes its inputs.

        They are (B, choices) where texts are chosen among, and (B, Q, 5) or (B, Q, 3) where boxes or spans are searched
        for: `onepeace.model.set_head.found` reads those.
        """
        return self.answer(self.passes(inputs, second))

    def second_pictures(self, *inputs: Tensor) -> TokenSequence:
        """Return the tokens of the second pictures of pairs, marked as such where the adapter can."""
        adapter = self.adapters[Modality.IMAGE]
        if isinstance(adapter, PatchAdapter):  # the only one that may mark them
            return adapter.from_features(adapter.features(*inputs), second=True)
        return self.tokens(Modality.IMAGE, *inputs)

    def _pooled(self, sequences: list[TokenSequence]) -> TokenSequence:
        if self.task.choices > 1:
            sequences = [s if s.modality == Modality.TEXT else repeated(s, self.task.choices) for s in sequences]
        if len({len(s.embeddings) for s in sequences}) > 1:
            rows = ", ".join(f"{len(s.embeddings)} of {s.modality}" for s in sequences)
            raise ValueError(f"inputs that are read together need as many rows each, got {rows}")
        return next(s for s in self.features(sequences) if s.modality == self.task.pooled_modality)


def repeated(sequence: TokenSequence, times: int) -> TokenSequence:
    """Return the sequence with each of its rows so many times in a row."""
    return replace(
        sequence,
        embeddings=sequence.embeddings.repeat_interleave(times, dim=0),
        padding=sequence.padding.repeat_interleave(times, dim=0),
        bias=tuple(b.repeat_interleave(times, dim=0) if len(b) > 1 else b for b in sequence.bias),
    )
