"""The ready-made configs of fine-tuning, run for a few steps on little data from a little random model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from question_pack import write_question_pack
from random_models import write_random_model

import onepeace
from onepeace.checkpoint import open_folder
from onepeace.training.cli import main
from onepeace.training.export import export_checkpoint

CONFIGS = Path(__file__).resolve().parents[3] / "configs/finetune"
ROWS = {"vqa": "tag", "nlvr2": "pairs", "aqa": "sounds", "grounding": "boxes"}  # config -> manifest of the pack
SINGLE = {"classify_image": "vqa", "classify_image_whole": "vqa", "classify_audio": "", "classify_audio_whole": ""}


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_question_pack(tmp_path_factory.mktemp("questions"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("start") / "model", "official")


def fit(name: str, folder: Path, start: Path, *options: str) -> Path:
    """Run a config for two steps and return what was exported."""
    shorter = {
        "trainer.max_epochs": "1",
        "trainer.limit_train_batches": "2",
        "trainer.enable_progress_bar": "false",
        "trainer.logger": "false",
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": str(folder),
        "trainer.callbacks.init_args.dirpath": str(folder),
        "model.start": str(start),
    }
    main(["fit", "--config", str(CONFIGS / f"{name}.yaml"), *(f"--{k}={v}" for k, v in shorter.items()), *options])
    export_checkpoint(folder / "last.ckpt", folder / "exported", name, storage=None)
    return folder / "exported"


def rows(path: Path, cache: Path) -> list[str]:
    return [f"--data.train=[{path}]", f"--data.validation=[{path}]", f"--data.cache={cache}", "--data.batch_size=4"]


@pytest.mark.parametrize("name", ROWS)
def test_a_config_of_questions_trains(name: str, pack: Path, start: Path, tmp_path: Path) -> None:
    exported = fit(name, tmp_path, start, *rows(pack / f"{ROWS[name]}.jsonl", tmp_path / "cache"))
    task = open_folder(exported).task
    assert task is not None
    assert (task.kind, task.pictures) == {
        "vqa": ("tag", 1),
        "nlvr2": ("classify", 2),
        "aqa": ("choose", 1),
        "grounding": ("ground", 1),
    }[name]
    before, after = open_folder(start).tensors(), open_folder(exported).tensors()
    trained = "fusion.blocks.1.attention.query.weight"
    assert not torch.equal(before[trained], after[trained])
    stem = "adapters.image.stem.conv1.weight"
    assert name == "aqa" or torch.equal(before[stem], after[stem])


def test_an_official_table_trains(pack: Path, start: Path, tmp_path: Path) -> None:
    table = tmp_path / "vqa.tsv"
    refs = [f"{('yes', 'no')[n % 2]}|!+{n % 2}|!+1.0&&maybe|!+2|!+0.3" for n in range(8)]
    lines = [f"{n}\t{n}.png\twhat is it?\t{refs[n]}" for n in range(8)]
    table.write_text("\n".join(["uniq_id\timage\tquestion\trefs", *lines]) + "\n")
    official = ["--data.layout=official", f"--data.root={pack}"]
    exported = fit("vqa", tmp_path, start, *rows(table, tmp_path / "cache"), *official)
    task = open_folder(exported).task
    assert task is not None
    assert task.labels == ("maybe", "no", "yes")  # eight times, four, four


@pytest.mark.parametrize("name", SINGLE)
def test_a_config_of_classes_trains(name: str, pack: Path, start: Path, tmp_path: Path) -> None:
    modality = name.split("_")[1]
    manifest = pack / "vqa.jsonl"
    if modality == "audio":
        manifest = pack / "heard.csv"
        manifest.write_text("audio,label,source\n" + "".join(f"{n}.wav,{'ab'[n % 2]},little\n" for n in range(8)))
    where = ["--data.where.source=little"]
    model = onepeace.load(fit(name, tmp_path, start, *rows(manifest, tmp_path / "cache"), *where))
    assert isinstance(model, onepeace.TaskPredictor)
    assert len(model.labels) == 2
    wrapped = onepeace.Image(pack / "0.png") if modality == "image" else onepeace.Audio(pack / "0.wav")
    assert model.predict([wrapped])[0].label in model.labels


def test_the_config_of_retrieval_trains_a_model_that_embeds(pack: Path, start: Path, tmp_path: Path) -> None:
    source = '{"source":"little"}'
    data = [
        f"--data.root={pack}",
        "--data.manifest=vqa.jsonl",
        "--data.cache=null",
        "--data.steps_per_epoch=2",
        f'--data.streams=[{{"modality":"image","batch_size":8,"sources":[{source}]}}]',
        f'--data.evaluations=[{{"name":"little","modality":"image","manifests":["vqa.jsonl"],"sources":[{source}]}}]',
    ]
    exported = fit("retrieval", tmp_path, start, *data)
    folder = open_folder(exported)
    assert set(folder.config.adapters) == {"text", "image"}
    assert folder.config.bias_per_layer
    assert {name for name in folder.tensors() if "text.bias.tables" in name} == {
        f"adapters.text.bias.tables.{n}" for n in range(2)
    }
    model = onepeace.load(exported)
    assert model.encode(["a dog", onepeace.Image(pack / "0.png")]).shape == (2, 48)


def test_a_model_to_tune_and_a_new_one_are_not_both_wanted(pack: Path, start: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give model"):
        fit("retrieval", tmp_path, start, f"--data.root={pack}", f"--model.model={pack / 'model.yaml'}")
    with pytest.raises(ValueError, match="is to read none"):
        fit("retrieval", tmp_path, start, f"--data.root={pack}", "--model.modalities=[image]")
