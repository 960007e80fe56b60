"""Our BERT against the formulas of the paper, computed from weights under their published names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders import Shape
from encoders.text.adapter import BertConfig
from encoders.text.bert import Bert, bert_state

WORDS, WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS = 20, 16, 2, 4, 24, 12
IDS = torch.tensor([[3, 7, 9, 11, 2], [5, 6, 0, 0, 0]])
PADDING = IDS == 0


def published() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (WORDS, WIDTH),
        "embeddings.position_embeddings.weight": (POSITIONS, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
    }
    for layer in range(LAYERS):
        for name, rows, columns in (
            *((f"attention.self.{part}", WIDTH, WIDTH) for part in ("query", "key", "value")),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", HIDDEN, WIDTH),
            ("output.dense", WIDTH, HIDDEN),
        ):
            shapes[f"encoder.layer.{layer}.{name}.weight"] = (rows, columns)
            shapes[f"encoder.layer.{layer}.{name}.bias"] = (rows,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"encoder.layer.{layer}.{name}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
    return {name: torch.randn(shape) * 0.5 for name, shape in shapes.items()}


def by_hand(weights: dict[str, Tensor], ids: Tensor) -> Tensor:
    """One text, (N,) -> (N, D)."""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids]
    x = x + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        parts = [linear(x, f"{at}attention.self.{part}") for part in ("query", "key", "value")]
        query, key, value = (part.view(len(ids), HEADS, -1).transpose(0, 1) for part in parts)
        shares = torch.softmax(query @ key.transpose(1, 2) / math.sqrt(WIDTH / HEADS), dim=-1)
        attended = (shares @ value).transpose(0, 1).reshape(len(ids), WIDTH)
        x = norm(x + linear(attended, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        hidden = F.gelu(linear(x, f"{at}intermediate.dense"))
        x = norm(x + linear(hidden, f"{at}output.dense"), f"{at}output.LayerNorm")
    return x


def test_features_equal_the_formulas_for_each_text_of_a_padded_batch() -> None:
    weights = published()
    backbone = Bert(WORDS, WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS)
    backbone.load_state_dict(bert_state(weights))
    for features in (backbone(IDS, PADDING), backbone.eval()(IDS, PADDING)):
        for row, ids in enumerate(IDS):
            alone = by_hand(weights, ids[ids != 0])
            torch.testing.assert_close(features[row, : len(alone)], alone, rtol=1e-4, atol=1e-5)


def test_the_mean_of_the_features_reaches_the_class_token() -> None:
    config = BertConfig(
        vocabulary_size=WORDS,
        positions=POSITIONS,
        backbone_width=WIDTH,
        backbone_layers=LAYERS,
        backbone_heads=HEADS,
        backbone_hidden=HIDDEN,
    )
    adapter = config.build(Shape(width=8, heads=2)).eval()
    weights = published()
    adapter.backbone.load_state_dict(bert_state(weights))
    sequence = adapter(IDS)
    means = torch.stack([by_hand(weights, ids[ids != 0]).mean(0) for ids in IDS])
    expected = adapter.class_token + adapter.class_projection(means)
    torch.testing.assert_close(sequence.embeddings[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert sequence.padding[:, 1:].equal(PADDING)
