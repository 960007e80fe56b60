"""Small batches that a GPU runs from a recording give what the blocks give."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from encoders.modality import Modality
from onepeace.cuda_graphs import ROWS, RecordedBlocks
from onepeace.model.packing import Group, Packing

needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def blocks(modality: Modality, x_SD: Tensor, packing: Packing, biases: object) -> Tensor:
    return x_SD.add_(1.0)[packing.first].cos()


def test_only_few_rows_of_one_length_are_recorded() -> None:
    recorded, device = RecordedBlocks(blocks), torch.device("cpu")
    assert recorded.fits(Packing([Group(ROWS, 40)], device))
    assert not recorded.fits(Packing([Group(ROWS + 1, 40)], device))
    assert not recorded.fits(Packing([Group(1, 40), Group(1, 41)], device))


@pytest.mark.skipif(torch.cuda.is_available(), reason="recordings work on a GPU")
def test_without_a_gpu_blocks_run_as_they_are_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    recorded, packing, x_SD = RecordedBlocks(blocks), Packing([Group(2, 3)], torch.device("cpu")), torch.randn(6, 4)
    for _ in range(2):
        torch.testing.assert_close(recorded(Modality.TEXT, x_SD.clone(), packing, ()), (x_SD + 1.0)[::3].cos())
    (line,) = caplog.messages
    assert line.startswith("CUDA graphs do not work here and are left out: ")
    assert not recorded.fits(packing)


@needs_a_gpu
def test_a_recording_gives_what_the_blocks_give_for_other_numbers_too() -> None:
    recorded, packing = RecordedBlocks(blocks), Packing([Group(2, 3)], torch.device("cuda"))
    for _ in range(3):
        x_SD = torch.randn(6, 4, device="cuda")
        torch.testing.assert_close(recorded(Modality.TEXT, x_SD.clone(), packing, ()), (x_SD + 1.0)[::3].cos())
    assert recorded.works
