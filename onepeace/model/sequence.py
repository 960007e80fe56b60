"""The sequence tower: a text reads the items of a sequence beside its own words, by hyper-attention.

After mPLUG-Owl3 (Ye et al., 2024, arXiv:2408.04840, section 2.2). B: texts, T: tokens of one, N: items, W: width of a
token, H: heads, K: width of a head, D: embedding dimension.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model.block import Attended, Block
from onepeace.model.config import ModelConfig
from onepeace.model.counting import Counted, Counting
from onepeace.model.cross_attention import CrossAttention
from onepeace.model.onepeace import OnePeace

MOST = 400  # items that numbers tell apart: angles are between half a turn an item and half a turn for so many
STEPS = (1, -1)  # items that a text may go on from the one that it names; or it stays
SURE = 40.0  # how much the place weighs that a step leads to
STRENGTH = 20.0  # how much the likeness of a word and an item weighs at the start
PLACE = 64  # cosines and sines of an item's number that its values are told


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """Options of a sequence tower. The defaults are those of mPLUG-Owl3; others are there to measure what each gives.

    Raises:
        ValueError: no layers.

    >>> SequenceConfig(layers=1).layers
    1
    """

    layers: int = 2  # blocks of the fusion encoder that read items, evenly spread, the last one among them
    fused: bool = False  # one softmax over words and items, as a later release has it, instead of a gate
    gate: bool = True  # False: what was read of the items is added
    shared_norm: bool = True  # items go through the LayerNorm of the block that reads them
    positions: bool = True  # MI-Rope: an item's number turns its keys
    reading: int = 1  # layers behind the text path, which compare what words found
    counting: bool = False  # whether texts that count things are understood

    def to_dict(self) -> dict[str, Any]:
        """Return plain data.

        >>> SequenceConfig(layers=1).to_dict()["layers"]
        1
        """
        return asdict(self)

    def __post_init__(self) -> None:
        """Refuse a tower that reads nothing."""
        if self.layers < 1:
            raise ValueError(f"layers must be at least 1, got {self.layers}")


class ReadItems(NamedTuple):
    """What is made of a sequence's items once, whatever is asked of them later."""

    layers: list[tuple[Tensor, Tensor]]  # keys and values of the blocks that read, (B, H, N, K) each
    told: list[Tensor]  # (B, N, W), what reading layers tell words of each item
    places: Tensor  # (B, N, W), phases of the items' numbers
    vectors: Tensor  # (B, N, D) unit rows
    padding: Tensor  # (B, N) bool, True where there is no item
    lacking: Tensor  # (B, MOST) bool, True for numbers that no item has

    def of(self, rows_Q: Tensor) -> ReadItems:
        """Return the sequences `rows_Q`, one for each question."""
        layers = [(key[rows_Q], value[rows_Q]) for key, value in self.layers]
        told = [values[rows_Q] for values in self.told]
        rest = (self.places, self.vectors, self.padding, self.lacking)
        return ReadItems(layers, told, *(values[rows_Q] for values in rest))


class Asked(NamedTuple):
    """What a sequence says to a text."""

    vectors: Tensor  # (B, D) unit rows: what the text asks for, as the items have it
    weights: Tensor  # (B, N), adding up to one: the items that answer
    matches: Tensor  # (B,): higher where what the text states is so
    named: Tensor  # (B, 3, N): the items that words name: the one that is meant or gone on from, a first, a second one
    absent: Tensor  # (B,), 0 to 1: how likely a number is meant that no item has, beside all items together
    counted: Counted | None  # where the tower counts


