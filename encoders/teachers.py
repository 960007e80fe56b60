"""Frozen outside encoders whose vectors a model learns from, with their vectors cached on disk.

So far one: all-MiniLM-L6-v2 for sentences (Wang et al., 2020, arXiv:2002.10957; trained by the sentence-transformers
project). Others join by offering the same `key` and `__call__`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from encoders.pretrained import PretrainedError, minilm_folder, minilm_weights, pretrained_tokenizer, read_weights

MAX_TOKENS = 256
WIDTH, HEADS, HIDDEN, LAYERS = 384, 12, 1536, 6


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2: a BERT of six layers, mean over tokens, length one."""

    def __init__(self) -> None:
        super().__init__()
        weights = minilm_weights()
        self.tokenizer = pretrained_tokenizer("all-minilm-l6-v2")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.tokens = nn.Embedding.from_pretrained(weights["embeddings.word_embeddings.weight"])
        self.positions = nn.Parameter(
            weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
        )
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.norm.load_state_dict(_part(weights, "embeddings.LayerNorm."))
        self.layers = nn.ModuleList(_bert_layer(_part(weights, f"encoder.layer.{i}.")) for i in range(LAYERS))
        self.eval().requires_grad_(False)

    @property
    def key(self) -> str:
        """Return what the vectors depend on, for caches."""
        size = (minilm_folder() / "model.safetensors").stat().st_size
        return f"all-minilm-l6-v2:{size}:{MAX_TOKENS}"

    def forward(self, ids_BL: Tensor, padding_BL: Tensor) -> Tensor:
        """Return (B, 384) unit rows for WordPiece ids with [CLS] and [SEP]; padding is True where there is no token."""
        x_BLD = self.norm(self.tokens(ids_BL) + self.positions[: ids_BL.shape[1]])
        for layer in self.layers:
            x_BLD = layer(x_BLD, src_key_padding_mask=padding_BL)
        present_BL1 = (~padding_BL).unsqueeze(-1)
        mean_BD = (x_BLD.float() * present_BL1).sum(1) / present_BL1.sum(1)
        return F.normalize(mean_BD, dim=-1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 128, progress: bool = True) -> Tensor:
        """Return (N, 384) unit rows, float32, in the order of `texts`; batches hold texts of similar length."""
        ids = [torch.tensor(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        vectors = torch.empty(len(ids), WIDTH)
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc="sentence vectors", unit="batch", disable=not progress, mininterval=1.0):
            members = order[start : start + batch_size]
            batch_BL = nn.utils.rnn.pad_sequence([ids[i] for i in members], batch_first=True, padding_value=-1)
            with torch.autocast("cpu", torch.bfloat16):
                vectors[members] = self(batch_BL.clamp(min=0), batch_BL < 0)
        return vectors


def cached_sentence_vectors(texts: Sequence[str], folder: Path) -> Tensor:
    """Return (N, 384) float16 sentence vectors, from the cache below `folder` or computed and stored there.

    Texts that an older cache file holds are not computed again. A damaged file is computed anew.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save

    encoder = SentenceEncoder()
    path = folder / f"sentences-{hashlib.sha256(encoder.key.encode()).hexdigest()[:16]}.safetensors"
    known: dict[bytes, Tensor] = {}
    if path.exists():
        try:
            stored = load_file(path)
            if _checksum(stored["keys"], stored["vectors"]) == bytes(stored["sha256"].tolist()):
                keys = [bytes(key) for key in stored["keys"].numpy()]
                known = dict(zip(keys, stored["vectors"], strict=True))
        except (SafetensorError, KeyError):
            known = {}
    wanted = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
    missing = {key: text for key, text in zip(wanted, texts, strict=True) if key not in known}
    if missing:
        known.update(zip(missing, encoder.encode(list(missing.values())).half(), strict=True))
        folder.mkdir(parents=True, exist_ok=True)
        keys_N16 = torch.tensor([list(key) for key in known], dtype=torch.uint8)
        vectors_ND = torch.stack(list(known.values()))
        checksum = torch.tensor(list(_checksum(keys_N16, vectors_ND)), dtype=torch.uint8)
        aside = path.with_suffix(f".{os.getpid()}.part")
        aside.write_bytes(save({"keys": keys_N16, "vectors": vectors_ND, "sha256": checksum}))
        os.replace(aside, path)
    return torch.stack([known[key] for key in wanted])


def _checksum(keys_N16: Tensor, vectors_ND: Tensor) -> bytes:
    digest = hashlib.sha256(keys_N16.contiguous().numpy().data)
    digest.update(vectors_ND.contiguous().numpy().data)
    return digest.digest()


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def _bert_layer(weights: dict[str, Tensor]) -> nn.TransformerEncoderLayer:
    """Return one BERT layer: PyTorch's post-norm layer under other names, q, k and v in one matrix."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    )
    attention = [_part(weights, f"attention.self.{name}.") for name in ("query", "key", "value")]
    state = {
        "self_attn.in_proj_weight": torch.cat([part["weight"] for part in attention]),
        "self_attn.in_proj_bias": torch.cat([part["bias"] for part in attention]),
    }
    names = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            state[f"{ours}.{kind}"] = weights[f"{theirs}.{kind}"]
    layer.load_state_dict(state)
    return layer


class AudioTagger(nn.Module):
    """The tagging head of an EfficientAT model: pooled features of its body -> AudioSet classes."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        weights = _part(read_weights(path), "classifier.")
        names = sorted({name.rsplit(".", 1)[0] for name in weights}, key=int)
        if len(names) != 2:
            raise PretrainedError(f"{path} has no tagging head: wanted two linear layers, got {len(names)}")
        matrices = [weights[f"{name}.weight"] for name in names]
        self.hidden, self.output = (nn.Linear(matrix.shape[1], matrix.shape[0]) for matrix in matrices)
        for layer, name in zip((self.hidden, self.output), names, strict=True):
            layer.load_state_dict(_part(weights, f"{name}."))
        self.eval().requires_grad_(False)

    def forward(self, pooled_BF: Tensor) -> Tensor:
        """Return (B, classes) shares that add up to one."""
        tags_BM = torch.sigmoid(self.output(F.hardswish(self.hidden(pooled_BF))))
        return tags_BM / tags_BM.sum(dim=1, keepdim=True)
