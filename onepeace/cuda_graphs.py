"""Small batches on a GPU: kernels that are recorded once and started together (CUDA graphs).

A batch of one or a few keeps a GPU busy for less time than Python takes to start its kernels one by one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from encoders.modality import Modality
from onepeace.model.packing import Group, Packing

ROWS = 8  # at most; more keep a GPU busy as they are
RECORDINGS = 16  # each holds the memory of its intermediate results
AGREEING = 0.999  # cosine of a recording's first result with the plain one

logger = logging.getLogger(__name__)
Blocks = Callable[[Modality, Tensor, Packing, Sequence[Tensor | None]], Tensor]


class RecordedBlocks:
    """The blocks of a prepared model, recorded for each small shape when it comes the first time.

    Where a recording cannot be made or gives something else, blocks run as they are from then on, and the log says so.
    """

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks
        self.works = True
        self._recordings: dict[tuple[Modality, Group], tuple[Any, Tensor, Tensor, Sequence[Tensor | None]]] = {}
        self._turn = threading.Lock()  # a recording has one place for its inputs

    def fits(self, packing: Packing) -> bool:
        """Return whether such a batch is worth a recording."""
        return self.works and len(packing.groups) == 1 and packing.rows <= ROWS

    def __call__(self, modality: Modality, x_SD: Tensor, packing: Packing, biases: Sequence[Tensor | None]) -> Tensor:
        """Return what the blocks return. Changes `x_SD`."""
        key = (modality, packing.groups[0])
        with self._turn:
            if self.works and key not in self._recordings and len(self._recordings) < RECORDINGS:
                try:
                    self._recordings[key] = self._recorded(modality, x_SD, packing, biases)
                except torch.OutOfMemoryError:
                    raise
                except RuntimeError as error:
                    self.works = False
                    self._recordings.clear()
                    logger.warning("CUDA graphs do not work here and are left out: %s", str(error).splitlines()[0])
            if key in self._recordings:
                graph, input_SD, output_BD, _ = self._recordings[key]
                input_SD.copy_(x_SD)
                graph.replay()
                return output_BD.clone()
        return self.blocks(modality, x_SD, packing, biases)

    def _recorded(
        self, modality: Modality, x_SD: Tensor, packing: Packing, biases: Sequence[Tensor | None]
    ) -> tuple[Any, Tensor, Tensor, Sequence[Tensor | None]]:
        """Return a graph, where its input goes and its output comes, and the biases, which must not be freed."""
        input_SD = x_SD.clone()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels choose how they run in their first calls, which must not be recorded
            for _ in range(3):
                expected_BD = self.blocks(modality, x_SD.clone(), packing, biases)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output_BD = self.blocks(modality, input_SD, packing, biases)
        input_SD.copy_(x_SD)
        graph.replay()
        cosine = float(F.cosine_similarity(output_BD.float(), expected_BD.float(), dim=-1).min())
        if not cosine > AGREEING:
            raise RuntimeError(f"a recording's result differs from the plain one: cosine {cosine:.4f}")
        return graph, input_SD, output_BD, biases
