"""Official ONE-PEACE checkpoints -> export folders: one strict table of names.

Every key of the file is either renamed by the table, dropped by name (index buffers that we compute), or reported as
left over (the pretraining decoder, task heads). Tensors stay in the file's memory map until they are written, one by
one, so converting needs little more memory than the file itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from encoders.adapter import AdapterConfig
from encoders.audio.adapter import WaveformConfig
from encoders.audio.preprocess import AudioPreprocess
from encoders.image.adapter import PATCH, PatchConfig
from encoders.image.preprocess import ImagePreprocess
from encoders.position_bias import CLASS_ROWS
from encoders.text.adapter import TextConfig
from encoders.text.preprocess import TextPreprocess, official_tokenizer
from encoders.tokens import Modality
from onepeace.checkpoint import CheckpointError, Storage, must_be_free, read_pickled, write_folder
from onepeace.model.config import ModelConfig
from onepeace.model.decoder import Decoder, DecoderConfig
from onepeace.model.onepeace import OnePeace

_ADAPTER = r"encoder_wrapper\.(text|image|audio)_adapter\."
_DECODER_STACK = "decoder_wrapper.fusion_model."
_LAYER = r"encoder_wrapper\.fusion_model\.layers\.(\d+)\."

# (pattern of the official name, our name). The first pattern that matches the whole name counts.
TABLE: tuple[tuple[str, str], ...] = (
    (_ADAPTER + r"cls_embedding", r"adapters.\1.class_token"),
    (_ADAPTER + r"type_embedding", r"adapters.\1.type_embedding"),
    (_ADAPTER + r"type_embedding_2", r"adapters.\1.second_type_embedding"),
    (_ADAPTER + r"layernorm_embedding\.(weight|bias)", r"adapters.\1.norm.\2"),
    (_ADAPTER + r"rel_pos_table_list\.(\d+)\.weight", r"adapters.\1.bias.tables.\2"),
    (_ADAPTER + r"rel_pos_table\.weight", r"adapters.\1.bias.tables.0"),
    (r"encoder_wrapper\.text_adapter\.embed_tokens\.weight", "adapters.text.token_embedding.weight"),
    (r"encoder_wrapper\.text_adapter\.embed_positions\.weight", "adapters.text.position_embedding"),
    (r"encoder_wrapper\.image_adapter\.pos_embed", "adapters.image.position_embedding"),
    (r"encoder_wrapper\.image_adapter\.embed_images\.0\.(weight|bias)", r"adapters.image.stem.conv1.\1"),
    (r"encoder_wrapper\.image_adapter\.embed_images\.1\.layer_norm\.(weight|bias)", r"adapters.image.stem.norm1.\1"),
    (r"encoder_wrapper\.image_adapter\.embed_images\.3\.(weight|bias)", r"adapters.image.stem.conv2.\1"),
    (r"encoder_wrapper\.image_adapter\.embed_images\.4\.layer_norm\.(weight|bias)", r"adapters.image.stem.norm2.\1"),
    (r"encoder_wrapper\.image_adapter\.embed_images\.6\.(weight|bias)", r"adapters.image.stem.conv3.\1"),
    (r"encoder_wrapper\.image_adapter\.embed_images\.weight", "adapters.image.stem.conv.weight"),
    (r"encoder_wrapper\.audio_adapter\.cls_pos_embed", "adapters.audio.class_position"),
    (r"encoder_wrapper\.audio_adapter\.mask_embedding", "adapters.audio.mask_token"),
    (
        r"encoder_wrapper\.audio_adapter\.embed_audios\.0\.conv_layers\.(\d+)\.0\.(weight|bias)",
        r"adapters.audio.extractor.\1.conv.\2",
    ),
    (
        r"encoder_wrapper\.audio_adapter\.embed_audios\.0\.conv_layers\.(\d+)\.2\.1\.(weight|bias)",
        r"adapters.audio.extractor.\1.norm.\2",
    ),
    (r"encoder_wrapper\.audio_adapter\.embed_audios\.2\.(weight|bias)", r"adapters.audio.projection.norm.\1"),
    (r"encoder_wrapper\.audio_adapter\.embed_audios\.3\.(weight|bias)", r"adapters.audio.projection.linear.\1"),
    (r"encoder_wrapper\.audio_adapter\.embed_positions\.0\.(weight|bias)", r"adapters.audio.positions.norm.\1"),
    # Convolutions are numbered from 1; with a LayerNorm in front they sit one level deeper.
    (
        r"encoder_wrapper\.audio_adapter\.embed_positions\.(?:1\.)?(\d+)\.0\.(weight|bias)",
        r"adapters.audio.positions.convolutions.{-1}.\2",
    ),
    (_LAYER + r"gamma_1", r"fusion.blocks.\1.attention_branch.scale"),
    (_LAYER + r"gamma_2", r"fusion.blocks.\1.feedforward_branch.scale"),
    (_LAYER + r"self_attn\.c_attn", r"fusion.blocks.\1.attention.head_scale"),
    (_LAYER + r"self_attn\.q_proj\.(weight|bias)", r"fusion.blocks.\1.attention.query.\2"),
    (_LAYER + r"self_attn\.k_proj\.(weight)", r"fusion.blocks.\1.attention.key.\2"),
    (_LAYER + r"self_attn\.v_proj\.(weight|bias)", r"fusion.blocks.\1.attention.value.\2"),
    (_LAYER + r"self_attn\.out_proj\.(weight|bias)", r"fusion.blocks.\1.attention.output.\2"),
    (_LAYER + r"self_attn\.ln\.(weight|bias)", r"fusion.blocks.\1.attention.norm.\2"),
    (_LAYER + r"self_attn_layer_norm\.(weight|bias)", r"fusion.blocks.\1.attention_norm.\2"),
    (_LAYER + r"attn_ln\.(weight|bias)", r"fusion.blocks.\1.attention_output_norm.\2"),
    (_LAYER + r"final_layer_norm\.(weight|bias)", r"fusion.blocks.\1.feedforward_norm.\2"),
    (_LAYER + r"(text|image|audio)_ffn\.0\.wi_0\.weight", r"fusion.blocks.\1.experts.\2.gate.weight"),
    (_LAYER + r"(text|image|audio)_ffn\.0\.wi_1\.weight", r"fusion.blocks.\1.experts.\2.up.weight"),
    (_LAYER + r"(text|image|audio)_ffn\.2\.(weight|bias)", r"fusion.blocks.\1.experts.\2.norm.\3"),
    (_LAYER + r"(text|image|audio)_ffn\.3\.(weight|bias)", r"fusion.blocks.\1.experts.\2.down.\3"),
    (r"encoder_wrapper\.fusion_model\.(text|image|audio)_layer_norm\.(weight|bias)", r"fusion.norms.\1.\2"),
    (r"(text|image|audio)_proj\.(weight|bias)", r"heads.\1.\2"),
    (r"logit_scale", "logit_scale.log"),
    # The decoder of pretraining checkpoints: an embedding model has no place for it, `pretraining_state` does.
    (r"(text|image|audio)_mask_token", r"decoder.mask_tokens.\1"),
    (r"decoder_(text|image|audio)_embed\.(weight|bias)", r"decoder.embeds.\1.\2"),
    (r"(text|image|audio)_mask_head\.(weight|bias)", r"decoder.heads.\1.\2"),
    (r"decoder_wrapper\.(text|audio)_adapter\.embed_positions\.weight", r"decoder.positions.\1"),
    (r"decoder_wrapper\.image_adapter\.pos_embed", "decoder.positions.image"),
)
COMPUTED = re.compile(
    r"encoder_wrapper\.(?:\w+\.(?:rp_bucket|position_idx)|fusion_model\.version)"
)  # buffers that we compute ourselves


@dataclass(frozen=True)
class Conversion:
    """What a conversion did, for the user to read.

    >>> made = convert(Path("one-peace.pt"), Path("one-peace"))
    >>> sorted(map(str, made.config.adapters)), made.has_vocabulary, made.added
    (['audio', 'image', 'text'], False, ())
    """

    config: ModelConfig
    converted: int  # tensors
    left_over: tuple[str, ...]  # keys that have no place in an embedding model
    added: tuple[str, ...]  # our names that the file lacks and that got their initial value
    has_vocabulary: bool


def our_name(official: str) -> str | None:
    """Return our name for an official key, or None for one that the table does not know.

    >>> our_name("encoder_wrapper.text_adapter.embed_positions.weight")
    'adapters.text.position_embedding'
    >>> our_name("no_such_part.weight") is None
    True
    """
    if official.startswith(_DECODER_STACK):  # the same layers as the encoder's
        inner = our_name(official.replace("decoder_wrapper", "encoder_wrapper", 1))
        return inner and f"decoder.{inner}"
    for pattern, name in TABLE:
        if match := re.fullmatch(pattern, official):
            if "{-1}" in name:
                name = name.replace("{-1}", str(int(match[1]) - 1))
            return match.expand(name)
    return None


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
    config = official_config(state["cfg"], state["model"])
    wanted = tensor_shapes(config)
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
    write_folder(out, checkpoint.stem, config, tensors, tokenizer, _card(checkpoint.name), storage)
    return Conversion(config, len(tensors) - len(added), tuple(sorted(left_over)), added, tokenizer is not None)


def tensor_shapes(config: ModelConfig) -> dict[str, Tensor]:
    """Return the names and shapes of a model's tensors, without memory for them.

    >>> tensor_shapes(model.folder.config)["adapters.image.class_token"].shape
    torch.Size([384])
    """
    with torch.device("meta"):
        return OnePeace(config).state_dict()


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


def rename(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that have a name of ours under it.

    >>> list(rename({"encoder_wrapper.image_adapter.pos_embed": torch.zeros(1)}))
    ['adapters.image.position_embedding']
    """
    return {name: tensor for key, tensor in model.items() if (name := our_name(key)) is not None}


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


