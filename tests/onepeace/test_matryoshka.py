"""A model's space rewritten with its principal axes first."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import soundfile
from typer.testing import CliRunner

import onepeace
from onepeace.calibration import Calibration
from onepeace.checkpoint import open_folder
from onepeace.matryoshka import nested_frame, principal_axes, rewrite
from retrieval.cli import app


def kept(rows_ND: np.ndarray, axes_DD: np.ndarray, numbers: int) -> float:
    """Return the share of the squared length that the first numbers hold."""
    return float(((rows_ND @ axes_DD.T)[:, :numbers] ** 2).sum() / (rows_ND**2).sum())


def test_axes_are_those_of_a_singular_value_decomposition(rng: np.random.Generator) -> None:
    rows_ND = (rng.normal(size=(300, 12)) * np.geomspace(3.0, 0.1, 12)) @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    axes_DD = principal_axes([rows_ND.astype(np.float32)])
    _, _, expected_DD = np.linalg.svd(rows_ND, full_matrices=False)
    np.testing.assert_allclose(np.abs((axes_DD * expected_DD).sum(axis=1)), 1.0, atol=1e-5)  # up to their direction
    assert all(row[np.abs(row).argmax()] > 0 for row in axes_DD)


def test_no_rotation_keeps_more_in_the_first_numbers(rng: np.random.Generator) -> None:
    rows_ND = rng.normal(size=(100, 8)) * np.arange(1, 9)
    axes_DD = principal_axes([rows_ND.astype(np.float32)])
    for numbers in (1, 3, 6):
        others = [kept(rows_ND, np.linalg.qr(rng.normal(size=(8, 8)))[0], numbers) for _ in range(50)]
        assert kept(rows_ND, axes_DD, numbers) >= max(others)


def test_a_modality_with_many_vectors_counts_no_more_than_one_with_few(rng: np.random.Generator) -> None:
    some, others = rng.normal(size=(2, 10, 6)).astype(np.float32)
    np.testing.assert_allclose(
        np.abs(principal_axes([some, others])), np.abs(principal_axes([np.tile(some, (50, 1)), others])), atol=1e-4
    )


def test_nothing_to_turn_by_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one group"):
        principal_axes([])
    with pytest.raises(ValueError, match="at least one vector"):
        principal_axes([np.empty((0, 4), np.float32)])


def media(folder: Path, rng: np.random.Generator) -> list[object]:
    picture, sound = folder / "a.png", folder / "a.wav"
    PIL.Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(picture)
    soundfile.write(sound, rng.normal(size=16_000) * 0.1, 16_000)
    return [onepeace.Image(picture), onepeace.Audio(sound)]


def test_a_model_that_is_only_turned_has_the_same_cosines(
    model_folder: Path, embedder: onepeace.Embedder, tmp_path: Path, rng: np.random.Generator
) -> None:
    axes_DD = np.linalg.qr(rng.normal(size=(embedder.dimension, embedder.dimension)))[0]
    rewrite(open_folder(model_folder), axes_DD, tmp_path / "turned", "turned")
    inputs = ["a dog", "rain of a street", *media(tmp_path, rng)]
    before = embedder.encode(inputs)
    after = onepeace.load(tmp_path / "turned", dtype="float32").encode(inputs)
    np.testing.assert_allclose(after, before @ axes_DD.T, atol=2e-6)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=2e-6)


def test_what_was_fitted_on_cosines_comes_along(model_folder: Path, tmp_path: Path) -> None:
    calibrated = tmp_path / "calibrated"
    shutil.copytree(model_folder, calibrated)
    fitted = {"image": Calibration(temperature=0.04, fit_cosine=0.3, fit_width=0.1)}
    open_folder(calibrated).write_calibrations(fitted, {"image": ["photos"]})
    folder = open_folder(calibrated)
    rewrite(folder, np.eye(folder.config.embedding_dim), tmp_path / "turned", "turned")
    assert open_folder(tmp_path / "turned").calibrations() == fitted
    assert open_folder(tmp_path / "turned").calibration_sources() == {"image": ["photos"]}


@pytest.mark.parametrize("keep", [8, 16, 32])
def test_what_is_kept_has_its_cosines_after_every_multiple_of_its_length(keep: int, rng: np.random.Generator) -> None:
    axes_DD = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    frame_DD = nested_frame(axes_DD, keep)
    rows_ND = rng.normal(size=(20, 32))
    part_NK = rows_ND @ axes_DD[:keep].T
    written_ND = rows_ND @ frame_DD.T
    for numbers in range(keep, 33, keep):
        short = written_ND[:, :numbers]
        np.testing.assert_allclose(short @ short.T, part_NK @ part_NK.T * numbers / 32, atol=1e-9)
    for strongest in (keep // 4, keep // 2):
        few, axes = written_ND[:, :strongest], rows_ND @ axes_DD[:strongest].T
        np.testing.assert_allclose(few @ few.T, axes @ axes.T * keep / 32, atol=1e-9)


def test_a_frame_is_the_same_on_every_call_and_refuses_what_does_not_divide() -> None:
    np.testing.assert_array_equal(nested_frame(np.eye(16), 4), nested_frame(np.eye(16), 4))
    for wrong in (0, 5, 32):
        with pytest.raises(ValueError, match="must divide 16"):
            nested_frame(np.eye(16), wrong)


def test_bits_say_more_where_the_part_is_repeated(rng: np.random.Generator) -> None:
    rows_ND = rng.normal(size=(400, 64)) * np.geomspace(1.0, 1e-3, 64)  # few directions matter
    truth_N = (rows_ND[:200] @ rows_ND[200:].T / np.linalg.norm(rows_ND[200:], axis=1)).argmax(axis=1)

    def found(keep: int) -> float:
        signs_ND = np.sign(rows_ND @ nested_frame(np.eye(64), keep).T)
        return float(((signs_ND[:200] @ signs_ND[200:].T).argmax(axis=1) == truth_N).mean())

    assert found(16) > 1.5 * found(64)


def test_only_a_tight_frame_is_taken(model_folder: Path, tmp_path: Path) -> None:
    folder = open_folder(model_folder)
    dimension = folder.config.embedding_dim
    for wrong in (np.eye(dimension - 1), 2 * np.eye(dimension), np.ones((dimension, dimension))):
        with pytest.raises(ValueError, match="frame"):
            rewrite(folder, wrong, tmp_path / "out", "out")
    assert not (tmp_path / "out").exists()


def test_the_command_takes_a_manifest_of_all_modalities(
    model_folder: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    inputs = media(tmp_path, rng)
    out, manifest = tmp_path / "out", tmp_path / "rows.csv"
    manifest.write_text("id,image,audio,text\n1,a.png,,a dog\n2,,a.wav,rain\n")
    arguments = ["matryoshka", str(model_folder), str(manifest), "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "1 image, 1 audio, 2 text vectors" in result.stdout
    inputs = ["a dog", "rain", *inputs]
    before, after = (onepeace.load(path, dtype="float32").encode(inputs) for path in (model_folder, out))
    # Four vectors have four axes at most, and a quarter of the numbers hold these.
    cosines = before @ before.T
    np.testing.assert_allclose(after @ after.T, cosines, atol=1e-2)  # the axes are those of bfloat16 vectors
    short = after[:, : after.shape[1] // 4]
    np.testing.assert_allclose(4 * short @ short.T, cosines, atol=1e-2)
    wrong = CliRunner().invoke(app, [*arguments[:-1], str(tmp_path / "other"), "--keep", "7"])
    assert wrong.exit_code == 1
    assert "must divide" in wrong.stderr
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "not an empty folder" in again.stderr


def test_a_modality_without_rows_is_named(model_folder: Path, tmp_path: Path, rng: np.random.Generator) -> None:
    media(tmp_path, rng)
    (tmp_path / "rows.csv").write_text("id,image,text\n1,a.png,a dog\n")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["matryoshka", str(model_folder), str(tmp_path / "rows.csv"), "--out", str(out)])
    assert result.exit_code == 1
    assert "reads audio too" in result.stderr
    assert not out.exists()
