"""Official ONE-PEACE checkpoints -> export folders, and back.

Every key of the file is either renamed by the table, dropped by name (index buffers that we compute), or reported as
left over (the pretraining decoder). Tensors stay in the file's memory map until they are written, one by one, so
converting needs little more memory than the file itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.audio.adapter import WaveformConfig
from encoders.image.adapter import PatchConfig
from encoders.position_bias import MAX_TOKENS_1D, index_1d, index_2d
from encoders.text.adapter import TextConfig
from encoders.text.preprocess import official_tokenizer
from onepeace.checkpoint import (
    CheckpointError,
    ModelFolder,
    Storage,
    build_model,
    must_be_free,
    read_pickled,
    write_folder,
)
from onepeace.model.config import ModelConfig
from onepeace.model.decoder import Decoder, DecoderConfig
from onepeace.model.onepeace import OnePeace
from onepeace.model.task_head import TaskConfig
from onepeace.official_config import official_cfg, official_config, official_task
from onepeace.official_names import COMPUTED, official_name, official_shape, our_name, rename


@dataclass(frozen=True)
class Conversion:
    """What a conversion did, for the user to read.

    >>> made = convert(Path("one-peace.pt"), Path("one-peace"))
    >>> sorted(map(str, made.config.adapters)), made.has_vocabulary, made.added
    (['audio', 'image', 'text'], False, ())
    """

    config: ModelConfig
    task: TaskConfig | None  # of a fine-tuned checkpoint
    converted: int  # tensors
    left_over: tuple[str, ...]  # keys that have no place in such a model
    added: tuple[str, ...]  # our names that the file lacks and that got their initial value
    has_vocabulary: bool


def convert(checkpoint: Path, out: Path, vocabulary: Path | None = None, storage: Storage | None = None) -> Conversion:
    """Convert the official-layout file `checkpoint` into the export folder `out`.

    `vocabulary` is a folder with dict.txt, encoder.json and vocab.bpe; without it the model embeds everything but text.

    Raises:
        CheckpointError: the file is not an official-layout checkpoint, or lacks weights that cannot be made up.
        ValueError: the vocabulary is incomplete or of another size than the checkpoint's.

    >>> made = convert(Path("one-peace.pt"), Path("one-peace"))
    >>> onepeace.load("one-peace").modalities  # text needs `vocabulary`
    ('image', 'audio')
    """
    must_be_free(out)
    state = read_official(checkpoint)
    config, task = official_config(state["cfg"], state["model"]), official_task(state["cfg"], state["model"])
    wanted = tensor_shapes(config, task)
    tensors = rename(state["model"])
    left_over = [key for key in state["model"] if not COMPUTED.fullmatch(key) and our_name(key) not in wanted]
    tensors = {name: tensor for name, tensor in tensors.items() if name in wanted}
    added = tuple(sorted(wanted.keys() - tensors.keys()))
    # The released file may lack the temperature: it is a parameter of the loss, not of the embeddings.
    if unknown := [name for name in added if name != "logit_scale.log"]:
        raise CheckpointError(f"{checkpoint} lacks {', '.join(unknown[:5])} ({len(unknown)} tensors in all)")
    if added:
        tensors["logit_scale.log"] = torch.tensor(math.log(1 / 0.07))
    for name, tensor in tensors.items():
        if tensor.numel() != wanted[name].numel():
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}, wanted {tuple(wanted[name].shape)}")
        tensors[name] = tensor.view(wanted[name].shape)
    tokenizer = None
    if vocabulary is not None:
        tokenizer = official_tokenizer(vocabulary)
    write_folder(out, checkpoint.stem, config, tensors, tokenizer, _card(checkpoint.name), storage, task)
    return Conversion(config, task, len(tensors) - len(added), tuple(sorted(left_over)), added, tokenizer is not None)


def tensor_shapes(config: ModelConfig, task: TaskConfig | None = None) -> dict[str, Tensor]:
    """Return the names and shapes of a model's tensors, without memory for them.

    >>> tensor_shapes(model.folder.config)["adapters.image.class_token"].shape
    torch.Size([384])
    """
    with torch.device("meta"):
        return build_model(config, task).state_dict()


def convert_back(folder: ModelFolder, out: Path) -> int:
    """Write a model folder as a checkpoint in the official layout, and return the number of tensors.

    The file holds `cfg` (the sections model, task and criterion) and `model`; the vocabulary stays where it is.
    Converting it again gives the same tensors, bit by bit.

    Raises:
        CheckpointError: the file exists, or the model is of a design that the official code does not have.
    """
    if out.exists():
        raise CheckpointError(f"{out} already exists: choose another, or remove it first")
    cfg = official_cfg(folder.config, folder.task)
    model = official_state(folder.config, folder.tensors())
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"args": None, "cfg": cfg, "model": model}, out)
    return len(model)


def official_state(config: ModelConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a model's tensors under official names in official shapes, with the buffers that we compute.

    Raises:
        CheckpointError: a tensor that has no place in the official layout; the message names it.
    """
    position_norm = any(isinstance(a, WaveformConfig) and a.position_norm for a in config.adapters.values())
    named = {name: official_name(name, position_norm) for name in tensors}
    if homeless := sorted(name for name, official in named.items() if official is None):
        raise CheckpointError(
            f"the official layout has no place for {', '.join(homeless[:5])} ({len(homeless)} in all)"
        )
    state = {key: official_shape(key, tensors[name]) for name, key in named.items() if key is not None}
    return state | computed_buffers(config)


