"""A MobileNetV3 on a log-mel picture of sound: EfficientAT's mn models.

The front end and the body follow Schmid et al., 2023, "Efficient large-scale audio tagging via Transformer-to-CNN
knowledge distillation" (arXiv:2211.04772); the body is MobileNetV3-Large (Howard et al., 2019, arXiv:1905.02244).
Parameter names under `features` are those of the published weights, so these load as they are.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from encoders.audio.spec_augment import hide_spans

SAMPLE_RATE = 32_000  # Hz
FFT, WINDOW, HOP, MELS = 1024, 800, 320, 128  # samples; 100 frames a second


class Stage(NamedTuple):
    """One row of the MobileNetV3-Large table, channels before the width multiplier."""

    kernel: int
    expanded: int
    out: int
    squeeze: bool
    hard_swish: bool
    stride: int


FIRST_CHANNELS = 16
STAGES = (
    Stage(3, 16, 16, False, False, 1),
    Stage(3, 64, 24, False, False, 2),
    Stage(3, 72, 24, False, False, 1),
    Stage(5, 72, 40, True, False, 2),
    Stage(5, 120, 40, True, False, 1),
    Stage(5, 120, 40, True, False, 1),
    Stage(3, 240, 80, False, True, 2),
    Stage(3, 200, 80, False, True, 1),
    Stage(3, 184, 80, False, True, 1),
    Stage(3, 184, 80, False, True, 1),
    Stage(3, 480, 112, True, True, 1),
    Stage(3, 672, 112, True, True, 1),
    Stage(5, 672, 160, True, True, 2),
    Stage(5, 960, 160, True, True, 1),
    Stage(5, 960, 160, True, True, 1),
)
HALVINGS = 2**5  # frames, and mel bins, that the body makes one of
FREQUENCY_ROWS = MELS // HALVINGS
LAST_EXPANSION = 6  # the last convolution widens the last stage this much


def round_channels(channels: float) -> int:
    """Return the nearest multiple of 8, never more than 10 % below."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class LogMel(nn.Module):
    """Waveforms (B, N) at 32 kHz -> log-mel pictures (B, 1, 128, frames)."""

    def forward(self, samples_BN: Tensor) -> Tensor:
        """Return the pictures in float32, whatever autocast says: powers span too many orders for bfloat16."""
        with torch.autocast(samples_BN.device.type, enabled=False):
            x_BN = samples_BN.float()
            x_BN = x_BN[:, 1:] - 0.97 * x_BN[:, :-1]  # pre-emphasis
            spectrum_BFT = torch.stft(
                x_BN, FFT, HOP, WINDOW, _window(x_BN.device), center=True, pad_mode="reflect", return_complex=True
            )
            power_BFT = torch.view_as_real(spectrum_BFT).square().sum(-1)
            mel_BMT = _mel_filters(x_BN.device) @ power_BFT
            return ((torch.log(mel_BMT + 1e-5) + 4.5) / 5.0).unsqueeze(1)


@lru_cache(maxsize=8)
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(WINDOW, periodic=False, device=device)


@lru_cache(maxsize=8)
def _mel_filters(device: torch.device) -> Tensor:
    """Return (128, FFT / 2 + 1) Kaldi mel filters from 0 to 15 kHz; the Nyquist column is zero."""
    from torchaudio.compliance.kaldi import get_mel_banks

    filters, _ = get_mel_banks(MELS, FFT, float(SAMPLE_RATE), 0.0, 15_000.0, 100.0, -500.0, 1.0)
    return F.pad(filters, (0, 1)).to(device)


