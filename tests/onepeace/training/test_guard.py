from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from training_run import weights, write_config

from onepeace.training.cli import main
from onepeace.training.guard import NotFiniteError, StepGuard, check_weights
from onepeace.training.module import ContrastiveModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*LightningCLI's args parameter is intended"),
    pytest.mark.filterwarnings("ignore:.*not supported by the model summary"),
]

PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bf16": {"precision": "bf16-mixed"},
    "no clipping": {"gradient_clip_val": None},
    "fp16 with a scaler": {
        "plugins": [
            {
                "class_path": "lightning.pytorch.plugins.MixedPrecision",
                "init_args": {
                    "precision": "16-mixed",
                    "device": "cpu",
                    "scaler": {"class_path": "torch.amp.GradScaler", "init_args": {"device": "cpu", "init_scale": 8.0}},
                },
            }
        ]
    },
}


def spoil(monkeypatch: pytest.MonkeyPatch, steps: set[int], what: str) -> None:
    """Make the loss of some steps, or only their gradients, not finite."""
    terms, training_step = ContrastiveModule._terms, ContrastiveModule.training_step

    def spoilt_terms(self: Any, pair: Any, chance: int) -> list[tuple[str, float, Tensor]]:
        bad = [("bad", 1.0, torch.tensor(float("nan")))] if self.trainer.global_step in steps else []
        return [*terms(self, pair, chance), *bad]

    def spoilt_step(self: Any, batch: Any, batch_idx: int) -> Tensor:
        loss = training_step(self, batch, batch_idx)
        if batch.step in steps:
            loss.register_hook(lambda gradient: gradient * float("inf"))
        return loss

    if what == "loss":
        monkeypatch.setattr(ContrastiveModule, "_terms", spoilt_terms)
    else:
        monkeypatch.setattr(ContrastiveModule, "training_step", spoilt_step)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_that_is_not_finite_changes_nothing_and_training_goes_on(
    small_pack: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    precision: str,
    what: str,
) -> None:
    spoil(monkeypatch, {2}, what)
    trainer = {"max_epochs": 2, "gradient_clip_val": 3.0, "limit_val_batches": 0} | PRECISIONS[precision]
    with caplog.at_level("WARNING"):
        main(["fit", "--config", str(write_config(tmp_path, small_pack, **trainer))])
    assert [r.getMessage() for r in caplog.records if "is skipped" in r.getMessage()] == [
        "step 2 is skipped: its loss or gradient is not finite"
    ]
    kept = {step: weights(tmp_path / "kept" / f"step={step}.ckpt") for step in range(1, 7)}
    assert all(torch.equal(kept[3][name], tensor) for name, tensor in kept[2].items())
    assert any(not torch.equal(kept[4][name], tensor) for name, tensor in kept[3].items())
    assert all(tensor.isfinite().all() for state in kept.values() for tensor in state.values())
    assert "train/skipped_steps" in (tmp_path / "log" / "version_0" / "metrics.csv").read_text()


def test_training_stops_after_so_many_steps_and_names_the_last_good_checkpoint(
    small_pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(2, 9)), "loss")
    path = write_config(tmp_path, small_pack, limit_val_batches=0)
    config = yaml.safe_load(path.read_text())
    config["model"]["optimizer"]["max_skipped"] = 3
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(
        NotFiniteError, match=r"in the 3 steps up to 4; the last good checkpoint is .*kept/step=4\.ckpt"
    ):
        main(["fit", "--config", str(path)])
    last = weights(tmp_path / "kept" / "step=4.ckpt")
    assert all(tensor.isfinite().all() for tensor in last.values())


def test_only_steps_in_a_row_stop_a_run() -> None:
    guard = StepGuard(2)
    assert [guard.admits(finite, step, "none") for step, finite in enumerate([False, True, False, True])] == [
        False,
        True,
        False,
        True,
    ]
    assert guard.skipped == 2


def test_weights_that_are_not_finite_are_not_saved() -> None:
    state = {"weight": torch.ones(2), "norm.running_mean": torch.tensor([0.0, float("nan")]), "steps": torch.tensor(3)}
    with pytest.raises(NotFiniteError, match=r"norm\.running_mean; the last good one is kept/step=4\.ckpt"):
        check_weights(state, "kept/step=4.ckpt")
    check_weights({"weight": torch.ones(2)}, "none")