def official_config(cfg: Mapping[str, Any], model: Mapping[str, Tensor]) -> ModelConfig:
    """Return our config for a checkpoint. Sizes are read off the tensors; the flags are those of `cfg.model`.

    >>> state = read_official(Path("one-peace.pt"))
    >>> official_config(state["cfg"], state["model"]).layers
    2
    """
    encoder, task = cfg["model"]["encoder"], cfg["task"]
    present = [
        m for m in Modality if f"{m}_proj.weight" in model and f"encoder_wrapper.{m}_adapter.cls_embedding" in model
    ]
    if not present:
        raise CheckpointError("the checkpoint has no adapter with a projection head: it cannot embed")
    tables = [key for key in model if re.fullmatch(_ADAPTER + r"rel_pos_table_list\.\d+\.weight", key)]
    width = model[f"{present[0]}_proj.weight"].shape[1]
    return ModelConfig(
        width=width,
        layers=encoder["layers"],
        heads=encoder["attention_heads"],
        hidden=encoder["ffn_embed_dim"],
        embedding_dim=model[f"{present[0]}_proj.weight"].shape[0],
        attention_norm=encoder["magneto_scale_attn"],
        attention_output_norm=encoder["scale_attn"],
        hidden_norm=encoder["scale_fc"],
        head_scale=encoder["scale_heads"],
        layer_scale=encoder["layer_scale_init_value"] if encoder["use_layer_scale"] else None,
        drop_path=encoder["drop_path_rate"],
        dropout=encoder["dropout"],
        attention_dropout=encoder["attention_dropout"],
        activation_dropout=encoder["activation_dropout"],
        bias_per_layer=any(key.endswith("rel_pos_table_list.1.weight") for key in tables),
        adapters={m: _ADAPTERS[m](encoder[f"{m}_adapter"], task, model) for m in present},
    )