class ItemAttention(nn.Module):
    """Words ask items: keys are turned by the item's number (MI-Rope), and values are told it.

    The paper turns keys alone: then a word can ask for an item by its number, but what it finds does not say where.
    """

    def __init__(self, width: int, heads: int, positions: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.place = nn.Linear(PLACE, width, bias=False) if positions else None

    def read(self, x_BNW: Tensor, numbers_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, N, K) of items with these numbers."""
        key_BHNK, value_BNW = self._split(self.key(x_BNW)), self.value(x_BNW)
        if self.place is not None:
            key_BHNK = turned(key_BHNK, numbers_BN[:, None])
            value_BNW = value_BNW + self.place(torch.cat(phases(numbers_BN, PLACE), dim=-1).to(value_BNW.dtype))
        return key_BHNK, self._split(value_BNW)

    def logits(self, x_BTW: Tensor, key_BHNK: Tensor, padding_BN: Tensor) -> Tensor:
        """Return how much each word asks for each item, (B, H, T, N)."""
        query_BHTK = self._split(self.query(x_BTW))
        logits_BHTN = (query_BHTK * query_BHTK.shape[-1] ** -0.5) @ key_BHNK.transpose(-1, -2)
        return logits_BHTN.masked_fill(padding_BN[:, None, None], -torch.inf)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class HyperAttention(nn.Module):
    """A block of the frozen text path reads items beside its own words (mPLUG-Owl3, eq. 1 to 4).

    Unlike there queries are copies of the text's that train, as the text itself does not.
    """

    def __init__(self, width: int, heads: int, config: SequenceConfig) -> None:
        super().__init__()
        self.fused = config.fused
        self.items = ItemAttention(width, heads, config.positions)
        self.norm = None if config.shared_norm else nn.LayerNorm(width)
        self.gate = nn.Linear(width, heads) if config.gate and not config.fused else None

    @torch.no_grad()
    def begin_from(self, block: Block) -> None:
        """Copy the text's queries, keys and values."""
        for name in ("query", "key", "value"):
            getattr(self.items, name).load_state_dict(getattr(block.attention, name).state_dict())
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

    def read(self, block: Block, x_BNW: Tensor, numbers_BN: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values of items, (B, H, N, K), through the block's LayerNorm."""
        return self.items.read((self.norm or block.attention_norm)(x_BNW), numbers_BN)

    def forward(self, own: Attended, key_BHNK: Tensor, value_BHNK: Tensor, padding_BN: Tensor) -> Tensor:
        """Return what words found among themselves and among the items, (B, H, T, K)."""
        items_BHTN = self.items.logits(own.normed, key_BHNK, padding_BN)
        if self.fused:
            words_BHTT = (own.query * own.query.shape[-1] ** -0.5) @ own.key.transpose(-1, -2)
            if own.mask is not None:
                told = own.mask.dtype == torch.bool
                words_BHTT = words_BHTT.masked_fill(~own.mask, -torch.inf) if told else words_BHTT + own.mask
            weights = torch.cat([words_BHTT, items_BHTN], dim=-1).softmax(dim=-1)
            return weights @ torch.cat([own.value, value_BHNK], dim=-2)
        found_BHTK = items_BHTN.softmax(dim=-1) @ value_BHNK
        if self.gate is None:
            return own.out + found_BHTK
        gate_BHT1 = self.gate(own.out.transpose(1, 2).flatten(2)).sigmoid().transpose(1, 2)[..., None]
        return gate_BHT1 * found_BHTK + (1 - gate_BHT1) * own.out


class Matching(nn.Module):
    """Each word asks items as the model itself compares vectors, and by number.

    The query begins as the model's text head, so a word finds from the start what is like it: blocks that had to learn
    from some thousands of items what words mean pointed to 4 of 10 of them.
    """

    def __init__(self, width: int, dimension: int, positions: bool) -> None:
        super().__init__()
        self.query = nn.Linear(width, dimension)
        self.strength = nn.Linear(width, 1)
        # MI-Rope with one key for all: how a number turns it is all there is to ask by.
        self.number = nn.Linear(width, width) if positions else None

    @torch.no_grad()
    def begin_from(self, head: nn.Linear) -> None:
        """Ask as a head of the model does; numbers say nothing yet."""
        self.query.load_state_dict(head.state_dict())
        nn.init.zeros_(self.strength.weight)
        nn.init.constant_(self.strength.bias, STRENGTH)
        if self.number is not None:
            nn.init.zeros_(self.number.weight)
            nn.init.zeros_(self.number.bias)

    def forward(self, x_BTW: Tensor, items: ReadItems) -> Tensor:
        """Return how much each word asks for each item, (B, T, N)."""
        logits_BTN = self.strength(x_BTW) * self.likeness(x_BTW, items.vectors)
        if self.number is not None:
            logits_BTN = logits_BTN + by_number(self.number(x_BTW), items.places)
        return logits_BTN.float().masked_fill(items.padding[:, None], -torch.inf)

    def likeness(self, x_BTW: Tensor, vectors_BND: Tensor) -> Tensor:
        """Return the cosine of each word's query with each item, (B, T, N)."""
        query_BTD = F.normalize(self.query(x_BTW), dim=-1)
        return query_BTD @ vectors_BND.to(query_BTD.dtype).transpose(1, 2)


class ReadingLayer(nn.Module):
    """Words look at each other, at the items, then think: behind the frozen text path, which stays as it is.

    The frozen blocks can hand on what a word found, but not compare what two words found, as order asks.
    """

    def __init__(self, width: int, heads: int, dimension: int, positions: bool) -> None:
        super().__init__()
        self.items = Matching(width, dimension, positions)
        self.value = nn.Linear(dimension, width)
        self.place = nn.Linear(width, width, bias=False) if positions else None
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.among = CrossAttention(width, heads)
        self.feedforward = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        for linear in (self.among.output, self.value, self.place, cast(nn.Linear, self.feedforward[2])):
            if linear is not None:
                nn.init.normal_(linear.weight, std=0.002)  # a start near the text's own features
                if linear.bias is not None:
                    nn.init.zeros_(linear.bias)

    def read(self, vectors_BND: Tensor, places_BNW: Tensor) -> Tensor:
        """Return what a word is told of each item, (B, N, W)."""
        told_BNW: Tensor = self.value(vectors_BND)
        return told_BNW if self.place is None else told_BNW + self.place(places_BNW)

    def forward(self, x_BTW: Tensor, words_BT: Tensor, told_BNW: Tensor, items: ReadItems) -> Tensor:
        """Return the words, same shape; `words_BT` is True where there is one."""
        x_BTW = x_BTW + self.items(x_BTW, items).softmax(dim=-1).to(told_BNW.dtype) @ told_BNW
        y_BTW = self.norms[0](x_BTW)
        x_BTW = x_BTW + self.among(y_BTW, y_BTW, words_BT[:, None, None])
        out: Tensor = x_BTW + self.feedforward(self.norms[1](x_BTW))
        return out


class SequenceTower(nn.Module):
    """Reads sequences of embedded items for the text path of a frozen model; what it adds is all that trains.

    An item is one token, made of its vector: a store has nothing else to keep, and what a model embeds can be read. At
    the end a pointer says which items answer, and the answer is the mean of their vectors by these weights, so that the
    answer of a sequence of one is its item's vector.

    >>> network = model.folder.model().eval()
    >>> tower = SequenceTower(network.config)
    >>> tower.begin_from(network)
    >>> tokens = network.tokens(Modality.TEXT, torch.tensor([[101, 1037, 3899, 102]]))
    >>> items = tower.read(network, F.normalize(torch.randn(1, 7, 512), dim=-1))
    >>> asked = tower(network, tokens, items)
    >>> asked.vectors.shape, asked.weights.shape, asked.matches.shape
    (torch.Size([1, 512]), torch.Size([1, 7]), torch.Size([1]))
    """

    def __init__(self, model: ModelConfig, config: SequenceConfig = SequenceConfig()) -> None:
        super().__init__()
        if config.layers > model.layers:
            raise ValueError(f"the fusion encoder has {model.layers} blocks, so no {config.layers} can read items")
        width, dimension = model.width, model.embedding_dim
        self.config = config
        self.places = [(i + 1) * model.layers // config.layers - 1 for i in range(config.layers)]
        self.hyper = nn.ModuleList(HyperAttention(width, model.heads, config) for _ in self.places)
        self.item = nn.Linear(dimension, width)
        self.early = nn.Linear(width, width)  # what words were before the frozen blocks
        self.reading = nn.ModuleList(
            ReadingLayer(width, model.heads, dimension, config.positions) for _ in range(config.reading)
        )
        self.find = Matching(width, dimension, config.positions)
        self.says = nn.Linear(width, 3)  # how much each word says of the item that is meant, of a first, of a second
        self.step = nn.Linear(width, 1 + len(STEPS)) if config.positions else None  # whether to stay, and each step
        self.gate = nn.Linear(width, 1)
        compared = 2 * width if config.positions else width
        self.match = nn.Sequential(nn.Linear(compared, width), nn.GELU(), nn.Linear(width, 1))
        self.nearness = nn.Parameter(torch.tensor(10.0))  # of text and answer, as a part of the match
        self.counting = Counting(width) if config.counting else None

    @property
    def readers(self) -> list[tuple[int, HyperAttention]]:
        """The blocks that read items, and how."""
        return list(zip(self.places, cast(Iterable[HyperAttention], self.hyper), strict=True))

    @property
    def number_queries(self) -> list[nn.Linear]:
        """What asks for items by number, made of words."""
        matchings = (*(cast(ReadingLayer, layer).items for layer in self.reading), self.find)
        return [matching.number for matching in matchings if matching.number is not None]

    def scores(self, own: Tensor, answers: Tensor, matches: Tensor) -> Tensor:
        """Return how well sequences fit texts, (...): by a text's own vector and the answer (..., D), and the match."""
        return self.nearness * (own * answers).sum(dim=-1) + matches

    @torch.no_grad()
    def begin_from(self, model: OnePeace) -> None:
        """Copy the text's queries, keys and values; items begin as what the picture head would have made them of."""
        for place, hyper in self.readers:
            hyper.begin_from(cast(Block, model.fusion.blocks[place]))
        picture = cast(nn.Linear, model.heads[Modality.IMAGE if Modality.IMAGE in model.modalities else Modality.TEXT])
        self.item.weight.copy_(torch.linalg.pinv(picture.weight.float()))
        self.item.weight.mul_(model.config.width**0.5 / self.item.weight.norm(dim=1).mean())
        head = cast(nn.Linear, model.heads[Modality.TEXT])
        for matching in (*(cast(ReadingLayer, layer).items for layer in self.reading), self.find):
            matching.begin_from(head)
        for linear in (self.early, self.gate, self.says):
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.item.bias)
        if self.step is not None:
            nn.init.zeros_(self.step.weight)
            nn.init.zeros_(self.step.bias)

    @torch.no_grad()
    def close(self) -> None:
        """Close every gate: then texts read no items, and their vectors are the model's own, exactly."""
        for gate in (self.gate, *(hyper.gate for _, hyper in self.readers)):
            if gate is None:
                raise ValueError("a tower without gates cannot be closed")
            nn.init.zeros_(gate.weight)
            nn.init.constant_(gate.bias, -torch.inf)

    def read(
        self,
        model: OnePeace,
        vectors_BND: Tensor,
        numbers_BN: Tensor | None = None,
        padding_BN: Tensor | None = None,
    ) -> ReadItems:
        """Return what texts read of the items with these unit vectors; numbers count from 1 unless they are given."""
        batch, count, _ = vectors_BND.shape
        if numbers_BN is None:
            numbers_BN = torch.arange(1, count + 1, device=vectors_BND.device).expand(batch, -1)
        if padding_BN is None:
            padding_BN = torch.zeros(batch, count, dtype=torch.bool, device=vectors_BND.device)
        x_BNW = self.item(vectors_BND)
        blocks = [cast(Block, model.fusion.blocks[place]) for place in self.places]
        layers = [hyper.read(block, x_BNW, numbers_BN) for block, (_, hyper) in zip(blocks, self.readers, strict=True)]
        places_BNW = torch.cat(phases(numbers_BN, model.config.width), dim=-1)
        told = [cast(ReadingLayer, layer).read(vectors_BND, places_BNW) for layer in self.reading]
        had_BN = numbers_BN.masked_fill(padding_BN | (numbers_BN > MOST), 0)
        lacking = torch.ones(batch, 1 + MOST, dtype=torch.bool, device=vectors_BND.device).scatter(1, had_BN, False)
        return ReadItems(layers, told, places_BNW, vectors_BND, padding_BN, lacking[:, 1:])

    def forward(self, model: OnePeace, tokens: TokenSequence, items: ReadItems) -> Asked:
        """Return what each sequence says to its text: tokens (B, T, W) of the text adapter, items of B sequences."""
        mixes = {
            place: partial(hyper, key_BHNK=key, value_BHNK=value, padding_BN=items.padding)
            for (place, hyper), (key, value) in zip(self.readers, items.layers, strict=True)
        }
        (features,) = model.fusion([tokens], mixes)
        own_BD: Tensor = model.heads[Modality.TEXT](features).float()
        x_BTW, words_BT = features.embeddings + self.early(tokens.embeddings), ~features.padding
        for layer, told_BNW in zip(self.reading, items.told, strict=True):
            x_BTW = layer(x_BTW, words_BT, told_BNW, items)
        class_BW = x_BTW[:, 0]
        asks_BTN = self.find(x_BTW, items)
        found_BTN = asks_BTN.softmax(dim=-1)
        says_BT3 = self.says(x_BTW).float().masked_fill(~words_BT[..., None], -torch.inf).softmax(dim=1)
        named_B3N = torch.stack([weighted(says_BT, found_BTN) for says_BT in says_BT3.unbind(dim=-1)], dim=1)
        weights_BN, first_BN, second_BN = named_B3N.unbind(dim=1)
        compared_BW, absent_B = class_BW, torch.zeros_like(weights_BN[:, 0])
        if self.step is not None:
            steps_BS = self.step(class_BW).float().softmax(dim=-1)
            if not self.training:
                absent_B = self.absent(x_BTW, asks_BTN, says_BT3[..., 0], steps_BS, items)
            weights_BN = gone_on(weights_BN, items.places, items.padding, steps_BS)
            # To compare two places is to turn one back by the other.
            between_BW = turned_back(weighted(second_BN, items.places), weighted(first_BN, items.places))
            compared_BW = torch.cat([class_BW, between_BW.to(class_BW.dtype)], dim=-1)
        answer_BD = F.normalize(weighted(weights_BN, items.vectors.float()), dim=-1)
        gate_B1 = self.gate(class_BW).float().sigmoid()
        mixed_BD = F.normalize(gate_B1 * answer_BD + (1 - gate_B1) * own_BD, dim=-1)
        vectors_BD = torch.where(gate_B1 > 0, mixed_BD, own_BD)
        match_B, counted = self.match(compared_BW).squeeze(-1).float(), None
        if self.counting is not None:
            x_BTW = x_BTW.detach()
            likeness_BTN = self.find.likeness(x_BTW, items.vectors).detach()
            counted = self.counting(x_BTW, words_BT, likeness_BTN, items.vectors, items.padding)
            match_B = match_B + counted.fits()
        return Asked(vectors_BD, weights_BN, match_B, named_B3N, absent_B, counted)

    def absent(self, x_BTW: Tensor, asks_BTN: Tensor, says_BT: Tensor, steps_BS: Tensor, items: ReadItems) -> Tensor:
        """Return how likely a number is meant that no item has, beside all items together, (B,).

        Words ask for numbers whether an item has them or not: so let all numbers stand beside the items, as things that
        are like nothing, and see what is pointed to.
        """
        count, query = items.padding.shape[1], cast(nn.Linear, self.find.number)(x_BTW)
        numbers = torch.arange(1, 1 + MOST, device=query.device).expand(len(query), -1)
        lacking_BMW = torch.cat(phases(numbers, query.shape[-1]), dim=-1)
        lacking_BTM = by_number(query, lacking_BMW).float().masked_fill(~items.lacking[:, None], -torch.inf)
        found_BTN = torch.cat([asks_BTN, lacking_BTM], dim=-1).softmax(dim=-1)
        places_BNW = torch.cat([items.places, lacking_BMW], dim=1)
        none_BN = torch.cat([items.padding, ~items.lacking], dim=1)
        meant_BN = gone_on(weighted(says_BT, found_BTN), places_BNW, none_BN, steps_BS)
        there_B, lacks_B = meant_BN[:, :count].sum(dim=1), meant_BN[:, count:].amax(dim=1)
        return lacks_B / (there_B + lacks_B)


def gone_on(weights_BN: Tensor, places_BNW: Tensor, padding_BN: Tensor, steps_BS: Tensor) -> Tensor:
    """Return weights (B, N) of the items that are meant, where words may go on from those they found.

    Places are turns, so to go on from what was found is to turn it. `steps_BS`: how likely to stay, and each step.
    """
    stays_B1, *goes = steps_BS.split(1, dim=-1)
    from_BW = weighted(weights_BN, places_BNW)
    weights_BN = stays_B1 * weights_BN
    for step, goes_B1 in zip(STEPS, goes, strict=True):
        there_BW = turned(from_BW, torch.full_like(goes_B1[:, 0], step))
        logits_BN = SURE * (there_BW[:, None] * places_BNW).mean(dim=-1)
        weights_BN = weights_BN + goes_B1 * logits_BN.masked_fill(padding_BN, -torch.inf).softmax(dim=-1)
    return weights_BN


def weighted(weights_BN: Tensor, values_BNK: Tensor) -> Tensor:
    """Return sums of values, (B, K), in their own precision whatever autocast would have."""
    return (weights_BN[..., None] * values_BNK).sum(dim=1)


def by_number(query_BTW: Tensor, places_BNW: Tensor) -> Tensor:
    """Return how much words ask for items by their numbers, (B, T, N)."""
    return (query_BTW * query_BTW.shape[-1] ** -0.5) @ places_BNW.to(query_BTW.dtype).transpose(1, 2)


def phases(numbers: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of numbers (...) at width / 2 angles each, (..., width / 2).

    Rotary positions of texts begin at a radian and go down to a 10,000th (Su et al., 2021, arXiv:2104.09864); most of
    these hardly tell neighbours apart, and neighbours are what numbers of items must tell.

    >>> [part.shape for part in phases(torch.tensor([[1, 2, 3]]), 8)]
    [torch.Size([1, 3, 4]), torch.Size([1, 3, 4])]
    """
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=numbers.device)
    angles = numbers.float()[..., None] * torch.pi * MOST ** (-steps / width)
    return angles.cos(), angles.sin()


def turned(x: Tensor, numbers: Tensor) -> Tensor:
    """Return vectors (..., K), turned by the numbers (...) of their items (Su et al., 2021, eq. 15).

    >>> x = torch.randn(1, 2, 8)
    >>> near, far = turned(x, torch.tensor([[5, 7]])), turned(x, torch.tensor([[105, 107]]))
    >>> torch.allclose(near[0, 0] @ near[0, 1], far[0, 0] @ far[0, 1], atol=1e-4)  # the distance alone counts
    True
    """
    cosines, sines = (part.to(x.dtype) for part in phases(numbers, x.shape[-1]))
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosines - second * sines, first * sines + second * cosines], dim=-1)


def turned_back(x: Tensor, other: Tensor) -> Tensor:
    """Return phases (..., K) turned back by others: those of the difference of two numbers, where each is of one.

    >>> five, seven = (torch.cat(phases(torch.tensor([n]), 8), dim=-1) for n in (5, 7))
    >>> torch.allclose(turned_back(seven, five), torch.cat(phases(torch.tensor([2]), 8), dim=-1), atol=1e-5)
    True
    """
    (x_cosines, x_sines), (cosines, sines) = x.chunk(2, dim=-1), other.chunk(2, dim=-1)
    return torch.cat([x_cosines * cosines + x_sines * sines, x_sines * cosines - x_cosines * sines], dim=-1)
