"""The plain recipe, both stages, on the gallery: what `make train-smoke` runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

import onepeace
from onepeace.training.stages import loss_curve
from retrieval.cli import app

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [  # Lightning's own use of others, and its advice on what a small run means to do
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
]


@pytest.mark.slow
def test_the_loss_falls_in_both_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = yaml.safe_load((ROOT / "configs/plans/smoke.yaml").read_text()) | {"out": str(tmp_path / "run")}
    plan["base"]["trainer"]["enable_progress_bar"] = False
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    done = CliRunner().invoke(app, ["train", "plan", str(tmp_path / "plan.yaml")])
    assert done.exit_code == 0, done.output
    for stage in ("1-vision-language", "2-audio-language"):
        curve = np.array(loss_curve(tmp_path / "run" / stage))
        assert curve[-8:].mean() < 0.96 * curve[:8].mean()
    exported = CliRunner().invoke(
        app, ["export", str(tmp_path / "run/2-audio-language/last.ckpt"), "--out", str(tmp_path / "model")]
    )
    assert exported.exit_code == 0, exported.output
    gallery = ROOT / "retrieval/gallery"
    vectors = onepeace.load(tmp_path / "model").encode(
        [
            onepeace.Image(next((gallery / "pictures").iterdir())),
            onepeace.Audio(next((gallery / "sounds").iterdir())),
            "a dog",
        ]
    )
    assert vectors.shape == (3, 64)
