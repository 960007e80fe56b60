"""The sizes of the model that the training tests train."""

from __future__ import annotations

from typing import Any

MODEL: dict[str, Any] = {
    "width": 32,
    "layers": 2,
    "heads": 2,
    "hidden": 48,
    "embedding_dim": 24,
    "layer_scale": None,
    "adapters": {
        "text": {
            "kind": "tokens",
            "vocabulary_size": 32,
            "positions": 16,
            "bucket_size": 8,
            "preprocess": {
                "max_tokens": 12,
                "prefix": "",
                "end_ids": [2],
                "pad_id": 0,
                "unknown_id": 1,
                "vocabulary_size": 32,
            },
        },
        "image": {"kind": "hmlp", "position_grid": 2, "bias_grid": 2, "preprocess": {"size": 32}},
        "audio": {
            "kind": "waveform",
            "channels": 8,
            "position_groups": 4,
            "bucket_size": 16,
            "preprocess": {"sample_rate": 4000, "min_seconds": 0.2, "max_seconds": 0.4},
        },
    },
}
