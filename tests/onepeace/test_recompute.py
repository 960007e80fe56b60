from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model import ModelConfig, OnePeace
from onepeace.model.fusion import FusionEncoder


@pytest.fixture
def encoder() -> FusionEncoder:
    torch.manual_seed(0)
    config = {"width": 32, "layers": 6, "heads": 4, "hidden": 64, "embedding_dim": 16, "drop_path": 0.3, "dropout": 0.2}
    adapter = {"position_grid": 2, "bias_grid": 2, "preprocess": {"size": 32}}
    return OnePeace(ModelConfig.from_dict(config | {"adapters": {"image": adapter}})).train().fusion


def run(encoder: FusionEncoder, recompute: bool) -> tuple[Tensor, dict[str, Tensor], int]:
    """Return the result, the gradients, and the bytes that were kept for them."""
    encoder.recompute = recompute
    encoder.zero_grad()
    torch.manual_seed(1)
    x_BTD = torch.randn(4, 40, 32, requires_grad=True)
    kept = 0

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes
        return tensor

    padding_BT = torch.arange(40) >= torch.tensor([40, 30, 20, 10])[:, None]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        (out,) = encoder([TokenSequence(Modality.IMAGE, x_BTD, padding_BT, ())])
    out.embeddings.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}
    assert x_BTD.grad is not None
    return out.embeddings.detach(), gradients | {"input": x_BTD.grad}, kept


def test_recomputing_keeps_less_and_changes_no_gradient(encoder: FusionEncoder) -> None:
    plain, gradients, much = run(encoder, False)
    again, others, little = run(encoder, True)
    torch.testing.assert_close(again, plain, rtol=0, atol=0)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, rtol=1e-6, atol=1e-7)
    assert little < much / 4
