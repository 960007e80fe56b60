"""Heads of tasks: against PyTorch's attention, and configs that are refused."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from random_models import DESIGNS

from encoders.modality import Modality
from encoders.tokens import TokenSequence
from onepeace.model import ModelConfig, TaskConfig, TaskModel
from onepeace.model.task_head import AttentionPooling, TaskHead

SIZES = {"width": 32, "layers": 2, "heads": 4, "hidden": 48, "embedding_dim": 24, "layer_scale": 1.0}


def features(rows: int, length: int, padded: int) -> TokenSequence:
    generator = torch.Generator().manual_seed(2)
    padding = torch.zeros(rows, length, dtype=torch.bool)
    padding[0, length - padded :] = True
    return TokenSequence(Modality.IMAGE, torch.randn(rows, length, 32, generator=generator), padding)


def test_attention_pooling_is_the_attention_of_pytorch_without_its_scale() -> None:
    torch.manual_seed(0)
    pooling, sequence = AttentionPooling(32, 4), features(3, 7, 2)
    torch.nn.init.normal_(pooling.query)
    x, padding = sequence.embeddings, sequence.padding
    key, value = (linear(x).view(3, 7, 4, 8).transpose(1, 2) for linear in (pooling.key, pooling.value))
    query = pooling.query.view(1, 4, 1, 8).expand(3, -1, -1, -1)
    mask = ~padding[:, None, None, :]
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=1.0).flatten(1)
    torch.testing.assert_close(pooling(x, padding), pooling.output(expected))


def test_a_row_of_nothing_but_padding_is_finite() -> None:
    pooling, sequence = AttentionPooling(32, 4), features(2, 5, 5)
    out = pooling(sequence.embeddings, sequence.padding)
    out.sum().backward()
    assert out.isfinite().all()
    assert pooling.query.grad is not None
    assert pooling.query.grad.isfinite().all()


def test_a_head_without_attention_reads_the_class_token_alone() -> None:
    config = TaskConfig(kind="classify", modalities=(Modality.IMAGE,), outputs=3, attention_pooling=False)
    head, sequence = TaskHead(32, 4, config), features(2, 5, 0)
    other = TokenSequence(sequence.modality, sequence.embeddings.clone(), sequence.padding)
    other.embeddings[:, 1:] += 1.0
    assert torch.equal(head([sequence]), head([other]))
    assert torch.equal(head([sequence]), head.classifier(sequence.embeddings[:, 0]))
    assert {n for n, p in head.named_parameters() if not p.requires_grad} == {"norm.weight", "norm.bias"}


@pytest.mark.parametrize("design", DESIGNS)
def test_two_pictures_are_read_in_their_order(design: str) -> None:
    torch.manual_seed(0)
    task = TaskConfig(kind="classify", modalities=(Modality.TEXT, Modality.IMAGE), outputs=2, pictures=2)
    model = TaskModel(ModelConfig.from_dict(SIZES | {"adapters": DESIGNS[design]}), task).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    ids, (first, second) = torch.tensor([[3, 4, 2]]), torch.randn(2, 1, 3, 64, 64)
    with torch.no_grad():
        logits = model({Modality.TEXT: (ids,), Modality.IMAGE: (first,)}, (second,))
        swapped = model({Modality.TEXT: (ids,), Modality.IMAGE: (second,)}, (first,))
    assert logits.shape == (1, 2)
    assert not torch.allclose(logits, swapped, rtol=1e-3)
    with pytest.raises(ValueError, match="reads 2 pictures"):
        model({Modality.TEXT: (ids,), Modality.IMAGE: (first,)})
    with pytest.raises(ValueError, match="the task reads text, image, got text"):
        model({Modality.TEXT: (ids,)}, (second,))
    with pytest.raises(ValueError, match="1 of text, 2 of image"):
        model({Modality.TEXT: (ids,), Modality.IMAGE: (torch.cat([first, second]),)}, (torch.cat([second, first]),))


def test_a_task_of_a_modality_that_the_model_lacks_is_refused() -> None:
    config = ModelConfig.from_dict(SIZES | {"adapters": {"text": DESIGNS["official"]["text"]}})
    with pytest.raises(ValueError, match="the task reads audio, the model text only"):
        TaskModel(config, TaskConfig(kind="classify", modalities=(Modality.AUDIO,), outputs=2))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "guess"}, "task.kind"),
        ({"modalities": []}, "task.modalities"),
        ({"modalities": ["smell"]}, "unknown modality smell"),
        ({"modalities": ["text", "text"]}, "different ones"),
        ({"outputs": 0}, "task.outputs"),
        ({"pooled": "audio"}, "task.pooled"),
        ({"hidden_ratio": 0}, "task.hidden_ratio"),
        ({"pooler_dropout": 1.0}, "task.pooler_dropout"),
        ({"pictures": 3}, "task.pictures"),
        ({"choices": 4}, "task.choices"),
        ({"kind": "choose", "choices": 4}, "has one output"),
        ({"kind": "ground"}, "4 outputs, got 2"),
        ({"labels": ["one"]}, "names 1 outputs of 2"),
        ({"colour": "red"}, "unknown key colour"),
    ],
)
def test_tasks_that_cannot_work_are_refused_by_name(changes: dict[str, object], reason: str) -> None:
    plain = {"kind": "classify", "modalities": ["text", "image"], "outputs": 2}
    with pytest.raises(ValueError, match=reason):
        TaskConfig.from_dict(plain | changes)


def test_a_task_survives_json() -> None:
    task = TaskConfig(
        kind="tag", modalities=(Modality.AUDIO,), outputs=2, pooled=Modality.AUDIO, labels=("rain", "a dog")
    )
    assert TaskConfig.from_dict(json.loads(json.dumps(task.to_dict()))) == task
