"""Frozen outside encoders that a model learns from: their features, and the probabilities of the classes they know.

Nothing is fetched unless a config names the library's own weights in `pretrained`. B: batch, F: width of the features,
C: classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from encoders.modality import Modality
from encoders.pretrained import (
    PretrainedError,
    image_classifier,
    load_audio_backbone,
    load_image_backbone,
    minilm_weights,
    pretrained_tokenizer,
    read_weights,
)
from encoders.text.adapter import mean_of_present
from encoders.text.bert import Bert, bert_state

Library = Literal["efficientnet_lite0", "all-minilm-l6-v2", "efficientat", "timm", "open_clip", "torchaudio"]
MAX_SENTENCE = 256  # tokens


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """Which encoder teaches.

    `efficientnet_lite0` and `all-minilm-l6-v2` come with the extra `pretrained`; `efficientat` is a file of that
    project (mn04, ...). The others are libraries: `name` is a model of timm or open_clip, or a bundle of
    torchaudio.pipelines (WAV2VEC2_BASE, ...).
    """

    library: Library
    name: str = ""
    weights: Path | None = None  # a local file of weights
    pretrained: str | None = None  # a tag of the library's own weights, which it may download; torchaudio: "default"
    modality: str = "image"  # of open_clip: image or text; the others have one

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.library in ("timm", "open_clip", "torchaudio"):
            if not self.name:
                raise ValueError(f"teacher.name: name a model of {self.library}")
            if (self.weights is None) == (self.pretrained is None):
                raise ValueError(
                    f"teacher {self.name}: set weights (a local file) or pretrained (a tag of {self.library}, which "
                    "may download): a teacher without weights has nothing to teach"
                )
        if self.library == "efficientat" and self.weights is None:
            raise ValueError("teacher efficientat: set weights to its file")
        if self.modality not in ("image", "text"):
            raise ValueError(f"teacher.modality must be image or text, got {self.modality}")

    @property
    def title(self) -> str:
        """Return a short name for logs and files."""
        return f"{self.library}-{self.name}".rstrip("-").replace("/", "-").lower()


class Lesson(NamedTuple):
    """What a teacher says of a batch."""

    features: Tensor  # (B, F)
    probabilities: Tensor | None = None  # (B, C), rows adding up to one, where it knows classes


class Teacher(nn.Module):
    """A frozen encoder of one modality; `sample_rate` is that of the sounds it takes, in Hz."""

    modality = Modality.IMAGE
    sample_rate = 16_000
    width: int
    classes = 0

    def prepare(self, medium: Any) -> Tensor:
        """Return what `forward` takes of one medium: a PIL picture, mono samples (N,) at `sample_rate`, or a text."""
        raise NotImplementedError

    def forward(self, items: list[Tensor]) -> Lesson:
        """Return what it says of prepared media."""
        raise NotImplementedError


class PictureTeacher(Teacher):
    """A timm classifier, or EfficientNet-Lite0."""

    def __init__(self, backbone: Any, transform: Callable[[PIL.Image.Image], Tensor], classifier: nn.Module) -> None:
        super().__init__()
        self.backbone, self.transform, self.classifier = backbone, transform, classifier
        self.width = backbone.num_features
        self.classes = classifier.out_features if isinstance(classifier, nn.Linear) else 0

    def prepare(self, medium: PIL.Image.Image) -> Tensor:
        """Return normalised pixels."""
        return self.transform(medium.convert("RGB"))

    def forward(self, items: list[Tensor]) -> Lesson:
        """Return pooled features and class probabilities."""
        pixels_BCHW = torch.stack(items).contiguous(memory_format=torch.channels_last)
        feature_map = self.backbone.forward_features(pixels_BCHW)
        if hasattr(self.backbone, "forward_head"):
            features_BF = self.backbone.forward_head(feature_map, pre_logits=True)
        else:
            features_BF = feature_map.mean((2, 3))
        if not self.classes:
            return Lesson(features_BF.float())
        return Lesson(features_BF.float(), self.classifier(features_BF).float().softmax(dim=-1))


class OpenClipTeacher(Teacher):
    """One tower of an open_clip model."""

    def __init__(self, name: str, weights: str, modality: Modality) -> None:
        super().__init__()
        import open_clip

        model, _, self.transform = open_clip.create_model_and_transforms(name, pretrained=weights)
        self.modality = modality
        self.tokenizer = open_clip.get_tokenizer(name) if modality is Modality.TEXT else None
        self.encode = model.encode_text if modality is Modality.TEXT else model.encode_image
        self.model = model
        width = open_clip.get_model_config(name)["embed_dim"]
        self.width = int(width)

    def prepare(self, medium: Any) -> Tensor:
        """Return pixels of a picture, or token ids of a text."""
        if self.tokenizer is not None:
            ids_L: Tensor = self.tokenizer([medium])[0]
            return ids_L
        pixels_CHW: Tensor = self.transform(medium.convert("RGB"))
        return pixels_CHW

    def forward(self, items: list[Tensor]) -> Lesson:
        """Return embeddings of length one."""
        return Lesson(self.encode(torch.stack(items), normalize=True).float())


class SentenceTeacher(Teacher):
    """all-MiniLM-L6-v2 (Wang et al., 2020, arXiv:2002.10957): a BERT of six layers, mean over tokens, length one."""

    modality = Modality.TEXT
    width = 384

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = pretrained_tokenizer("all-minilm-l6-v2")
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_SENTENCE)
        weights = bert_state(minilm_weights())
        self.backbone = Bert(len(weights["tokens.weight"]), self.width, 6, 12, 1536, len(weights["positions"]))
        self.backbone.load_state_dict(weights)

    def prepare(self, medium: str) -> Tensor:
        """Return WordPiece ids with [CLS] and [SEP], (L,)."""
        return torch.tensor(self.tokenizer.encode(medium).ids)

    def forward(self, items: list[Tensor]) -> Lesson:
        """Return sentence vectors of length one."""
        ids_BL = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=-1)
        features_BLF = self.backbone(ids_BL.clamp(min=0), ids_BL < 0).float()
        return Lesson(F.normalize(mean_of_present(features_BLF, ids_BL < 0), dim=-1))


class TaggerTeacher(Teacher):
    """A published EfficientAT model (Schmid et al., 2023): embeddings, and AudioSet tags as shares of what is heard."""

    modality = Modality.AUDIO
    sample_rate = 32_000

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from encoders.audio.log_mel_cnn import LogMelCNN

        head = {name: tensor for name, tensor in read_weights(weights).items() if name.startswith("classifier.")}
        layers = sorted({name.rsplit(".", 1)[0] for name in head}, key=lambda name: int(name.split(".")[1]))
        if len(layers) != 2:
            raise PretrainedError(f"{weights} has no tagging head: wanted two linear layers, got {len(layers)}")
        shapes = [head[f"{layer}.weight"].shape for layer in layers]
        self.hidden, self.output = (nn.Linear(inputs, outputs) for outputs, inputs in shapes)
        for layer, name in zip((self.hidden, self.output), layers, strict=True):
            layer.load_state_dict({"weight": head[f"{name}.weight"], "bias": head[f"{name}.bias"]})
        self.width, self.classes = self.hidden.in_features, self.output.out_features
        self.body = LogMelCNN(self.width / 960)  # MobileNetV3-Large ends in 960 channels
        load_audio_backbone(self.body, weights)

    def prepare(self, medium: NDArray[np.float32]) -> Tensor:
        """Return at least a second of samples."""
        samples_N = torch.from_numpy(np.ascontiguousarray(medium, np.float32))
        return F.pad(samples_N, (0, max(0, self.sample_rate - len(samples_N))))

    def forward(self, items: list[Tensor]) -> Lesson:
        """Return pooled features and tags; sounds run one by one, as each has its own length."""
        features_BF = torch.cat([self.body(item.unsqueeze(0)).float().mean((1, 2)) for item in items])
        tags_BC = torch.sigmoid(self.output(F.hardswish(self.hidden(features_BF))))
        return Lesson(features_BF, tags_BC / tags_BC.sum(dim=1, keepdim=True))


class TorchaudioTeacher(Teacher):
    """A wav2vec 2.0, HuBERT or WavLM of torchaudio: the mean of its last layer over time."""

    modality = Modality.AUDIO

    def __init__(self, name: str, weights: Path | None) -> None:
        super().__init__()
        import torchaudio

        bundle = getattr(torchaudio.pipelines, name, None)
        if not isinstance(bundle, torchaudio.pipelines.Wav2Vec2Bundle):
            known = [n for n in dir(torchaudio.pipelines) if n.startswith(("WAV2VEC2_", "HUBERT_", "WAVLM_"))]
            raise PretrainedError(f"torchaudio.pipelines has no speech encoder {name!r}; it has {', '.join(known)}")
        self.sample_rate = int(bundle.sample_rate)
        self.normalise = bool(bundle._normalize_waveform)
        if weights is None:
            self.model = bundle.get_model()
        else:
            factory = (
                torchaudio.models.wavlm_model if bundle._model_type == "WavLM" else torchaudio.models.wav2vec2_model
            )
            self.model = factory(**bundle._params)
            _load(self.model, weights)
        self.width = int(bundle._params["encoder_embed_dim"])

    def prepare(self, medium: NDArray[np.float32]) -> Tensor:
        """Return samples, long enough for a frame."""
        samples_N = torch.from_numpy(np.ascontiguousarray(medium, np.float32))
        samples_N = F.pad(samples_N, (0, max(0, 400 - len(samples_N))))
        return F.layer_norm(samples_N, samples_N.shape) if self.normalise else samples_N

    def forward(self, items: list[Tensor]) -> Lesson:
        """Return the mean over time; sounds run one by one, so that padding changes nothing."""
        means = [self.model.extract_features(item.unsqueeze(0))[0][-1].float().mean(dim=1) for item in items]
        return Lesson(torch.cat(means))


def build_teacher(config: TeacherConfig) -> Teacher:
    """Return the frozen teacher that `config` names.

    Raises:
        PretrainedError: the library, the model or the weights are absent, or do not fit together.
    """
    try:
        teacher = _build(config)
    except ImportError as error:
        raise PretrainedError(f"teacher {config.title}: {error.name} is not installed") from error
    return teacher.eval().requires_grad_(False)


def teacher_key(config: TeacherConfig) -> str:
    """Return what a teacher's features depend on, for caches: its config, and the contents of its file."""
    digest = hashlib.sha256(repr(sorted(asdict(config).items())).encode())
    if config.weights is not None:
        with open(config.weights, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _build(config: TeacherConfig) -> Teacher:
    if config.weights is not None and not config.weights.is_file():
        raise PretrainedError(f"teacher {config.title}: {config.weights} does not exist")
    match config.library:
        case "efficientnet_lite0":
            return _lite0()
        case "all-minilm-l6-v2":
            return SentenceTeacher()
        case "efficientat":
            assert config.weights is not None
            return TaggerTeacher(config.weights)
        case "timm":
            return _timm(config)
        case "open_clip":
            import open_clip

            if config.name not in open_clip.list_models():
                raise PretrainedError(f"open_clip has no model {config.name!r}; open_clip.list_models() lists them")
            modality = Modality(config.modality)
            try:
                return OpenClipTeacher(config.name, str(config.weights or config.pretrained), modality)
            except (OSError, RuntimeError) as error:
                raise PretrainedError(f"teacher {config.title}: {str(error).splitlines()[0]}") from error
        case "torchaudio":
            return TorchaudioTeacher(config.name, config.weights)


def _lite0() -> Teacher:
    from encoders.image.efficientnet_lite import EfficientNetLite0
    from encoders.image.preprocess import ImagePreprocess, ImagePreprocessor

    backbone = EfficientNetLite0()
    load_image_backbone(backbone, "efficientnet_lite0")
    preprocess = ImagePreprocessor(ImagePreprocess(size=224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
    return PictureTeacher(backbone, preprocess, image_classifier("efficientnet_lite0"))


def _timm(config: TeacherConfig) -> Teacher:
    import timm

    if not timm.is_model(config.name):
        raise PretrainedError(
            f"timm has no model {config.name!r}; timm.list_models('*{config.name[:6]}*') finds like ones"
        )
    if config.pretrained is not None:
        tag = "" if config.pretrained == "default" else f".{config.pretrained}"
        model = timm.create_model(config.name + tag, pretrained=True)
    else:
        model = timm.create_model(config.name)
        assert config.weights is not None
        _load(model, config.weights)
    data: Any = timm.data  # of its own types
    transform = data.create_transform(**data.resolve_model_data_config(model), is_training=False)
    return PictureTeacher(model, transform, cast(Any, model).get_classifier())


def _load(model: nn.Module, path: Path) -> None:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(path)
    else:
        state = read_weights(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise PretrainedError(f"{path} does not fit this teacher: {str(error).splitlines()[-1].strip()}") from error
