"""ModelConfig: the sizes and options of a model, and its way to and from JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from encoders.adapter import AdapterConfig, Shape
from encoders.config import parse_config
from encoders.modality import Modality
from encoders.registry import parse_adapter_config


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A ONE-PEACE-style model. The defaults of the flags are those of the released 4B model.

    Raises:
        ValueError: sizes that do not fit together, or no adapter.

    >>> sizes = {"width": 64, "layers": 2, "heads": 4, "hidden": 96, "embedding_dim": 32}
    >>> config = ModelConfig.from_dict({**sizes, "adapters": {"image": {"kind": "hmlp", "preprocess": {"size": 64}}}})
    >>> config.shape
    Shape(width=64, heads=4, bias_tables=1, padding_leaks=False)
    >>> ModelConfig.from_dict(config.to_dict()) == config
    True
    >>> ModelConfig.from_dict({**sizes, "colour": "red"})
    Traceback (most recent call last):
    ValueError: model: unknown key colour; known keys: ...
    """

    width: int  # of a token
    layers: int
    heads: int
    hidden: int  # width inside a feed-forward expert
    embedding_dim: int  # of the unit vectors that come out
    adapters: Mapping[Modality, AdapterConfig] = field(default_factory=dict)
    attention_norm: bool = True  # LayerNorm on the attended values, before their projection
    attention_output_norm: bool = False  # LayerNorm after it
    hidden_norm: bool = True  # LayerNorm inside the feed-forward expert
    head_scale: bool = False  # a learned factor for each attention head
    layer_scale: float | None = 1e-6  # initial weight of each branch; None: no such weights
    drop_path: float = 0.0  # share of branches skipped in training, at the last block; rises linearly from 0
    dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    bias_per_layer: bool = False  # each block has its own position-bias tables, as in the official fine-tuned models
    # The official code lets padding change a result: zeros reach into the convolutional positions, and without a
    # position bias padded keys are attended to. True does the same, to reproduce its figures; never use it to embed.
    padding_leaks: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit together."""
        for name in ("width", "layers", "heads", "hidden", "embedding_dim"):
            if getattr(self, name) <= 0:
                raise ValueError(f"model.{name} must be positive, got {getattr(self, name)}")
        if self.width % self.heads:
            raise ValueError(f"model.width {self.width} must be a multiple of model.heads {self.heads}")
        for name in ("drop_path", "dropout", "attention_dropout", "activation_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"model.{name} must be in [0, 1), got {getattr(self, name)}")
        if not self.adapters:
            raise ValueError(f"model.adapters is empty: name at least one of {', '.join(Modality)}")

    @property
    def shape(self) -> Shape:
        """Return what the adapters must know of the model."""
        return Shape(
            width=self.width,
            heads=self.heads,
            bias_tables=self.layers if self.bias_per_layer else 1,
            padding_leaks=self.padding_leaks,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Return the config that plain data describes.

        Raises:
            ValueError: an unknown key, modality or kind, or a value that is refused; the message names it.
        """
        adapters: dict[Modality, AdapterConfig] = {}
        for name, adapter in dict(data.get("adapters") or {}).items():
            if name not in set(Modality):
                raise ValueError(f"adapters: unknown modality {name}; known: {', '.join(Modality)}")
            adapters[Modality(name)] = parse_adapter_config(Modality(name), adapter)
        sizes = {key: value for key, value in data.items() if key != "adapters"}
        known = {f.name for f in fields(cls)} - {"adapters"}
        if unknown := sorted(set(sizes) - known):
            raise ValueError(f"model: unknown key {', '.join(unknown)}; known keys: {', '.join(sorted(known))}")
        return parse_config(cls, {**sizes, "adapters": adapters}, "model")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that `from_dict` reads back to an equal config."""
        sizes = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "adapters"}
        return {**sizes, "adapters": {str(m): asdict(c) for m, c in self.adapters.items()}}