class SqueezeExcitation(nn.Module):
    """Channels weighted by their own means (Hu et al., 2018), as the published weights name it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = round_channels(channels / 4)
        gate = nn.ModuleDict({"fc1": nn.Linear(channels, squeezed), "fc2": nn.Linear(squeezed, channels)})
        self.conc_se_layers = nn.ModuleList([gate])

    def forward(self, x_BCMT: Tensor) -> Tensor:
        """Return the weighted channels, same shape."""
        gate: Any = self.conc_se_layers[0]
        weight_BC = torch.sigmoid(gate["fc2"](F.relu(gate["fc1"](x_BCMT.mean((2, 3))))))
        return x_BCMT * weight_BC[:, :, None, None]


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs, eps=1e-3)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, weight channels, narrow; plus the input where shapes allow."""

    def __init__(self, inputs: int, stage: Stage, multiplier: float) -> None:
        super().__init__()
        expanded, outputs = round_channels(stage.expanded * multiplier), round_channels(stage.out * multiplier)
        activation: type[nn.Module] = nn.Hardswish if stage.hard_swish else nn.ReLU
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(nn.Sequential(*_conv(inputs, expanded, 1), activation()))
        layers.append(nn.Sequential(*_conv(expanded, expanded, stage.kernel, stage.stride, expanded), activation()))
        if stage.squeeze:
            layers.append(SqueezeExcitation(expanded))
        layers.append(nn.Sequential(*_conv(expanded, outputs, 1)))
        self.block = nn.Sequential(*layers)
        self.residual = stage.stride == 1 and inputs == outputs

    def forward(self, x_BCMT: Tensor) -> Tensor:
        """Return the block's output."""
        y_BCMT = self.block(x_BCMT)
        return x_BCMT + y_BCMT if self.residual else y_BCMT


def shifted(pictures_B1MT: Tensor, shifts_B: Tensor) -> Tensor:
    """Return log-mel pictures moved up by some bins, or down; what comes in is as quiet as each is at its quietest.

    >>> shifted(torch.tensor([3.0, 1.0, 2.0]).view(1, 1, 3, 1), torch.tensor([1])).flatten().tolist()
    [1.0, 3.0, 1.0]
    """
    mels = pictures_B1MT.shape[2]
    from_BM = torch.arange(mels, device=pictures_B1MT.device) - shifts_B[:, None]
    outside_B1M1 = ((from_BM < 0) | (from_BM >= mels))[:, None, :, None]
    moved_B1MT = pictures_B1MT.gather(2, from_BM.clamp(0, mels - 1)[:, None, :, None].expand_as(pictures_B1MT))
    return torch.where(outside_B1M1, pictures_B1MT.amin(dim=(2, 3), keepdim=True), moved_B1MT)


class LogMelCNN(nn.Module):
    """Waveforms (B, N) at 32 kHz, all of one length -> feature maps (B, time, rows, F)."""

    def __init__(self, multiplier: float) -> None:
        super().__init__()
        self.front_end = LogMel()
        channels = round_channels(FIRST_CHANNELS * multiplier)
        layers: list[nn.Module] = [nn.Sequential(*_conv(1, channels, 3, 2), nn.Hardswish())]
        for stage in STAGES:
            layers.append(InvertedResidual(channels, stage, multiplier))
            channels = round_channels(stage.out * multiplier)
        self.features_width = LAST_EXPANSION * channels
        layers.append(nn.Sequential(*_conv(channels, self.features_width, 1), nn.Hardswish()))
        self.features = nn.Sequential(*layers)

    def forward(
        self,
        samples_BN: Tensor,
        times_BK2: Tensor | None = None,
        bins_BK2: Tensor | None = None,
        shifts_B: Tensor | None = None,
    ) -> Tensor:
        """Return one feature vector for each 320 ms of sound and each quarter of the spectrum.

        Spans of samples and of mel bins that are given are hidden from the network, and it hears all sounds higher by
        so many mel bins.
        """
        weight = cast(Tensor, cast(nn.Sequential, self.features[0])[0].weight)
        picture_B1MT: Tensor = self.front_end(samples_BN).to(weight.dtype)
        if times_BK2 is not None and bins_BK2 is not None:
            picture_B1MT = hide_spans(picture_B1MT, times_BK2 // HOP, bins_BK2)
        if shifts_B is not None:
            picture_B1MT = shifted(picture_B1MT, shifts_B)
        feature_map_BFMT: Tensor = self.features(picture_B1MT)
        return feature_map_BFMT.permute(0, 3, 2, 1)
