"""The LightningModule of a sequence tower: texts learn to read albums of a frozen model's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.embedder import Embedder
from onepeace.loading import load_embedder
from onepeace.model.counting import Counted, count_chances
from onepeace.model.sequence import Asked, HyperAttention, ReadItems, SequenceConfig, SequenceTower
from onepeace.training.album_counts import NONE_STATED, CountBatch
from onepeace.training.album_questions import Pointed, Stated
from onepeace.training.albums import AlbumBatch
from onepeace.training.export import ENVELOPE
from onepeace.training.number_start import begin_numbers
from onepeace.training.optim import OptimizerConfig, train_only
from onepeace.training.optimised import OptimisedModule

TOGETHER = 64  # texts of similar length that run together: padding costs as much as words
FIRST_GATE = -3.0  # of hyper-attention: words begin as the frozen blocks have them, nearly
COUNTING_RATE = 5.0  # what counts begins from nothing, and is small
SMALLEST = 1e-9  # probability
SURELY = 1e-6  # as near to 0 and 1 as chances count


class SequenceModule(OptimisedModule):
    """Trains a sequence tower beside a model that stays as it is, and whose vectors are the items.

    The losses: the item that answers (cross entropy of the pointer's weights), its vector (1 - cosine), the items that
    words name, of two statements the true one, of four albums the one that has what a text says, and where the tower
    counts which items a text counts, the number that it states, and whether it counts at all.

    Args:
        start: the model: a shipped one's name or an export folder.
        tower: its options.
        train: `tower`: all of a new one. `counting`: the one that the start has keeps its options and weights, and
            learns to count, or goes on to if it can.
        begin_numbers: begin what words say of numbers by least squares.
        optimizer: AdamW and its schedule.
        seed: of the start.
    """

    model: SequenceTower

    def __init__(
        self,
        start: str = "onepeace-tiny",
        tower: SequenceConfig = SequenceConfig(),  # noqa: B008 - frozen
        train: Literal["tower", "counting"] = "tower",
        begin_numbers: bool = True,
        optimizer: OptimizerConfig = OptimizerConfig(lr=1e-3),  # noqa: B008 - frozen
        seed: int = 3407,
    ) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.start, self.optimizer_config, self.seed, self.begins_numbers = start, optimizer, seed, begin_numbers
        self._frozen: list[Any] = [load_embedder(start)]  # no part of the weights
        self._network = [self.embedder.folder.model().eval().requires_grad_(False)]
        self.train_counting = train == "counting"
        if self.train_counting:
            self.begins_numbers = False
            kept = self.embedder.folder.sequence_tower()
            self.model = SequenceTower(self.network.config, replace(kept.config, counting=True))
            self.model.load_state_dict(kept.state_dict(), strict=False)
            train_only(self.model.named_parameters(), ["^counting\\."], "model.train")
        else:
            self.model = SequenceTower(self.network.config, tower)
            self.model.begin_from(self.network)
            for hyper in self.model.hyper:
                if isinstance(hyper, HyperAttention) and hyper.gate is not None:
                    nn.init.constant_(hyper.gate.bias, FIRST_GATE)
        if self.model.counting is not None:
            scales = {"^counting\\.": COUNTING_RATE, **optimizer.lr_scale}
            self.optimizer_config = replace(optimizer, lr_scale=scales)
        self.figures: dict[str, float] = {}
        self._right: dict[str, list[Tensor]] = {}

    @property
    def embedder(self) -> Embedder:
        """The model whose vectors are the items."""
        embedder: Embedder = self._frozen[0]
        return embedder

    @property
    def network(self) -> Any:
        """Its network, in float32."""
        return self._network[0]

    def on_fit_start(self) -> None:
        """Begin the numbers, unless training goes on."""
        self.network.to(self.device)
        if self.begins_numbers and self.model.config.positions and self.trainer.ckpt_path is None:
            items = self.trainer.datamodule.train_items  # type: ignore[attr-defined]  # set by Trainer.fit
            others = sorted({text for texts in items.texts for text in texts[:1]}, key=len)[:400]
            begin_numbers(self.model, self.network, self.embedder.reader, others, self.seed)

    def asked(self, texts: Sequence[str], rows: Sequence[int], items: ReadItems) -> Asked:
        """Let texts ask albums, by number; texts of similar length run together."""
        preprocessor = self.embedder.reader.preprocessors[Modality.TEXT]
        read = [preprocessor(text) for text in texts]
        order = sorted(range(len(read)), key=lambda i: len(read[i]))
        parts = []
        for start in range(0, len(order), TOGETHER):
            some = order[start : start + TOGETHER]
            (ids_BL,) = preprocessor.collate([read[i] for i in some])
            with torch.no_grad():
                tokens: TokenSequence = self.network.tokens(Modality.TEXT, ids_BL.to(self.device))
            parts.append(self.model(self.network, tokens, items.of(torch.tensor([rows[i] for i in some]))))
        back = torch.tensor(order).argsort()
        return Asked(*(_joined(values, back) for values in zip(*parts, strict=True)))

    def own_vectors(self, texts: Sequence[str]) -> Tensor:
        """Return what the model itself makes of texts, unit rows (Q, D)."""
        return torch.from_numpy(self.embedder.encode(list(texts), show_progress_bar=False)).to(self.device)

    def training_step(self, batch: AlbumBatch, batch_idx: int) -> Tensor:
        """Return the loss of a step."""
        losses = {} if self.train_counting else self._reading_losses(batch)
        if batch.counting is not None:
            losses |= self._counting_losses(batch.counting)
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, batch_size=len(batch.pointed))
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, batch_size=len(batch.pointed), prog_bar=True)
        return loss

    def _reading_losses(self, batch: AlbumBatch) -> dict[str, Tensor]:
        items = self.model.read(self.network, batch.vectors, batch.numbers, batch.padding)
        albums = [album for album, _ in (*batch.pointed, *batch.stated)]
        told: list[Pointed | Stated] = [question for _, question in batch.pointed]
        told += [statement for _, statement in batch.stated]
        told += [batch.pointed[n][1] for n, others in batch.others for _ in others]
        albums += [album for _, others in batch.others for album in others]
        asked = self.asked([question.text for question in told], albums, items)
        points, states = len(batch.pointed), len(batch.stated)
        targets = torch.tensor([question.target for _, question in batch.pointed], device=self.device)
        answers = batch.vectors[albums[:points], targets]
        losses = {
            "item": _surprise(asked.weights[:points], targets),
            "vector": 1.0 - (asked.vectors[:points] * answers).sum(dim=-1).mean(),
            "named": _surprise(
                asked.named[:points, 0],
                torch.tensor([question.named for _, question in batch.pointed], device=self.device),
            ),
        }
        if states:
            ends = torch.tensor([[s.first, s.second] for _, s in batch.stated], device=self.device)
            stating = asked.named[points : points + states]
            losses["ends"] = sum(_surprise(stating[:, 1 + end], ends[:, end]) for end in (0, 1)) / 2  # type: ignore[assignment]
            truth = asked.matches[points : points + states].view(-1, 2)
            losses["order"] = F.cross_entropy(truth, torch.zeros(len(truth), dtype=torch.long, device=self.device))
        if batch.others:
            losses["album"] = self._telling_loss(batch, asked, points + states)
        return losses

    def _counting_losses(self, batch: CountBatch) -> dict[str, Tensor]:
        counted, told = self._counted(batch), len(batch.asked)
        absent = batch.padding[[album for album, _ in batch.asked]]
        judged = counted.chances[:told][~absent].logit(SURELY)  # autocast on CUDA refuses losses of probabilities
        stated = [counts.stated for _, counts in batch.asked] + [NONE_STATED] * len(batch.other)
        about = torch.arange(len(stated), device=self.device) < told
        return {
            "members": F.binary_cross_entropy_with_logits(judged, _members(batch).to(judged)[~absent]),
            "stated": F.cross_entropy(counted.stated, torch.tensor(stated, device=self.device)),
            "counts": F.binary_cross_entropy_with_logits(counted.counts, about.float()),
        }

    def _counted(self, batch: CountBatch) -> Counted:
        """Return what texts count, then what those say that count nothing."""
        items = self.model.read(self.network, batch.vectors, padding_BN=batch.padding)
        both = [(album, counts.text) for album, counts in batch.asked] + batch.other
        return cast(Counted, self.asked([text for _, text in both], [album for album, _ in both], items).counted)

    def _telling_loss(self, batch: AlbumBatch, asked: Asked, first: int) -> Tensor:
        """Return the cross entropy of the album that a text is about, among others."""
        numbers = [n for n, _ in batch.others]
        own_QD = self.own_vectors([batch.pointed[n][1].text for n in numbers])
        count = len(batch.others[0][1])
        scores_Q1 = self.model.scores(own_QD, asked.vectors[numbers], asked.matches[numbers])[:, None]
        others_QOD = asked.vectors[first:].unflatten(0, (-1, count))
        matches_QO = asked.matches[first:].unflatten(0, (-1, count))
        scores_QO = self.model.scores(own_QD[:, None], others_QOD, matches_QO)
        target = torch.zeros(len(numbers), dtype=torch.long, device=self.device)
        return F.cross_entropy(torch.cat([scores_Q1, scores_QO], dim=1), target)

    def on_validation_epoch_start(self) -> None:
        """Collect afresh."""
        self._right = {}

    def validation_step(self, batch: AlbumBatch, batch_idx: int) -> None:
        """Ask albums of 20."""
        items = self.model.read(self.network, batch.vectors, batch.numbers, batch.padding)
        both: list[tuple[int, Pointed | Stated]] = [*batch.pointed, *batch.stated]
        asked = self.asked([question.text for _, question in both], [album for album, _ in both], items)
        right = asked.weights.argmax(dim=1)
        for (_, question), place in zip(batch.pointed, right.tolist(), strict=False):
            self._right.setdefault(question.by, []).append(torch.tensor(float(place == question.target)))
        truth = asked.matches[len(batch.pointed) :].view(-1, 2)
        self._right.setdefault("order", []).extend((truth[:, 0] > truth[:, 1]).float())
        if batch.counting is not None:
            found = count_chances(self._counted(batch.counting).chances).argmax(dim=1)
            right = found[: len(batch.counting.asked)].cpu() == _members(batch.counting).sum(dim=1)
            self._right.setdefault("count", []).extend(right.float())

    def on_validation_epoch_end(self) -> None:
        """Log how many questions were answered right, in percent."""
        found = {name: 100.0 * float(torch.stack(values).mean()) for name, values in self._right.items()}
        self.figures = {f"albums of 20, by {name}": figure for name, figure in found.items()}
        self.log_dict({f"val/{name}": figure for name, figure in found.items()}, prog_bar=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what an export needs: plain data only, so that the file loads with `weights_only`."""
        super().on_save_checkpoint(checkpoint)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint[ENVELOPE] = {
            "start": self.start,
            "base": self.embedder.fingerprint,
            "tower": self.model.config.to_dict(),
            "trained_on": data.description(),
            "figures": self.figures,
        }


def _members(batch: CountBatch) -> Tensor:
    """Return which items each text counts, (Q, N)."""
    found = torch.zeros(len(batch.asked), batch.padding.shape[1])
    for row, (_, counts) in enumerate(batch.asked):
        found[row, counts.members] = 1.0
    return found


def _joined(values: Sequence[Any], back: Tensor) -> Any:
    """Return what batches of texts were told as one, in the order of the texts."""
    if values[0] is None:
        return None
    if isinstance(values[0], tuple):
        return type(values[0])(*(_joined(each, back) for each in zip(*values, strict=True)))
    return torch.cat(list(values))[back]


def _surprise(weights_QN: Tensor, targets_Q: Tensor) -> Tensor:
    """Return the mean of -log p of the right items."""
    return -weights_QN.gather(1, targets_Q[:, None]).clamp_min(SMALLEST).log().mean()
