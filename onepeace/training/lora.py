"""LoRA: low-rank changes of frozen matrices (Hu et al., 2022, arXiv:2106.09685) through peft, merged for export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

BASE, DOWN, UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"  # in peft's names of weights


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices change, and by what rank.

    Raises:
        ValueError: a rank, share or factor outside its range.

    >>> LoraConfig(rank=4, alpha=8).scale
    2.0
    """

    rank: int = 8
    alpha: int = 16  # the change counts alpha / rank times
    dropout: float = 0.0  # of what goes through it
    # A regular expression of the whole names of linear layers.
    targets: str = r"fusion\.blocks\.\d+\.attention\.(query|key|value|output)"

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.rank < 1 or self.alpha <= 0.0:
            raise ValueError(f"lora.rank must be at least 1 and lora.alpha too, got {self.rank} and {self.alpha}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"lora.dropout must be in [0, 1), got {self.dropout}")

    @property
    def scale(self) -> float:
        """The factor of the change."""
        return self.alpha / self.rank


def add_lora(model: nn.Module, config: LoraConfig) -> None:
    """Put low-rank changes, zero at first, beside the matrices that `config` names; nothing else trains afterwards.

    Raises:
        ImportError: peft is not installed.
        ValueError: no linear layer has such a name.
    """
    try:
        import peft
    except ImportError as error:
        raise ImportError("model.lora needs peft: pip install 'onepeace[lora]'") from error
    try:
        peft.inject_adapter_in_model(
            peft.LoraConfig(
                r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=config.targets
            ),
            model,
        )
    except ValueError as error:
        raise ValueError(f"model.lora.targets: no linear layer is named like {config.targets}") from error


def merged(tensors: Mapping[str, Tensor], scale: float) -> dict[str, Tensor]:
    """Return weights under the names that they have without LoRA, the changes added: W + scale * B A (eq. 3 there)."""
    out = {}
    for name, tensor in tensors.items():
        if name.endswith((DOWN, UP)):
            continue
        layer, base, kind = name.partition(BASE)
        if base and kind == "weight":
            tensor = tensor + scale * (tensors[layer + UP] @ tensors[layer + DOWN])
        out[f"{layer}.{kind}" if base else name] = tensor
    return out
