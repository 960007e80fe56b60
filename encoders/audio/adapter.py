"""Sounds: waveforms -> TokenSequence, from a convolutional extractor (the official model) or a log-mel CNN."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.adapter import Adapter, AdapterConfig, Shape, trunc_normal
from encoders.audio.log_mel_cnn import FREQUENCY_ROWS, HALVINGS, HOP, MELS, LogMelCNN
from encoders.audio.preprocess import AudioPreprocess, AudioPreprocessor
from encoders.modality import Modality
from encoders.place import WAVES, middles, waves
from encoders.position_bias import PositionBias1d
from encoders.tokens import TokenSequence, bias_at

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BANDS = 16  # of the spectrum, that a token is told of
CONVOLUTIONS = ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))  # (kernel, stride) in samples


@dataclass(frozen=True, kw_only=True)
class AudioConfig(AdapterConfig):
    """What all sound adapters share."""

    token_samples: ClassVar[int]  # from the beginning of a token to that of the next
    mel_bins: ClassVar[int] = 0  # of the log-mel picture that the adapter looks at; 0: it looks at samples

    preprocess: AudioPreprocess = AudioPreprocess()
    bucket_size: int = 512  # of the relative bias

    def preprocessor(self, tokenizer: Tokenizer | None) -> AudioPreprocessor:
        """Return what makes this adapter's tensors from raw input."""
        return AudioPreprocessor(self.preprocess)


@dataclass(frozen=True, kw_only=True)
class WaveformConfig(AudioConfig):
    """The official adapter: wav2vec-style convolutions on the waveform, convolutional positions."""

    token_samples: ClassVar[int] = prod(stride for _, stride in CONVOLUTIONS)

    kind: Literal["waveform"] = "waveform"
    channels: int = 512  # of the extractor
    extractor_bias: bool = False
    position_depth: int = 5  # convolutions of the position embedding, one after the other
    position_width: int = 95  # frames that they see together
    position_groups: int = 16
    position_norm: bool = False  # LayerNorm in front of them

    def build(self, shape: Shape) -> WaveformAdapter:
        """Return the adapter of this config."""
        return WaveformAdapter(self, shape)


@dataclass(frozen=True, kw_only=True)
class LogMelConfig(AudioConfig):
    """A CNN on the log-mel picture whose feature map becomes the tokens."""

    token_samples: ClassVar[int] = HALVINGS * HOP
    mel_bins: ClassVar[int] = MELS

    kind: Literal["log_mel_cnn"] = "log_mel_cnn"
    preprocess: AudioPreprocess = AudioPreprocess(
        sample_rate=32_000, max_seconds=10.0, layer_norm=False, pad_multiple_seconds=0.32
    )
    width_multiplier: float = 0.4  # of MobileNetV3-Large
    frozen: bool = True  # the CNN keeps its weights and its normalisation statistics
    positions: int = 64  # longest sequence, class token included
    token_dropout: float = 0.0  # share of feature tokens hidden in training
    detail: int = 0  # parts of a token's time, of whose spectrum it is told, and when; 0: none. For tasks

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        super().__post_init__()
        if self.detail and (self.detail < 0 or HALVINGS % self.detail):
            raise ValueError(f"detail is a number of parts that divides {HALVINGS}, or 0, got {self.detail}")

    def build(self, shape: Shape) -> LogMelAdapter:
        """Return the adapter of this config."""
        return LogMelAdapter(self, shape)


def frame_count(samples: Tensor) -> Tensor:
    """Return how many frames the extractor makes of each number of samples."""
    for kernel, stride in CONVOLUTIONS:
        samples = (samples - kernel) // stride + 1
    return samples.clamp(min=0)


