"""What `onepeace bench` counts and shows; how fast anything is stays out of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from random_models import write_random_model
from typer.testing import CliRunner

from encoders.modality import Modality
from onepeace.bench import run
from onepeace.bench.measure import interleaved, product_flops
from onepeace.bench.products import products_alone
from onepeace.checkpoint import open_folder
from onepeace.inference import EncodingModel
from retrieval.cli import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_model(tmp_path_factory.mktemp("bench") / "official", "official")


def test_candidates_take_turns() -> None:
    turns: list[str] = []
    medians = interleaved({name: lambda name=name: turns.append(name) for name in "ab"}, 3, warm_up=1)  # type: ignore[misc]
    assert "".join(turns) == "ab" + "ababab"
    assert set(medians) == {"a", "b"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_are_those_of_the_shapes(folder: Path, dtype: torch.dtype) -> None:
    model = open_folder(folder).model()
    encoder = EncodingModel(model, dtype)
    batch, ids, (width, hidden) = 3, 9, (model.config.width, model.config.hidden)
    tokens = ids + 1
    tensors = (torch.full((batch, ids), 5),)
    whole = 3 * width * width + width * width + 3 * width * hidden  # q, k, v; output; gate, up and down
    ends = 2 * width * width * tokens + (
        2 * width * width + 3 * width * hidden
    )  # the last block: k and v, then one token
    linear = 2 * batch * (whole * tokens + ends)
    attention = 4 * batch * width * (tokens * tokens + tokens)
    head = 2 * batch * width * model.config.embedding_dim
    with torch.inference_mode():
        assert product_flops(products_alone(encoder, Modality.TEXT, tensors)) == linear
        assert product_flops(lambda: encoder.embed(Modality.TEXT, *tensors)) == linear + attention + head


PEAK = """
import numpy as np
from onepeace.bench.measure import PeakMemory

with PeakMemory() as little:
    pass
with PeakMemory() as much:
    np.ones(2**27, dtype=np.uint8)
print(little.bytes, much.bytes)
"""


def test_the_peak_is_what_was_held() -> None:
    # In a process of its own: this one may have freed memory at hand.
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    little, much = map(int, done.stdout.split())
    if not little:
        pytest.skip("peaks are read on Linux only")
    assert 2**26 < much - little < 2**28


def test_the_command_measures_every_modality_and_draws_them(folder: Path, tmp_path: Path) -> None:
    picture = tmp_path / "bench.svg"
    done = CliRunner().invoke(
        app, ["bench", "--model", str(folder), "--rounds", "1", "--json", "--chart", str(picture)]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    speeds = found["speeds"]
    assert {(speed["modality"], speed["batch"]) for speed in speeds} == {
        (modality, batch) for modality in Modality for batch in (1, run.BATCHES[modality])
    }
    assert all(speed["ratio"] == 1.0 for speed in speeds if speed["way"] == "plain")
    assert sum(speed["limit_share"] is not None for speed in speeds) == 6
    bars = ET.parse(picture).getroot().findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == 1 + len(speeds)
    assert "torch" in found["machine"]
    wrong = CliRunner().invoke(app, ["bench", "--model", str(folder), "--chart", "bench.png"])
    assert wrong.exit_code == 1
    assert "--chart writes .svg files" in wrong.output
