"""Frozen outside encoders whose vectors a model learns from, with their vectors cached on disk.

So far one: all-MiniLM-L6-v2 for sentences (Wang et al., 2020, arXiv:2002.10957; trained by the sentence-transformers
project). Others join by offering the same `key` and `__call__`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from encoders.pretrained import PretrainedError, minilm_folder, minilm_weights, pretrained_tokenizer, read_weights
from encoders.text.adapter import mean_of_present
from encoders.text.bert import Bert, bert_state

log = logging.getLogger(__name__)

MAX_TOKENS = 256
PART = 16_384  # texts between two writes of the cache
WIDTH, HEADS, HIDDEN, LAYERS = 384, 12, 1536, 6


class SentenceEncoder(nn.Module):
    """all-MiniLM-L6-v2: a BERT of six layers, mean over tokens, length one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = pretrained_tokenizer("all-minilm-l6-v2")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        weights = bert_state(minilm_weights())
        self.backbone = Bert(len(weights["tokens.weight"]), WIDTH, LAYERS, HEADS, HIDDEN, len(weights["positions"]))
        self.backbone.load_state_dict(weights)
        self.eval().requires_grad_(False)

    @property
    def key(self) -> str:
        """Return what the vectors depend on, for caches."""
        size = (minilm_folder() / "model.safetensors").stat().st_size
        return f"all-minilm-l6-v2:{size}:{MAX_TOKENS}"

    def forward(self, ids_BL: Tensor, padding_BL: Tensor) -> Tensor:
        """Return (B, 384) unit rows for WordPiece ids with [CLS] and [SEP]; padding is True where there is no token."""
        features_BLD = self.backbone(ids_BL, padding_BL).float()
        return F.normalize(mean_of_present(features_BLD, padding_BL), dim=-1)

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 128, title: str | None = None) -> Tensor:
        """Return (N, 384) unit rows, float32, in the order of `texts`; with a title, a progress bar shows."""
        ids = [torch.tensor(encoding.ids) for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # batches hold texts of similar length
        vectors = torch.empty(len(ids), WIDTH)
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc=title, unit="batch", disable=title is None, mininterval=1.0):
            members = order[start : start + batch_size]
            batch_BL = nn.utils.rnn.pad_sequence([ids[i] for i in members], batch_first=True, padding_value=-1)
            with torch.autocast("cpu", torch.bfloat16):
                vectors[members] = self(batch_BL.clamp(min=0), batch_BL < 0)
        return vectors


def cached_sentence_vectors(texts: Sequence[str], folder: Path) -> Tensor:
    """Return (N, 384) float16 sentence vectors, from the cache in `folder` or computed and stored there part by part.

    Texts that the cache holds are not computed again. A damaged file is computed anew.
    """
    encoder = SentenceEncoder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"sentences-{hashlib.sha256(encoder.key.encode()).hexdigest()[:16]}.safetensors"
    wanted = [hashlib.sha256(text.encode()).digest()[:16] for text in texts]
    with open(folder / "sentences.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run that wants them waits instead of computing them too
        keys, vectors_ND = _read_vectors(path)
        rows = {key: row for row, key in enumerate(keys)}
        missing = {key: text for key, text in zip(wanted, texts, strict=True) if key not in rows}
        for start in range(0, len(missing), PART):
            part = dict(list(missing.items())[start : start + PART])
            progress = f"sentence vectors {start:,} to {start + len(part):,} of {len(missing):,}"
            vectors_ND = torch.cat([vectors_ND, encoder.encode(list(part.values()), title=progress).half()])
            rows |= {key: len(rows) + i for i, key in enumerate(part)}
            _write_vectors(path, list(rows), vectors_ND)
    return vectors_ND[[rows[key] for key in wanted]]


def _read_vectors(path: Path) -> tuple[list[bytes], Tensor]:
    """Return the keys and vectors of a cache file; none where it is absent or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(path)
        if bytes(stored["sha256"].tolist()) == _checksum(stored["keys"], stored["vectors"]):
            return [bytes(key) for key in stored["keys"].numpy()], stored["vectors"]
        log.warning("%s is damaged; its vectors are computed anew", path)
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError) as error:
        log.warning("%s cannot be read (%s); its vectors are computed anew", path, error)
    return [], torch.empty(0, WIDTH, dtype=torch.float16)


def _write_vectors(path: Path, keys: Sequence[bytes], vectors_ND: Tensor) -> None:
    from safetensors.torch import save

    keys_N16 = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 16)
    checksum = torch.frombuffer(bytearray(_checksum(keys_N16, vectors_ND)), dtype=torch.uint8)
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(save({"keys": keys_N16, "vectors": vectors_ND, "sha256": checksum}))
    os.replace(aside, path)


def _checksum(keys_N16: Tensor, vectors_ND: Tensor) -> bytes:
    digest = hashlib.sha256(keys_N16.contiguous().numpy().data)
    digest.update(vectors_ND.contiguous().numpy().data)
    return digest.digest()


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


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
