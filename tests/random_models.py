"""A tiny random model of each design, as export folders: real files, real tokenizer, seconds to make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from onepeace.checkpoint import write_folder
from onepeace.model import ModelConfig, OnePeace

WORDS = [
    "[PAD]",
    "[UNK]",
    "[SEP]",
    *["a", "the", "dog", "cat", "rain", "bird", "street", "night", "of", "photo", "sound"],
]
TEXT: dict[str, Any] = {
    "vocabulary_size": len(WORDS),
    "positions": 40,
    "bucket_size": 16,
    "preprocess": {
        "max_tokens": 32,
        "prefix": "",
        "end_ids": [2],
        "pad_id": 0,
        "unknown_id": 1,
        "vocabulary_size": len(WORDS),
    },
}
DESIGNS: dict[str, dict[str, Any]] = {
    "official": {
        "text": TEXT,
        "image": {"kind": "hmlp", "preprocess": {"size": 64}, "position_grid": 4, "bias_grid": 4},
        "audio": {
            "kind": "waveform",
            "channels": 16,
            "bucket_size": 64,
            "preprocess": {"max_seconds": 2.0, "min_seconds": 0.5},
        },
    },
    "backbones": {
        "text": {
            "kind": "bert",
            "vocabulary_size": len(WORDS),
            "positions": 40,
            "backbone_width": 32,
            "backbone_layers": 2,
            "backbone_heads": 4,
            "backbone_hidden": 64,
            "preprocess": {**TEXT["preprocess"], "begin_ids": [2]},
        },
        "image": {
            "kind": "efficientnet_lite0",
            "tuned_blocks": 2,
            "preprocess": {"size": 64},
            "position_grid": 2,
            "bias_grid": 2,
        },
        "audio": {
            "kind": "log_mel_cnn",
            "bucket_size": 16,
            "preprocess": {
                "sample_rate": 32_000,
                "max_seconds": 2.0,
                "min_seconds": 0.64,
                "layer_norm": False,
                "pad_multiple_seconds": 0.32,
            },
        },
    },
}


def write_random_model(folder: Path, design: str) -> Path:
    torch.manual_seed(7)
    config = ModelConfig.from_dict(
        {
            "width": 64,
            "layers": 2,
            "heads": 4,
            "hidden": 96,
            "embedding_dim": 48,
            "layer_scale": 1.0,
            "adapters": DESIGNS[design],
        }
    )
    model = OnePeace(config)
    for parameter in model.parameters():
        if parameter.ndim == 4:  # left at their default, random backbones fade to nothing
            torch.nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        elif parameter.ndim > 1 and parameter.requires_grad:  # far from the gentle start, so that differences show
            torch.nn.init.normal_(parameter, std=0.15)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    write_folder(folder, f"random-{design}", config, model.state_dict(), tokenizer, "# A random model\n")
    return folder
