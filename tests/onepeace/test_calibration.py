"""Calibration against another library, known truths, and the labelled pictures of the pack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from little_media import picture
from typer.testing import CliRunner

import onepeace
from onepeace.calibration import Calibration, fit_calibration
from onepeace.checkpoint import CheckpointError, open_folder
from onepeace.evaluate.calibrate import calibrate
from onepeace.metrics import expected_calibration_error, negative_log_likelihood
from onepeace.reader import model_folder as folder_of
from retrieval.cli import app


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_the_calibration_error_is_that_of_another_library(bins: int, rng: np.random.Generator) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error  # slow to import

    rows = rng.dirichlet(np.full(7, 0.3), 400)
    labels = rng.integers(0, 7, 400)
    expected = multiclass_calibration_error(torch.from_numpy(rows), torch.from_numpy(labels), 7, n_bins=bins)
    assert expected_calibration_error(rows, labels, bins) == pytest.approx(float(expected), abs=1e-6)


def test_the_likelihood_is_that_of_another_library(rng: np.random.Generator) -> None:
    rows, labels = rng.dirichlet(np.ones(5), 50), rng.integers(0, 5, 50)
    expected = torch.nn.functional.nll_loss(torch.from_numpy(rows).log(), torch.from_numpy(labels))
    assert negative_log_likelihood(rows, labels) == pytest.approx(float(expected))


def test_without_an_exponent_it_is_a_softmax(rng: np.random.Generator) -> None:
    cosines = rng.uniform(-1, 1, (20, 6)).astype(np.float32)
    expected = torch.softmax(torch.from_numpy(cosines) / 0.07, dim=1)
    found = Calibration(temperature=0.07, spread=0.3).probabilities(cosines)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_temperature_follows_the_spread_and_never_the_order(rng: np.random.Generator) -> None:
    cosines = rng.uniform(-1, 1, (30, 6)).astype(np.float32)
    made = Calibration(temperature=0.07, spread=0.2, exponent=0.5)
    for row, found in zip(cosines, made.probabilities(cosines), strict=True):
        temperature = 0.07 * (0.2 / row.std()) ** 0.5
        np.testing.assert_allclose(found, torch.softmax(torch.from_numpy(row) / temperature, 0), atol=1e-5)
        assert np.array_equal(np.argsort(found, kind="stable"), np.argsort(row, kind="stable"))


def test_fitting_finds_the_temperature_that_labels_were_drawn_with(rng: np.random.Generator) -> None:
    cosines = rng.normal(0.2, 0.15, (6000, 10))
    shares = torch.softmax(torch.from_numpy(cosines) / 0.06, dim=1).numpy()
    labels = np.array([rng.choice(10, p=row) for row in shares])
    made = fit_calibration([(cosines, labels)])
    assert made.temperature == pytest.approx(0.06, rel=0.05)
    assert made.exponent < 0.2
    assert expected_calibration_error(made.probabilities(cosines), labels) < 0.02


def test_fitting_finds_where_right_and_wrong_labels_part(rng: np.random.Generator) -> None:
    cosines = rng.normal(0.2, 0.05, (4000, 4))
    labels = rng.integers(0, 4, 4000)
    cosines[np.arange(4000), labels] += 0.2  # two normal distributions of one width: the log-odds are a straight line
    made = fit_calibration([(cosines, labels)])
    assert made.fit_cosine == pytest.approx(0.3, abs=0.01)
    assert made.fit_width == pytest.approx(0.05**2 / 0.2, rel=0.1)
    assert made.fits(np.array([0.3 - 1e-6, 0.35])).tolist() == pytest.approx([0.5, 0.982], abs=0.02)


@pytest.mark.parametrize(
    "values", [{"temperature": 0}, {"temperature": float("nan")}, {"exponent": -1}, {"fit_cosine": 1}]
)
def test_numbers_that_cannot_work_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        Calibration(**{"temperature": 0.1} | values)


def test_a_folder_keeps_its_calibration_and_its_fingerprint(model_folder: Path, tmp_path: Path) -> None:
    folder = open_folder(shutil.copytree(model_folder, tmp_path / "model"))
    before = folder.fingerprint()
    assert folder.calibrations() == {}
    made = {"image": Calibration(temperature=0.04, spread=0.15, exponent=0.5), "audio": Calibration(temperature=0.03)}
    path = folder.write_calibrations(made, {"image": ["photos"], "audio": ["sounds", "songs"]})
    assert open_folder(folder.path).calibrations() == made
    assert folder.calibration_sources() == {"image": ["photos"], "audio": ["sounds", "songs"]}
    assert folder.fingerprint() == before
    path.write_text('{"format_version": 1, "modalities": {"image": {"temprature": 1}}, "fitted_on": {}}')
    with pytest.raises(CheckpointError, match="temprature"):
        folder.calibrations()


def test_pictures_are_calibrated_to_what_the_folder_ships(data_pack: Path) -> None:
    model = onepeace.load("onepeace-tiny", dtype="float32")
    where = {"source": ["caltech101"]}
    found = calibrate(model, [data_pack / "manifest-val.parquet"], where, show_progress_bar=False)
    shipped = open_folder(folder_of("onepeace-tiny")).calibrations()["image"]
    assert found.calibrations["image"].temperature == pytest.approx(shipped.temperature, rel=0.02)
    assert found.calibrations["image"].fit_cosine == pytest.approx(shipped.fit_cosine, abs=0.01)
    (fitness,) = found.fitness
    assert fitness.ece_before > 0.15
    assert fitness.ece_after < 0.05
    assert fitness.nll_after < fitness.nll_before


def test_the_command_writes_what_it_tells(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    for number in range(8):
        path = tmp_path / "photos" / ("dog", "cat")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    command = ["calibrate", str(tmp_path / "photos"), "--model", str(folder), "--write", "--json"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    written = json.loads((folder / "calibration.json").read_text())
    assert written["modalities"] == told["modalities"]  # digit by digit
    assert told["measured"][0]["rows"] == 8
    lonely = CliRunner().invoke(app, ["calibrate", str(tmp_path / "nowhere.parquet"), "--model", str(folder)])
    assert lonely.exit_code == 1
    assert len(lonely.stderr.strip().splitlines()) == 1
