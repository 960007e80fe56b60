"""The forward pass as one writes it down from the ONE-PEACE paper: what ours is measured against.

float32, every row padded to the longest, biases gathered and spread over batch and heads in each forward, one product
for each of q, k, v and the two inputs of GeGLU. It takes the weights of a plain `OnePeace` of the official adapters;
the benchmarks that use it first check that its vectors are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.audio.adapter import CONVOLUTIONS, frame_count
from encoders.modality import Modality
from encoders.position_bias import index_1d, index_2d
from onepeace.model import OnePeace


class PlainModel:
    """The towers of a model, without anything prepared."""

    def __init__(self, model: OnePeace) -> None:
        self.config = model.config
        self.state = {name: tensor.detach() for name, tensor in model.state_dict().items()}

    def embed(self, modality: Modality, *inputs: Tensor) -> Tensor:
        """Return (B, D) unit rows."""
        if modality is Modality.TEXT:
            x_BTE, padding_BT, bias_BHTT = self._text(*inputs)
        elif modality is Modality.IMAGE:
            x_BTE, padding_BT, bias_BHTT = self._image(*inputs)
        else:
            x_BTE, padding_BT, bias_BHTT = self._audio(*inputs)
        if padding_BT.any():
            x_BTE = x_BTE * (~padding_BT).unsqueeze(-1)
            bias_BHTT = bias_BHTT.masked_fill(padding_BT[:, None, None, :], -torch.inf)
        for layer in range(self.config.layers):
            x_BTE = self._layer(f"fusion.blocks.{layer}.", modality, x_BTE, bias_BHTT)
        x_BTE = self._norm(f"fusion.norms.{modality}", x_BTE)
        return F.normalize(self._linear(f"heads.{modality}", x_BTE[:, 0]), dim=1)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _bias(self, modality: Modality, index_TT: Tensor, batch: int) -> Tensor:
        table_RH = self.state[f"adapters.{modality}.bias.tables.0"]
        bias_HTT = F.embedding(index_TT, table_RH).permute(2, 0, 1)
        zeros_BHTT = bias_HTT.new_zeros(batch, *bias_HTT.shape)
        return zeros_BHTT + bias_HTT

    def _with_class(self, modality: Modality, content_BNE: Tensor) -> Tensor:
        class_BTE = self.state[f"adapters.{modality}.class_token"].expand(len(content_BNE), 1, -1)
        return torch.cat([class_BTE, content_BNE], dim=1)

    def _text(self, ids_BN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config.adapters[Modality.TEXT]
        x_BTE = self._with_class(Modality.TEXT, F.embedding(ids_BN, self.state["adapters.text.token_embedding.weight"]))
        x_BTE = x_BTE + self.state["adapters.text.position_embedding"][: x_BTE.shape[1]]
        padding_BT = F.pad(ids_BN == config.preprocess.pad_id, (1, 0))  # type: ignore[attr-defined]
        index_TT = index_1d(x_BTE.shape[1], config.bucket_size)  # type: ignore[attr-defined]
        return x_BTE, padding_BT, self._bias(Modality.TEXT, index_TT, len(ids_BN))

    def _image(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stem = "adapters.image.stem."
        x = pixels_BCHW
        for number, size in ((1, 4), (2, 2), (3, 2)):
            x = F.conv2d(x, self.state[f"{stem}conv{number}.weight"], self.state[f"{stem}conv{number}.bias"], size)
            if number < 3:
                x = F.gelu(self._norm(f"{stem}norm{number}", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        grid = x.shape[-1]
        x_BTE = self._with_class(Modality.IMAGE, x.flatten(2).transpose(1, 2))
        positions_TE = self.state["adapters.image.position_embedding"]
        side = round((len(positions_TE) - 1) ** 0.5)
        resized = F.interpolate(positions_TE[1:].T.reshape(1, -1, side, side), (grid, grid), mode="bicubic")
        x_BTE = x_BTE + torch.cat([positions_TE[:1], resized.flatten(2)[0].T])
        padding_BT = torch.zeros(x_BTE.shape[:2], dtype=torch.bool)
        return x_BTE, padding_BT, self._bias(Modality.IMAGE, index_2d(grid, grid, side), len(x_BTE))

    def _audio(self, samples_BN: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        config = self.config.adapters[Modality.AUDIO]
        x = samples_BN.unsqueeze(1)
        for number, (_, stride) in enumerate(CONVOLUTIONS):
            name = f"adapters.audio.extractor.{number}."
            x = F.conv1d(x, self.state[f"{name}conv.weight"], self.state.get(f"{name}conv.bias"), stride)
            x = F.gelu(self._norm(f"{name}norm", x.transpose(1, 2)).transpose(1, 2))
        x_BNE = self._linear(
            "adapters.audio.projection.linear", self._norm("adapters.audio.projection.norm", x.transpose(1, 2))
        )
        frames_B = frame_count(lengths_B)
        padding_BN = torch.arange(x_BNE.shape[1]) >= frames_B[:, None]
        position_BNE = x_BNE
        for number in range(config.position_depth):  # type: ignore[attr-defined]
            name = f"adapters.audio.positions.convolutions.{number}."
            kernel_EGK = self.state[f"{name}weight"]
            y = F.conv1d(
                (position_BNE * ~padding_BN[..., None]).transpose(1, 2),
                kernel_EGK,
                self.state[f"{name}bias"],
                padding=kernel_EGK.shape[-1] // 2,
                groups=config.position_groups,  # type: ignore[attr-defined]
            )
            position_BNE = F.gelu(F.layer_norm(y.transpose(1, 2), y.shape[1:2]))
        class_E = self.state["adapters.audio.class_position"]
        x_BTE = self._with_class(Modality.AUDIO, x_BNE)
        x_BTE = x_BTE + torch.cat([class_E.expand(len(x_BTE), 1, -1), position_BNE], dim=1)
        index_TT = index_1d(x_BTE.shape[1], config.bucket_size)  # type: ignore[attr-defined]
        return x_BTE, F.pad(padding_BN, (1, 0)), self._bias(Modality.AUDIO, index_TT, len(x_BTE))

    def _layer(self, name: str, modality: Modality, x_BTE: Tensor, bias_BHTT: Tensor) -> Tensor:
        batch, tokens, width = x_BTE.shape
        heads = self.config.heads
        normed = self._norm(f"{name}attention_norm", x_BTE)
        query, key, value = (
            self._linear(f"{name}attention.{part}", normed)
            .view(batch, tokens, heads, -1)
            .transpose(1, 2)
            .reshape(batch * heads, tokens, -1)
            for part in ("query", "key", "value")
        )
        logits = torch.bmm(query * (width // heads) ** -0.5, key.transpose(1, 2)).view(bias_BHTT.shape) + bias_BHTT
        weights = logits.float().softmax(dim=-1).type_as(logits).view(batch * heads, tokens, tokens)
        mixed_BTE = torch.bmm(weights, value).view(batch, heads, tokens, -1).transpose(1, 2).reshape(x_BTE.shape)
        mixed_BTE = self._linear(f"{name}attention.output", self._norm(f"{name}attention.norm", mixed_BTE))
        x_BTE = x_BTE + self.state[f"{name}attention_branch.scale"] * mixed_BTE
        normed = self._norm(f"{name}feedforward_norm", x_BTE)
        expert = f"{name}experts.{modality}."
        hidden = F.gelu(self._linear(f"{expert}gate", normed)) * self._linear(f"{expert}up", normed)
        out_BTE = self._linear(f"{expert}down", self._norm(f"{expert}norm", hidden))
        return x_BTE + self.state[f"{name}feedforward_branch.scale"] * out_BTE
