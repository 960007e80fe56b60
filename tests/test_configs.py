"""Every file in configs/ is read by the class it is for, and a wrong key in it would be refused."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from encoders.modality import Modality
from onepeace.model import ModelConfig, count_parameters

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
READERS = {"model", "train", "finetune", "plans"}  # the folders that the tests below read


def test_every_file_belongs_to_a_reader() -> None:
    # The files of serve/ are read by others: retrieval/service/test_deployment.py has the tests of those.
    files = [path for path in CONFIGS.rglob("*") if path.is_file() and path.parent != CONFIGS / "serve"]
    assert {path.relative_to(CONFIGS).parts[0] for path in files} == READERS
    assert {path.suffix for path in files} == {".yaml"}


@pytest.mark.parametrize("path", sorted((CONFIGS / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_model_config_parses_and_comes_back_from_plain_data(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    config = ModelConfig.from_dict(data)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert set(config.adapters) == set(Modality)
    with pytest.raises(ValueError, match="colour"):
        ModelConfig.from_dict({**data, "colour": 1})


def test_sizes_rise_from_tiny_to_4b() -> None:
    names = ["tiny", "small", "base", "large", "4b"]
    counts = [
        count_parameters(ModelConfig.from_dict(yaml.safe_load((CONFIGS / f"model/{n}.yaml").read_text())))
        for n in names
    ]
    assert counts == sorted(counts)
    assert counts[-1] == 3_884_740_545


@pytest.mark.parametrize("path", sorted((CONFIGS / "train").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_training_config_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onepeace.training.cli import main

    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", str(path), "--print_config"])
    assert done.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    written = yaml.safe_load(path.read_text())["model"]
    begins = "model" if "model" in written else "start"  # sizes, or a model that is there
    assert printed["model"][begins] == written[begins]


@pytest.mark.parametrize("path", sorted((CONFIGS / "finetune").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_config_of_fine_tuning_parses(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from onepeace.training.cli import main

    with pytest.raises(SystemExit) as done:
        main(["fit", "--config", str(path), "--print_config"])
    assert done.value.code == 0
    printed, written = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(path.read_text())
    assert path.read_text().startswith("# ")  # what it is for
    start = printed["model"]["start"]  # what ships, or what another config of the folder trains
    assert start == "onepeace-tiny" or (path.parent / f"{start.replace('-', '_')}.yaml").is_file()
    assert {key: printed["data"][key] for key in ("train", "root") if key in written["data"]} == {
        key: written["data"][key] for key in ("train", "root") if key in written["data"]
    }


@pytest.mark.parametrize("path", sorted((CONFIGS / "plans").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_stage_of_a_plan_is_a_training_config(path: Path, tmp_path: Path) -> None:
    from onepeace.training.cli import main
    from onepeace.training.stages import read_plan, stage_config

    plan = read_plan(path)
    for number, stage in enumerate(plan.stages):
        file = tmp_path / f"{stage.name}.yaml"
        file.write_text(yaml.safe_dump(stage_config(plan, number)))
        with pytest.raises(SystemExit) as done:
            main(["fit", "--config", str(file), "--print_config"])
        assert done.value.code == 0


def test_onepeace_tiny_trains_on_no_row_that_has_both_a_picture_and_a_sound(tmp_path: Path) -> None:
    from jsonargparse import ArgumentParser

    from onepeace.training.data import StreamConfig
    from onepeace.training.rows import load_rows
    from onepeace.training.stages import read_plan, stage_config

    pack = Path(os.environ.get("ONEPEACE_DATA", CONFIGS.parents[1] / "shared" / "data"))
    if not pack.is_dir():
        pytest.skip("needs the data pack at ../shared/data or ONEPEACE_DATA")
    parser = ArgumentParser()
    parser.add_argument("--streams", type=list[StreamConfig])
    plan, seen = read_plan(CONFIGS / "plans/tiny.yaml"), 0
    manifest = pq.read_table(pack / "manifest-train.parquet")
    for number in range(len(plan.stages)):
        streams = stage_config(plan, number)["data"]["streams"]
        for stream in parser.instantiate(parser.parse_object({"streams": streams})).streams:
            for source in stream.sources:
                own = tmp_path / f"{source.source}.parquet"  # or each of two dozen reads the whole manifest
                if not own.exists():
                    pq.write_table(manifest.filter(pc.field("source") == source.source), own)
                rows = load_rows(source, Modality(stream.modality), own)
                assert not any(row.several_media for row in rows), source.name
                seen += len(rows)
    assert seen > 20_000


def test_an_unknown_training_key_is_refused_by_name() -> None:
    from onepeace.training.cli import main

    with pytest.raises(ValueError, match=r"data\.colour"):
        main(["fit", "--config", str(CONFIGS / "train/smoke.yaml"), "--data.colour", "red", "--print_config"])


def test_every_variant_of_the_ablation_is_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(CONFIGS.parent / "benchmarks")
    ablation = importlib.import_module("ablation")
    from onepeace.training.stages import read_plan, stage_config

    for name in ablation.VARIANTS:
        plan = read_plan(ablation.write_variant(name, tmp_path, 3, 4))
        steps = [6] if name.startswith("plain") else [3, 4]
        assert [stage.steps for stage in plan.stages] == steps[: len(plan.stages)]
        assert all(stage_config(plan, number)["data"]["streams"] for number in range(len(plan.stages)))
