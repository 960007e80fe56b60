"""What the `cfg` of an official ONE-PEACE checkpoint says, as our configs, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from encoders.adapter import AdapterConfig
from encoders.audio.adapter import CONVOLUTIONS, WaveformConfig
from encoders.audio.preprocess import AudioPreprocess
from encoders.image.adapter import PATCH, PatchConfig
from encoders.image.preprocess import ImagePreprocess
from encoders.modality import Modality
from encoders.position_bias import grid_of_table
from encoders.text.adapter import TextConfig
from encoders.text.preprocess import TextPreprocess
from onepeace.checkpoint import CheckpointError
from onepeace.model.config import ModelConfig
from onepeace.model.task_head import TaskConfig, TaskKind

TASK_HEAD = "classify_head."  # what the names of a task's tensors begin with
HEAD_TYPES: dict[str, tuple[Modality, ...]] = {
    "text": (Modality.TEXT,),
    "image": (Modality.IMAGE,),
    "audio": (Modality.AUDIO,),
    "vl": (Modality.TEXT, Modality.IMAGE),
    "al": (Modality.TEXT, Modality.AUDIO),
    "val": (Modality.TEXT, Modality.IMAGE, Modality.AUDIO),
}
# What a checkpoint was trained to do follows from its criterion.
CRITERIA: dict[TaskKind, dict[str, Any]] = {
    "classify": {"_name": "classify_criterion", "use_multi_label": False},
    "tag": {"_name": "classify_criterion", "use_multi_label": True},
    "choose": {"_name": "hinge_loss"},
    "ground": {"_name": "refcoco_criterion"},
}


def official_config(cfg: Mapping[str, Any], model: Mapping[str, Tensor]) -> ModelConfig:
    """Return our config for a checkpoint. Sizes are read off the tensors; the flags are those of `cfg.model`.

    Raises:
        CheckpointError: neither a projection head for an adapter, nor the head of a task.
    """
    encoder, task = cfg["model"]["encoder"], cfg["task"]
    present = [m for m in Modality if f"encoder_wrapper.{m}_adapter.cls_embedding" in model]
    if not any(key.startswith(TASK_HEAD) for key in model):
        present = [m for m in present if f"{m}_proj.weight" in model]
    if not present:
        raise CheckpointError("the checkpoint has no adapter with a projection head, and no task's head: no use for it")
    width = model[f"encoder_wrapper.{present[0]}_adapter.cls_embedding"].shape[-1]
    projection = model.get(f"{present[0]}_proj.weight")
    return ModelConfig(
        width=width,
        layers=encoder["layers"],
        heads=encoder["attention_heads"],
        hidden=encoder["ffn_embed_dim"],
        embedding_dim=width if projection is None else projection.shape[0],
        attention_norm=encoder["magneto_scale_attn"],
        attention_output_norm=encoder["scale_attn"],
        hidden_norm=encoder["scale_fc"],
        head_scale=encoder["scale_heads"],
        layer_scale=encoder["layer_scale_init_value"] if encoder["use_layer_scale"] else None,
        drop_path=encoder["drop_path_rate"],
        dropout=encoder["dropout"],
        attention_dropout=encoder["attention_dropout"],
        activation_dropout=encoder["activation_dropout"],
        bias_per_layer=any(key.startswith("encoder_wrapper.") and key.endswith("table_list.1.weight") for key in model),
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
    bias_grid = size // PATCH if table is None else grid_of_table(table.shape[0])
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


_ADAPTERS: dict[Modality, Callable[..., AdapterConfig]] = {
    Modality.TEXT: _text,
    Modality.IMAGE: _image,
    Modality.AUDIO: _audio,
}


def official_task(cfg: Mapping[str, Any], model: Mapping[str, Tensor]) -> TaskConfig | None:
    """Return the config of the task that a checkpoint was fine-tuned for; None for one that embeds.

    Raises:
        CheckpointError: a criterion or kind of head that we do not know.
    """
    if not any(key.startswith(TASK_HEAD) for key in model):
        return None
    flags, task, criterion = cfg["model"], cfg["task"], cfg.get("criterion") or {}
    kinds = [kind for kind, wanted in CRITERIA.items() if all(criterion.get(k) == wanted[k] for k in wanted)]
    modalities = HEAD_TYPES.get(task["head_type"])
    if not kinds or modalities is None:
        raise CheckpointError(
            f"the checkpoint is of an unknown task: criterion {criterion.get('_name')!r}, head {task['head_type']!r}"
        )
    return TaskConfig(
        kind=kinds[0],
        modalities=modalities,
        outputs=model[TASK_HEAD + "classifier.3.weight"].shape[0],
        pooled=Modality.IMAGE if flags["use_image_features"] and modalities == HEAD_TYPES["vl"] else None,
        pictures=2 if task["use_two_images"] else 1,
        choices=criterion.get("num_choices", 4) if kinds[0] == "choose" else 1,
        attention_pooling=flags["attn_pooling"],
        pooler=flags["use_pooler"],
        pooler_dropout=flags["pooler_dropout"],
        hidden_ratio=float(flags["head_scale_ratio"]),
    )


def official_cfg(config: ModelConfig, task: TaskConfig | None = None) -> dict[str, Any]:
    """Return the `cfg` of an official checkpoint with this model: what `official_config` and `official_task` read.

    Raises:
        CheckpointError: an adapter that the official code does not have.
    """
    encoder: dict[str, Any] = {
        "embed_dim": config.width,
        "ffn_embed_dim": config.hidden,
        "layers": config.layers,
        "attention_heads": config.heads,
        "magneto_scale_attn": config.attention_norm,
        "scale_attn": config.attention_output_norm,
        "scale_fc": config.hidden_norm,
        "scale_heads": config.head_scale,
        "use_layer_scale": config.layer_scale is not None,
        "layer_scale_init_value": 1e-6 if config.layer_scale is None else config.layer_scale,
        "drop_path_rate": config.drop_path,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        **{f"use_{m}_moe": m in config.adapters for m in Modality},
    }
    data: dict[str, Any] = {}
    for modality, adapter in config.adapters.items():
        own, of_task = _parts(adapter)
        encoder[f"{modality}_adapter"] = {
            "layernorm_embedding": adapter.layer_norm,
            "add_type_embedding": adapter.type_embedding,
            "shrink_alpha": adapter.gradient_share,
            "dropout": adapter.dropout,
            "use_attn_bias": adapter.attention_bias,
            **own,
        }
        data |= of_task
    modalities = tuple(config.adapters) if task is None else task.modalities
    head_type = next((name for name, read in HEAD_TYPES.items() if set(read) == set(modalities)), None)
    if head_type is None:
        raise CheckpointError(f"the official code reads no {', '.join(modalities)} together")
    model: dict[str, Any] = {"encoder": encoder}
    data |= {"head_type": head_type, "num_classes": None, "use_two_images": False}
    if task is None:
        model |= {"_name": "one_peace_retrieval", "copy_rel_pos_table": config.bias_per_layer}
        return {"model": model, "task": data, "criterion": None}
    if task.pooled_modality != task.modalities[0] and (head_type, task.pooled_modality) != ("vl", Modality.IMAGE):
        raise CheckpointError(f"the official head of {head_type} does not pool {task.pooled_modality}")
    ratio = task.hidden_ratio
    model |= {
        "_name": "one_peace_classify",
        "head_scale_ratio": int(ratio) if ratio == int(ratio) else ratio,
        "use_pooler": task.pooler,
        "pooler_dropout": task.pooler_dropout,
        "attn_pooling": task.attention_pooling,
        "use_image_features": head_type == "vl" and task.pooled_modality == Modality.IMAGE,
    }
    data |= {"num_classes": task.outputs, "use_two_images": task.pictures == 2}
    choices = {"num_choices": task.choices} if task.kind == "choose" else {}
    return {"model": model, "task": data, "criterion": {**CRITERIA[task.kind], **choices}}


def _parts(adapter: AdapterConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `cfg` says of an adapter alone, in its own section and in the task's."""
    if isinstance(adapter, TextConfig) and not adapter.pooled_class:
        return {"bucket_size": adapter.bucket_size}, {"max_src_length": adapter.preprocess.max_tokens}
    if isinstance(adapter, PatchConfig):
        kind = {"hmlp": "hmlp", "patch": "mlp"}[adapter.kind]
        own = {"bucket_size": adapter.position_grid, "vision_encoder_type": kind}
        return own, {"patch_image_size": adapter.preprocess.size}
    if isinstance(adapter, WaveformConfig):
        layers = [(adapter.channels, kernel, stride) for kernel, stride in CONVOLUTIONS]
        seconds = adapter.preprocess.max_seconds
        spec = " + ".join(f"[{layer}]" for layer in layers)
        own = {
            "feature_encoder_spec": spec,
            "bucket_size": adapter.bucket_size,
            "abs_pos_type": "conv",
            "conv_bias": adapter.extractor_bias,
            "conv_pos_depth": adapter.position_depth,
            "conv_pos_width": adapter.position_width,
            "conv_pos_groups": adapter.position_groups,
            "conv_pos_pre_ln": adapter.position_norm,
        }
        limit = int(seconds) if seconds == int(seconds) else seconds
        return own, {"max_duration": limit, "feature_encoder_spec": spec}
    raise CheckpointError(f"the official code has no adapter of kind {adapter.kind}: only models of its design convert")
