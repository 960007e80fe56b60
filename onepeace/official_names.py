"""Names of tensors in official ONE-PEACE checkpoints and in our models: one strict table, read both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from torch import Tensor

_ADAPTER = r"encoder_wrapper\.(text|image|audio)_adapter\."
_POSITIONS = r"encoder_wrapper\.audio_adapter\.embed_positions\."
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
    (_POSITIONS + r"0\.(weight|bias)", r"adapters.audio.positions.norm.\1"),
    # Convolutions are numbered from 1; with a LayerNorm in front they sit one level deeper.
    (_POSITIONS + r"(\d+)\.0\.(weight|bias)", r"adapters.audio.positions.convolutions.{-1}.\2"),
    (_POSITIONS + r"1\.(\d+)\.0\.(weight|bias)", r"adapters.audio.positions.convolutions.{-1}.\2"),
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
    (r"classify_head\.attn_pooling_func\.q", "head.pooling.query"),
    (r"classify_head\.attn_pooling_func\.k_proj\.(weight)", r"head.pooling.key.\1"),
    (r"classify_head\.attn_pooling_func\.v_proj\.(weight|bias)", r"head.pooling.value.\1"),
    (r"classify_head\.attn_pooling_func\.out_proj\.(weight|bias)", r"head.pooling.output.\1"),
    (r"classify_head\.norm\.(weight|bias)", r"head.norm.\1"),
    (r"classify_head\.pooler\.1\.(weight|bias)", r"head.pooler.linear.\1"),
    (r"classify_head\.classifier\.0\.(weight|bias)", r"head.classifier.hidden.\1"),
    (r"classify_head\.classifier\.1\.(weight|bias)", r"head.classifier.norm.\1"),
    (r"classify_head\.classifier\.3\.(weight|bias)", r"head.classifier.output.\1"),
    # The decoder of pretraining checkpoints: only `pretraining_model` has a place for it.
    (r"(text|image|audio)_mask_token", r"decoder.mask_tokens.\1"),
    (r"decoder_(text|image|audio)_embed\.(weight|bias)", r"decoder.embeds.\1.\2"),
    (r"(text|image|audio)_mask_head\.(weight|bias)", r"decoder.heads.\1.\2"),
    (r"decoder_wrapper\.(text|audio)_adapter\.embed_positions\.weight", r"decoder.positions.\1"),
    (r"decoder_wrapper\.image_adapter\.pos_embed", "decoder.positions.image"),
)
COMPUTED = re.compile(
    r"encoder_wrapper\.(?:\w+\.(?:rp_bucket|position_idx)|fusion_model\.version)"
)  # buffers that we compute ourselves
# Official shapes with ones in front that ours lack.
_LEADING_ONES = {
    re.compile(r".*\.(cls_embedding|cls_pos_embed|type_embedding|type_embedding_2|attn_pooling_func\.q)"): 2,
    re.compile(r".*(mask_embedding|mask_token)"): 1,
}


def our_name(official: str) -> str | None:
    """Return our name for an official key, or None for one that the table does not know."""
    if official.startswith(_DECODER_STACK):  # the same layers as the encoder's
        inner = our_name(official.replace("decoder_wrapper", "encoder_wrapper", 1))
        return inner and f"decoder.{inner}"
    for pattern, name in TABLE:
        if match := re.fullmatch(pattern, official):
            if "{-1}" in name:
                name = name.replace("{-1}", str(int(match[1]) - 1))
            return match.expand(name)
    return None


def official_name(ours: str, position_norm: bool = False) -> str | None:
    """Return the official key for a name of ours, or None where there is none: the other way through the table.

    `position_norm` tells whether the model has a LayerNorm in front of its convolutional positions.
    """
    if ours.startswith("decoder.fusion."):
        inner = official_name(ours.removeprefix("decoder."))
        return inner and inner.replace("encoder_wrapper", "decoder_wrapper", 1)
    names = []
    for pattern, template, shift in _inverted():
        if match := pattern.fullmatch(ours):
            groups = match.groupdict()
            if shift:
                groups["g1"] = str(int(groups["g1"]) + 1)
            names.append(template.format(**groups))
    if not names:
        return None
    deeper = position_norm and re.match(_POSITIONS, names[0]) is not None
    return names[-1 if deeper else 0]


@cache
def _inverted() -> list[tuple[re.Pattern[str], str, bool]]:
    """Return for each row of the table: pattern of our name, official name with places to fill, numbered from 1."""
    rows = []
    for official, ours in TABLE:
        groups = re.findall(r"\([^()]*\)", official)
        own = re.escape(ours.replace("{-1}", r"\1"))
        for number, group in enumerate(groups, 1):
            # A group that our name repeats is read once.
            own = own.replace(rf"\\{number}", f"(?P<g{number}>{group[1:-1]})", 1)
        literals = re.split(r"\([^()]*\)", official)
        template = "".join(f"{text}{{g{i}}}" for i, text in enumerate(literals[:-1], 1)) + literals[-1]
        rows.append((re.compile(own), template.replace("\\", ""), "{-1}" in ours))
    return rows


def rename(model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors that have a name of ours under it."""
    return {name: tensor for key, tensor in model.items() if (name := our_name(key)) is not None}


def official_shape(official: str, tensor: Tensor) -> Tensor:
    """Return a tensor of ours in the shape that the official code gives it."""
    ones = next((count for pattern, count in _LEADING_ONES.items() if pattern.fullmatch(official)), 0)
    return tensor[(None,) * ones] if ones else tensor
