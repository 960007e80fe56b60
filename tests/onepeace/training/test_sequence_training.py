"""Training a sequence tower: its data, its start, and from the config to what an album answers."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

import onepeace
from encoders.modality import Modality
from onepeace.checkpoint import CheckpointError, Storage, open_folder
from onepeace.model.sequence import SequenceConfig, SequenceTower, by_number, phases
from onepeace.sequences import Segment, SequenceEmbedding
from onepeace.training.albums import drawn_batch
from onepeace.training.cli import main
from onepeace.training.export import export_checkpoint, read_training_checkpoint
from onepeace.training.item_set import Items
from onepeace.training.number_start import begin_numbers

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = ROOT / "configs" / "train" / "sequences.yaml"
GALLERY = ROOT / "retrieval" / "gallery"


@pytest.fixture(scope="module")
def model() -> onepeace.Embedder:
    return onepeace.load_embedder("onepeace-tiny")


def items(count: int = 40) -> Items:
    draws = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn(count, 8, generator=draws), dim=-1)
    texts = [[f"thing {chr(97 + i % 26)}{i}"] for i in range(count)]
    sources = [list(range(count // 2)), list(range(count // 2, count))]
    return Items(vectors, texts, [text[0] for text in texts], sources, [1.0, 2.0])


def test_albums_hold_what_their_questions_are_about() -> None:
    made = items()
    batch = drawn_batch(made, 24, (1, 16), random.Random(1))
    lengths = (~batch.padding).sum(dim=1)
    assert lengths.min() >= 1
    assert lengths.max() <= 16
    for row, length in enumerate(lengths.tolist()):
        numbers = batch.numbers[row, :length]
        assert (numbers.diff() > 0).all()
        assert 1 <= int(numbers[0]) <= int(numbers[-1]) <= 400
    for album, question in batch.pointed:
        answer: Tensor = batch.vectors[album, question.named]
        (place,) = (made.vectors == answer).all(dim=1).nonzero().flatten().tolist()
        if question.by == "number":
            assert str(int(batch.numbers[album, question.target])) in question.text
        else:
            assert made.texts[place][0] in question.text
    for number, others in batch.others:
        assert batch.pointed[number][0] not in others
        assert len(set(others)) == 3


def test_the_same_draws_give_the_same_albums() -> None:
    first, same, other = (drawn_batch(items(), 8, (2, 9), random.Random(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.vectors, same.vectors)
    assert first.pointed == same.pointed
    assert first.pointed != other.pointed


def test_measured_albums_are_numbered_from_one() -> None:
    batch = drawn_batch(items(), 4, (20, 20), random.Random(0), numbered=False)
    assert torch.equal(batch.numbers, torch.arange(1, 21).expand(4, -1))


@torch.inference_mode()
def test_numbers_are_known_from_the_start(model: onepeace.Embedder) -> None:
    """Of 20 items words that name one by its number ask for it, in a question that the start was not made from."""
    network = model.folder.model().eval()
    tower = SequenceTower(network.config, SequenceConfig())
    tower.begin_from(network)
    others = ["a dog", "the sound of rain", "what comes after a cat?"]
    begin_numbers(tower, network, model.reader, others, seed=0, count=120)
    places = torch.cat(phases(torch.arange(1, 21), network.config.width), dim=-1)[None]
    preprocessor = model.reader.preprocessors[Modality.TEXT]
    right = 0
    for number in range(1, 21):
        (ids,) = preprocessor.collate([preprocessor(f"In item {number}, what is there?")])
        (features,) = network.features([network.tokens(Modality.TEXT, ids)])
        assert tower.find.number is not None
        logits_TN = by_number(tower.find.number(features.embeddings), places)[0]
        surest = int(tower.says(features.embeddings)[0, :, 0].argmax())
        right += int(logits_TN[surest].argmax()) == number - 1
    assert right >= 16  # 95 of 100 when begun from twice as many


def write_config(folder: Path, cache: Path, **trainer: Any) -> Path:
    config = yaml.safe_load(SHIPPED.read_text())
    (callback,) = config["trainer"].pop("callbacks")
    callback["init_args"]["dirpath"] = str(folder / "run")
    columns = {"text": "caption"}
    gallery = {"where": {"modality": "image"}, "columns": {**columns, "image": "file"}, "positives": "concept"}
    sounds = {"where": {"modality": "audio"}, "columns": {**columns, "audio": "file"}, "positives": "concept"}
    config["trainer"] |= {
        "max_steps": 4,
        "logger": False,
        "enable_progress_bar": False,
        "callbacks": [callback],
        "default_root_dir": str(folder),
        **trainer,
    }
    config["model"]["begin_numbers"] = False  # which takes longer than all of this
    config["model"]["optimizer"] = {
        "lr": 1e-4,
        "min_lr": 1e-4,
        "warmup": 0.0,
    }  # the same however many steps are planned
    config["data"] = {
        "root": str(GALLERY),
        "manifest": "gallery.jsonl",
        "validation": "gallery.jsonl",
        "cache": str(cache),
        "albums": 6,
        "most": 8,
        "steps_per_epoch": 2,
        "validation_albums": 6,
        "items": [
            {"modality": "image", "sources": [gallery]},
            {"modality": "audio", "sources": [sounds]},
        ],
    }
    (folder / "sequences.yaml").write_text(yaml.safe_dump(config))
    return folder / "sequences.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    main(["fit", "--config", str(write_config(folder, folder / "features"))])
    return folder


@pytest.mark.parametrize(("storage", "off"), [("float16", 2e-3), ("int8", 3e-2)])
def test_training_gives_the_model_with_the_tower_that_trained(
    storage: Storage, off: float, trained: Path, model: onepeace.Embedder, tmp_path: Path
) -> None:
    export_checkpoint(trained / "run" / "last.ckpt", tmp_path / "mine", "mine", storage)
    mine = onepeace.load_embedder(tmp_path / "mine")
    assert mine.fingerprint == model.fingerprint  # stores of the model go on
    assert "Sequence tower" in (tmp_path / "mine" / "README.md").read_text()
    vectors = model.encode(["a dog", "rain", "a red car"])
    album = SequenceEmbedding([Segment(n, "text", row) for n, row in enumerate(vectors, start=1)])
    answer = mine.ask("what is in item 3?", album)
    tower = SequenceTower(model.folder.config, SequenceConfig(counting=True))
    state = read_training_checkpoint(trained / "run" / "last.ckpt")["state_dict"]
    tower.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    network = model.folder.model()
    preprocessor = model.reader.preprocessors[Modality.TEXT]
    tokens = network.tokens(Modality.TEXT, *preprocessor.collate([preprocessor("what is in item 3?")]))
    with torch.inference_mode():
        expected = tower.eval()(network, tokens, tower.read(network, torch.from_numpy(vectors)[None]))
    np.testing.assert_allclose(answer.weights, expected.weights[0], atol=off)
    np.testing.assert_allclose(answer.vector, expected.vectors[0], atol=off)


def test_what_trains_is_the_tower_alone(trained: Path, model: onepeace.Embedder) -> None:
    state = read_training_checkpoint(trained / "run" / "last.ckpt")
    tower = SequenceTower(model.folder.config, SequenceConfig(counting=True))
    assert {name.removeprefix("model.") for name in state["state_dict"]} == set(tower.state_dict())


def test_counting_is_learnt_beside_a_tower_that_keeps_its_weights(
    trained: Path, model: onepeace.Embedder, tmp_path: Path
) -> None:
    config = write_config(tmp_path, trained / "features")
    main(["fit", "--config", str(config), "--model.train", "counting"])
    learnt = {
        name.removeprefix("model."): tensor
        for name, tensor in read_training_checkpoint(tmp_path / "run" / "last.ckpt")["state_dict"].items()
    }
    before = model.folder.sequence_tower().state_dict()
    changed = {name for name, tensor in before.items() if not torch.equal(learnt[name], tensor)}
    assert changed == {name for name in before if name.startswith("counting.")}


def test_training_that_was_stopped_goes_on_as_if_it_had_not(trained: Path, tmp_path: Path) -> None:
    main(["fit", "--config", str(write_config(tmp_path, trained / "features", limit_train_batches=2, max_epochs=1))])
    config = write_config(tmp_path, trained / "features")
    main(["fit", "--config", str(config), "--ckpt_path", str(tmp_path / "run" / "last.ckpt")])
    once, twice = (
        read_training_checkpoint(folder / "run" / "last.ckpt")["state_dict"] for folder in (trained, tmp_path)
    )
    for name, tensor in once.items():
        torch.testing.assert_close(twice[name], tensor, atol=1e-6, rtol=0)


def test_a_tower_is_not_exported_beside_another_model(trained: Path, tmp_path: Path) -> None:
    state = torch.load(trained / "run" / "last.ckpt", weights_only=True)
    state["onepeace"]["base"] = "0" * 16
    torch.save(state, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="is not the model that the tower was trained beside"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "out", "out")
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_is_refused(trained: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, trained / "features")
    with pytest.raises(ValueError, match=r"data\.most must be at least 2"):
        main(["fit", "--config", str(config), "--data.most", "1"])
    data = yaml.safe_load(config.read_text())
    data["model"]["tower"] = {"layrs": 1}
    config.write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=r"unknown key .*layrs.*, did you mean 'layers'"):
        main(["fit", "--config", str(config)])


def test_a_tower_belongs_to_one_model(tmp_path: Path, trained: Path, model: onepeace.Embedder) -> None:
    from onepeace.checkpoint import write_folder

    folder = model.folder
    export_checkpoint(trained / "run" / "last.ckpt", tmp_path / "mine", "mine")
    write_folder(tmp_path / "other", "other", folder.config, folder.tensors(), folder.tokenizer())
    with pytest.raises(CheckpointError, match="other has no sequence tower"):
        open_folder(tmp_path / "other").sequence_tower()
    for name in ("sequence.json", "sequence.safetensors"):
        (tmp_path / "other" / name).write_bytes((tmp_path / "mine" / name).read_bytes())
    with pytest.raises(CheckpointError, match="belongs to the model with fingerprint"):
        open_folder(tmp_path / "other").sequence_tower()
    (tmp_path / "mine" / "sequence.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        open_folder(tmp_path / "mine").sequence_tower()


def test_an_answer_is_the_same_alone_and_among_others(trained: Path, model: onepeace.Embedder, tmp_path: Path) -> None:
    export_checkpoint(trained / "run" / "last.ckpt", tmp_path / "mine", "mine")
    mine = onepeace.load_embedder(tmp_path / "mine")
    vectors = model.encode(["a dog", "rain", "a red car", "the sea"])
    album = SequenceEmbedding([Segment(n, "text", row) for n, row in enumerate(vectors, start=1)])
    texts = ["what is in item 2?", "what comes after the picture of a dog on a beach with a red ball?", "rain"]
    for text, among in zip(texts, mine.ask(texts, album), strict=True):
        alone = mine.ask(text, album)
        np.testing.assert_allclose(alone.vector, among.vector, atol=1e-5)
        np.testing.assert_allclose(alone.weights, among.weights, atol=1e-5)
        assert alone.match == pytest.approx(among.match, abs=1e-3)
        assert alone.weights.sum() == pytest.approx(1, abs=1e-5)
        assert np.linalg.norm(alone.vector) == pytest.approx(1, abs=1e-5)
