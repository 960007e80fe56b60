"""BERT (Devlin et al., 2019, arXiv:1810.04805): the backbone that texts may start from, as all-MiniLM-L6-v2 has it.

B: batch, N: tokens, D: width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from encoders.adapter import trunc_normal
from encoders.dropout import Dropout

EPSILON = 1e-12


class Bert(nn.Module):
    """Token ids -> contextual features, without a pooler. Blocks normalise after each sublayer."""

    def __init__(
        self,
        vocabulary_size: int,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        positions: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding.from_pretrained(trunc_normal(torch.empty(vocabulary_size, width)), freeze=False)
        # Ours hold the embedding of the one segment too.
        self.positions = nn.Parameter(trunc_normal(torch.empty(positions, width)))
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, hidden, dropout, activation="gelu", layer_norm_eps=EPSILON, batch_first=True
            )
            for _ in range(layers)
        )
        for layer in self.layers:
            layer.dropout, layer.dropout1, layer.dropout2 = (Dropout(dropout) for _ in range(3))

    def forward(self, ids_BN: Tensor, padding_BN: Tensor) -> Tensor:
        """Return (B, N, D); padding is True where there is no token."""
        x_BND: Tensor = self.norm(self.tokens(ids_BN) + self.positions[: ids_BN.shape[1]])
        mask_BN = padding_BN if bool(padding_BN.any()) else None
        for layer in self.layers:
            x_BND = layer(x_BND, src_key_padding_mask=mask_BN)
        return x_BND


def bert_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return published BERT weights under the names of `Bert`: q, k and v in one matrix, one segment's embedding."""
    state = {
        "tokens.weight": published["embeddings.word_embeddings.weight"],
        "positions": published["embeddings.position_embeddings.weight"]
        + published["embeddings.token_type_embeddings.weight"][0],
    }
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = published[f"embeddings.LayerNorm.{kind}"]
        layer = 0
        while (theirs := f"encoder.layer.{layer}.") + f"output.dense.{kind}" in published:
            ours = f"layers.{layer}."
            parts = [published[f"{theirs}attention.self.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"{ours}self_attn.in_proj_{kind}"] = torch.cat(parts)
            state |= {f"{ours}{own}.{kind}": published[f"{theirs}{name}.{kind}"] for own, name in names.items()}
            layer += 1
    return state