def computed_buffers(config: ModelConfig) -> dict[str, Tensor]:
    """Return the buffers of official checkpoints that follow from the config: table rows of every distance."""
    buffers = {"encoder_wrapper.fusion_model.version": torch.tensor([3.0])}
    for modality, adapter in config.adapters.items():
        prefix = f"encoder_wrapper.{modality}_adapter."
        if isinstance(adapter, PatchConfig):
            buffers[prefix + "position_idx"] = torch.arange(adapter.position_grid**2 + 1)
        if not adapter.attention_bias:
            continue
        if isinstance(adapter, PatchConfig):
            buffers[prefix + "rp_bucket"] = index_2d(*[adapter.bias_grid] * 3)
        elif isinstance(adapter, TextConfig | WaveformConfig):
            buffers[prefix + "rp_bucket"] = index_1d(MAX_TOKENS_1D, adapter.bucket_size)
    return buffers


def read_official(path: Path) -> dict[str, Any]:
    """Return the checkpoint's `cfg` (plain nested dict) and `model` (memory-mapped tensors), unpickling nothing else.

    Raises:
        CheckpointError: no such file, not a checkpoint, or one that holds more than tensors and plain values.

    >>> sorted(read_official(Path("one-peace.pt")))
    ['cfg', 'model']
    """
    state = read_pickled(path, mmap=True)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise CheckpointError(f"{path} is not an official-layout checkpoint: it has no `model`")
    config = state.get("cfg") or state.get("args")
    if config is None:
        raise CheckpointError(f"{path} is not an official-layout checkpoint: it has neither `cfg` nor `args`")
    return {"cfg": config if isinstance(config, dict) else vars(config), "model": state["model"]}


def pretraining_model(
    cfg: Mapping[str, Any], tensors: Mapping[str, Tensor], **changes: Any
) -> tuple[OnePeace, Decoder]:
    """Return an official pretraining checkpoint as model and decoder; `changes` go to the model's config.

    >>> state = read_official(Path("one-peace.pt"))  # of pretraining, with its decoder
    >>> network, decoder = pretraining_model(state["cfg"], state["model"])  # doctest: +SKIP
    """
    model = OnePeace(replace(official_config(cfg, tensors), **changes))
    sizes, renamed = cfg["model"]["decoder"], rename(tensors)
    config = DecoderConfig(
        width=sizes["embed_dim"],
        layers=sizes["layers"],
        heads=sizes["attention_heads"],
        hidden=sizes["ffn_embed_dim"],
        positions={m: renamed[f"decoder.positions.{m}"].shape[-2] for m in model.modalities},
    )
    decoder = Decoder(config, model.config)
    both = {"model": model, "decoder": decoder}
    for name, module in both.items():
        own = {
            key.removeprefix("decoder."): tensor
            for key, tensor in renamed.items()
            if key.startswith("decoder.") == (name == "decoder")
        }
        module.load_state_dict({key: own[key].view(shape.shape) for key, shape in module.state_dict().items()})
    return model, decoder


def _card(source: str) -> str:
    return (
        f"# Converted from {source}\n\nAn official ONE-PEACE checkpoint (Wang et al., 2023, arXiv:2305.11172) in "
        "onepeace's layout. The weights are the authors'; their licence applies.\n"
    )