class ConvolutionBlock(nn.Module):
    """Convolution, LayerNorm over channels, GELU, on (B, C, N)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride, bias=bias)
        self.norm = nn.LayerNorm(outputs)
        if not self.conv.weight.is_meta:  # see trunc_normal
            nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x_BCN: Tensor) -> Tensor:
        """Return (B, outputs, frames)."""
        return F.gelu(self.norm(self.conv(x_BCN).transpose(1, 2)).transpose(1, 2))


class ConvolutionalPositions(nn.Module):
    """Positions as a stack of grouped convolutions over the content (wav2vec 2.0, Baevski et al., 2020)."""

    def __init__(self, width: int, config: WaveformConfig, padding_leaks: bool) -> None:
        super().__init__()
        kernel = max(3, config.position_width // config.position_depth)
        self.padding_leaks = padding_leaks
        self.even = kernel % 2 == 0
        self.norm = nn.LayerNorm(width) if config.position_norm else None
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.position_groups)
            for _ in range(config.position_depth)
        )

    def forward(self, content_BND: Tensor, padding_BN: Tensor) -> Tensor:
        """Return the position of each frame, (B, N, D).

        Padded frames are zero in front of every convolution, as the convolution's own padding is, so a clip's
        positions are those it has alone. The official code lets them leak in; `padding_leaks` does as it did.
        """
        x_BND = content_BND if self.norm is None else self.norm(content_BND)
        present_BN1 = (~padding_BN).unsqueeze(-1)
        for convolution in self.convolutions:
            if not self.padding_leaks:
                x_BND = x_BND * present_BN1
            x_BDN = convolution(x_BND.transpose(1, 2))
            if self.even:
                x_BDN = x_BDN[..., :-1]
            x_BND = F.gelu(F.layer_norm(x_BDN.transpose(1, 2), x_BDN.shape[1:2]))
        return x_BND


class Frames(NamedTuple):
    """What the extractor makes of waveforms."""

    content: Tensor  # (B, N, D)
    padding: Tensor  # (B, N) bool


class WaveformAdapter(Adapter):
    """Samples (B, N) at 16 kHz, zero padded, and their lengths (B,) -> TokenSequence of one token a frame (20 ms)."""

    modality: ClassVar[Modality] = Modality.AUDIO

    def __init__(self, config: WaveformConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        channels, width = config.channels, shape.width
        self.extractor: nn.Module = nn.Sequential(
            *(
                ConvolutionBlock(1 if i == 0 else channels, channels, kernel, stride, config.extractor_bias)
                for i, (kernel, stride) in enumerate(CONVOLUTIONS)
            )
        )
        self.projection = nn.Sequential(OrderedDict(norm=nn.LayerNorm(channels), linear=nn.Linear(channels, width)))
        self.positions = ConvolutionalPositions(width, config, shape.padding_leaks)
        self.class_position = nn.Parameter(trunc_normal(torch.empty(width)))
        # Never used, in the official model either: its checkpoints hold it, so that conversion loses nothing.
        self.mask_token = nn.Parameter(trunc_normal(torch.empty(width)), requires_grad=False)
        self.bias = (
            PositionBias1d(config.bucket_size, shape.heads, shape.bias_tables) if config.attention_bias else None
        )

    def features(self, samples_BN: Tensor, lengths_B: Tensor) -> Frames:
        """Return the contents of the frames of normalised waveforms.

        Raises:
            ValueError: a clip is too short for one frame, or longer than the position tables.
        """
        frames_B = frame_count(lengths_B)
        if int(frames_B.min()) < 1:
            raise ValueError(f"a sound needs at least 400 samples, got {int(lengths_B.min())}")
        content_BND = self.projection(self.extractor(samples_BN.unsqueeze(1)).transpose(1, 2))
        padding_BN = torch.arange(content_BND.shape[1], device=frames_B.device) >= frames_B.unsqueeze(1)
        return Frames(content_BND, padding_BN)

    def from_features(self, frames: Frames) -> TokenSequence:
        """Return the tokens of all frames."""
        length = frames.content.shape[1] + 1
        return self._assemble(*frames, self.bias(length) if self.bias is not None else ())

    def visible(self, frames: Frames, whole: TokenSequence, places_BP: Tensor) -> TokenSequence:
        """Return only the tokens at `places_BP`: the convolutional positions see nothing but these frames."""
        # Where the official batch has padding it repeats the row's last frame, which `padding_leaks` lets through.
        index_BP = places_BP.masked_fill(places_BP < 0, places_BP.shape[1] - 1)[:, 1:] - 1
        rows_B1 = torch.arange(len(places_BP), device=places_BP.device).unsqueeze(1)
        padding_BP = frames.padding[rows_B1, index_BP] | (places_BP[:, 1:] < 0)
        bias = self.bias(frames.content.shape[1] + 1) if self.bias is not None else ()
        return self._assemble(
            frames.content[rows_B1, index_BP], padding_BP, tuple(bias_at(b, places_BP.clamp(min=0)) for b in bias)
        )

    def _assemble(self, content_BND: Tensor, padding_BN: Tensor, bias: tuple[Tensor, ...]) -> TokenSequence:
        batch = len(content_BND)
        positions_BLD = torch.cat(
            [self.class_position.expand(batch, 1, -1), self.positions(content_BND, padding_BN)], dim=1
        )
        return self.assemble(content_BND, positions_BLD, F.pad(padding_BN, (1, 0), value=False), bias)


class LogMelAdapter(Adapter):
    """Samples (B, N) at 32 kHz, zero padded, and their lengths (B,) -> CNN feature map -> TokenSequence.

    A CNN's padding would reach into shorter clips, so clips are run through it in groups of equal length; the
    preprocessing rounds lengths up to a few values, which keeps the groups large.
    """

    modality: ClassVar[Modality] = Modality.AUDIO

    def __init__(self, config: LogMelConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.frozen = config.frozen
        self.token_dropout = config.token_dropout
        self.backbone = LogMelCNN(config.width_multiplier)
        self.backbone.requires_grad_(not config.frozen)
        features, width = self.backbone.features_width, shape.width
        step = FREQUENCY_ROWS * features  # one token a time step: its rows side by side, low to high
        self.projection = nn.Sequential(OrderedDict(norm=nn.LayerNorm(step), linear=nn.Linear(step, width)))
        self.class_projection = nn.Sequential(
            OrderedDict(norm=nn.LayerNorm(features), linear=nn.Linear(features, width))
        )
        self.position_embedding = nn.Parameter(trunc_normal(torch.empty(config.positions, width)))
        self.bias = (
            PositionBias1d(config.bucket_size, shape.heads, shape.bias_tables) if config.attention_bias else None
        )

        if config.detail:
            self.parts = config.detail
            self.detail = nn.Linear(config.detail * BANDS + WAVES, shape.width, bias=False)

    def _details(self, sequence: TokenSequence, *inputs: Tensor) -> Tensor:
        """Return the log-mel bands of each part of a token's time, and when: (B, L, parts bands + WAVES).

        Times are shares of the longest sequence that the adapter has positions for. The class token has zeros.
        """
        samples_BN, lengths_B = inputs[:2]
        kernel = MELS // BANDS, HALVINGS // self.parts
        rows = []
        for samples_N, length, padding_L in zip(samples_BN, lengths_B.tolist(), sequence.padding, strict=True):
            tokens = int((~padding_L[1:]).sum())
            picture_11MT: Tensor = self.backbone.front_end(samples_N[None, :length])
            missing = tokens * HALVINGS - picture_11MT.shape[-1]  # negative where frames are left over
            pooled_1bt = F.avg_pool2d(F.pad(picture_11MT, (0, missing)), kernel)[0]
            # Bands overlap: they tell the pitch, but little of the kind of a sound, which tokens know at any pitch.
            pooled_1bt = F.avg_pool2d(pooled_1bt, (3, 1), stride=1, padding=(1, 0), count_include_pad=False)
            parts_LE = pooled_1bt[0].unflatten(1, (tokens, self.parts)).permute(1, 2, 0).flatten(1)
            rows.append(F.pad(parts_LE, (0, 0, 1, len(padding_L) - 1 - tokens)))
        details_BLE = torch.stack(rows)
        longest = len(self.position_embedding) - 1
        times_LE = waves(middles(longest, samples_BN.device)[: details_BLE.shape[1] - 1]).to(details_BLE.dtype)
        told_BLE = F.pad(times_LE, (0, 0, 1, 0)).expand(len(details_BLE), -1, -1)
        return torch.cat([details_BLE, told_BLE.masked_fill(sequence.padding[..., None], 0.0)], dim=2)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, but leave a frozen CNN's normalisation statistics alone."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    @property
    def frozen_part(self) -> nn.Module:
        """Return what never changes in training, so that its output may be kept."""
        return self.backbone

    def features(
        self,
        samples_BN: Tensor,
        lengths_B: Tensor,
        times_BK2: Tensor | None = None,
        bins_BK2: Tensor | None = None,
        shifts_B: Tensor | None = None,
    ) -> list[Tensor]:
        """Return each clip's feature map, (time, rows, F), as if it were alone.

        In training, spans of samples and of mel bins (first, behind the last) may be hidden from the CNN, and clips
        may sound higher by some mel bins.
        """
        maps: list[Tensor] = [samples_BN.new_empty(0)] * len(samples_BN)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            for length in lengths_B.unique().tolist():
                members = (lengths_B == length).nonzero().flatten()
                altered = {"times_BK2": times_BK2, "bins_BK2": bins_BK2, "shifts_B": shifts_B}
                given = {name: of_B[members] for name, of_B in altered.items() if of_B is not None}
                feature_maps = self.backbone(samples_BN[members, :length], **given)
                for member, feature_map in zip(members.tolist(), feature_maps, strict=True):
                    maps[member] = feature_map
        return maps

    def from_features(self, maps: list[Tensor]) -> TokenSequence:
        """Return the tokens of feature maps (time, rows, F): what training on cached features calls."""
        pooled_BF = torch.stack([feature_map.mean((0, 1)) for feature_map in maps])
        tokens = [feature_map.flatten(1) for feature_map in maps]
        content_BND = self.projection(nn.utils.rnn.pad_sequence(tokens, batch_first=True))
        length = content_BND.shape[1] + 1
        if length > len(self.position_embedding):
            raise ValueError(
                f"at most {len(self.position_embedding) - 1} sound tokens fit this model, got {length - 1}"
            )
        counts_B = torch.tensor([len(t) for t in tokens], device=content_BND.device)
        padding_BN = torch.arange(length - 1, device=content_BND.device) >= counts_B.unsqueeze(1)
        if self.training and self.token_dropout > 0.0:
            padding_BN = padding_BN | (torch.rand(padding_BN.shape, device=padding_BN.device) < self.token_dropout)
        return self.assemble(
            content_BND,
            self.position_embedding[:length],
            F.pad(padding_BN, (1, 0), value=False),
            self.bias(length) if self.bias is not None else (),
            self.class_projection(pooled_BF),
        )


KINDS = {"waveform": WaveformConfig, "log_mel_cnn": LogMelConfig}