def _shared(adapter: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "layer_norm": adapter["layernorm_embedding"],
        "type_embedding": adapter["add_type_embedding"],
        "gradient_share": adapter["shrink_alpha"],
        "dropout": adapter["dropout"],
        "attention_bias": adapter["use_attn_bias"],
    }


def _text(adapter: Mapping[str, Any], task: Mapping[str, Any], model: Mapping[str, Tensor]) -> AdapterConfig:
    vocabulary_size = model["encoder_wrapper.text_adapter.embed_tokens.weight"].shape[0]
    return TextConfig(
        **_shared(adapter),
        preprocess=TextPreprocess(max_tokens=task["max_src_length"], vocabulary_size=vocabulary_size),
        vocabulary_size=vocabulary_size,
        positions=model["encoder_wrapper.text_adapter.embed_positions.weight"].shape[0],
        bucket_size=adapter["bucket_size"],
    )


def _image(adapter: Mapping[str, Any], task: Mapping[str, Any], model: Mapping[str, Tensor]) -> AdapterConfig:
    size = task["patch_image_size"]
    table = model.get("encoder_wrapper.image_adapter.rel_pos_table_list.0.weight")
    bias_grid = size // PATCH if table is None else (math.isqrt(table.shape[0] - CLASS_ROWS) + 1) // 2
    return PatchConfig(
        **_shared(adapter),
        kind={"hmlp": "hmlp", "mlp": "patch"}[adapter["vision_encoder_type"]],  # type: ignore[arg-type]
        preprocess=ImagePreprocess(size=size),
        position_grid=math.isqrt(model["encoder_wrapper.image_adapter.pos_embed"].shape[0] - 1),
        bias_grid=bias_grid,
        second_type_embedding="encoder_wrapper.image_adapter.type_embedding_2" in model,
    )


def _audio(adapter: Mapping[str, Any], task: Mapping[str, Any], model: Mapping[str, Tensor]) -> AdapterConfig:
    return WaveformConfig(
        **_shared(adapter),
        preprocess=AudioPreprocess(max_seconds=float(task["max_duration"])),
        bucket_size=adapter["bucket_size"],
        channels=model["encoder_wrapper.audio_adapter.embed_audios.0.conv_layers.0.0.weight"].shape[0],
        extractor_bias=adapter["conv_bias"],
        position_depth=adapter["conv_pos_depth"],
        position_width=adapter["conv_pos_width"],
        position_groups=adapter["conv_pos_groups"],
        position_norm=adapter["conv_pos_pre_ln"],
    )


_ADAPTERS = {Modality.TEXT: _text, Modality.IMAGE: _image, Modality.AUDIO: _audio}


def _card(source: str) -> str:
    return (
        f"# Converted from {source}\n\nAn official ONE-PEACE checkpoint (Wang et al., 2023, arXiv:2305.11172) in "
        "onepeace's layout. The weights are the authors'; their licence applies.\n"
    )
