"""Vectors that may be cut short: a model's space, rewritten so that the first numbers of a vector say most.

Such vectors usually come from a loss at several lengths (Kusupati et al., 2022, arXiv:2205.13147). Here nothing is
trained: the model's own principal axes come first, since of all directions they keep most of the vectors in few numbers
(Eckart and Young, 1936). D: embedding dimension, N: vectors, S: numbers of a
short vector, K = D - S: principal axes that are kept, W = K - S.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from onepeace.checkpoint import (
    CARD,
    WEIGHTS,
    ModelFolder,
    dequantise,
    must_be_free,
    open_folder,
    read_tensors,
    write_folder,
)

HEAD = "heads."  # what the names of the projections begin with


def principal_axes(groups: Iterable[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the orthogonal matrix (D, D) whose rows are the principal axes of vectors, the strongest first.

    Each group of vectors (N, D), one a modality, counts alike, however many it has. The mean stays in, since cosines
    are what is to be kept.

    >>> principal_axes([np.array([[0.0, 1.0], [0.1, -2.0]], np.float32)]).round(2).tolist()
    [[-0.04, 1.0], [1.0, 0.04]]

    Raises:
        ValueError: no group, or an empty one.
    """
    moments = []
    for rows_ND in groups:
        if not len(rows_ND):
            raise ValueError("principal axes need at least one vector of each modality")
        rows_ND = rows_ND.astype(np.float64)
        moments.append(rows_ND.T @ rows_ND / len(rows_ND))
    if not moments:
        raise ValueError("principal axes need at least one group of vectors")
    _, axes_DD = np.linalg.eigh(np.sum(moments, axis=0))
    axes_DD = axes_DD[:, ::-1].T  # eigenvalues come in ascending order
    # An axis has two directions: the one is taken that makes the result the same on every machine.
    largest_D = np.take_along_axis(axes_DD, np.abs(axes_DD).argmax(axis=1)[:, None], axis=1)
    out: NDArray[np.float64] = axes_DD * np.sign(largest_D)
    return out


def nested_frame(axes_DD: NDArray[np.float64], short: int, seed: int = 0) -> NDArray[np.float64]:
    """Return a matrix (D, D) that writes vectors with their S strongest principal axes in the first S numbers.

    Those behind say the same axes again, turned otherwise for every S numbers, and the weaker axes with them. So whole
    vectors keep the cosines of all but the S weakest axes, the first S numbers those of the S strongest, and the first
    S/2 and S/4 of as many. All numbers are about as large, without which single bits and small whole numbers say little
    (Gong and Lazebnik, 2011, ITQ).

    >>> frame_88 = nested_frame(np.eye(8), short=2)
    >>> (frame_88.T @ frame_88).round(6).diagonal().tolist()  # a projection to the first six axes
    [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    >>> (frame_88[:2].T @ frame_88[:2]).round(6).diagonal().tolist()
    [0.25, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]

    Raises:
        ValueError: S does not divide D, or is D itself.
    """
    dimension = len(axes_DD)
    if short < 1 or dimension % short or dimension == short:
        raise ValueError(f"the length of short vectors must divide {dimension} and be less, got {short}")
    rng = np.random.default_rng(seed)
    share, again = short / dimension, dimension // short - 1
    kept = dimension - short
    first_SS = np.zeros((short, short))
    for start, end in pairwise(sorted({0, short // 4, short // 2, short})):
        first_SS[start:end, start:end] = _rotation(end - start, rng)
    # Columns of length one, at right angles to each other: those of the strongest axes, then those of the weaker.
    strong_KS = np.concatenate([_rotation(short, rng) for _ in range(again)]) / np.sqrt(again)
    weak_KW = rng.normal(size=(kept, kept - short))
    weak_KW = np.linalg.qr(weak_KW - strong_KS @ (strong_KS.T @ weak_KW))[0]
    frame_DK = np.zeros((dimension, kept))
    frame_DK[:short, :short] = np.sqrt(share) * first_SS
    frame_DK[short:, :short] = np.sqrt(1 - share) * strong_KS
    frame_DK[short:, short:] = weak_KW
    frame_DD: NDArray[np.float64] = frame_DK @ axes_DD[:kept]
    return frame_DD


def _rotation(size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(rng.normal(size=(size, size)))[0]


def rewrite(folder: ModelFolder, frame_DD: NDArray[np.float64], out: Path, name: str) -> None:
    """Write a model whose vectors are those of `folder`, multiplied by a frame and at length one again.

    Its heads are stored as float32, all else as it was; model card and calibration come along.

    Raises:
        ValueError: the matrix is of another dimension, or changes cosines by more than leaving directions out.
        CheckpointError: `out` holds something, or the weights cannot be read.
    """
    must_be_free(out)
    dimension = folder.config.embedding_dim
    if frame_DD.shape != (dimension, dimension):
        raise ValueError(f"expected a frame of {dimension} x {dimension}, got shape {frame_DD.shape}")
    gram_DD = frame_DD.T @ frame_DD
    if not np.allclose(gram_DD @ gram_DD, gram_DD, atol=1e-6):
        raise ValueError("expected a tight frame, whose product with itself is a projection")
    stored = read_tensors(folder.path / WEIGHTS)
    heads = {key: tensor for key, tensor in stored.items() if key.startswith(HEAD)}
    tensors = {key: tensor for key, tensor in stored.items() if key not in heads}
    for key, tensor in dequantise(heads).items():  # a weight is (D, width), a bias (D,)
        tensors[key] = (torch.from_numpy(frame_DD) @ tensor.double()).float()
    calibrations, sources = folder.calibrations(), folder.calibration_sources()
    card = (folder.path / CARD).read_text(encoding="utf-8") if (folder.path / CARD).exists() else ""
    write_folder(out, name, folder.config, tensors, folder.tokenizer(), card)
    if calibrations:
        open_folder(out).write_calibrations(calibrations, sources)


def put_principal_axes_first(
    model: str | Path,
    manifests: Sequence[Path],
    out: Path,
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    short: int | None = None,
    rows: int = 1000,
    name: str | None = None,
    batch_size: int = 32,
) -> dict[str, int]:
    """Rewrite a model by the principal axes of a manifest's media and texts; return how many of each there were.

    `where` keeps rows whose columns have one of the given values; of each source, `rows` are drawn, always the same.
    `short` is S of `nested_frame`; None: a quarter of the dimension.

    Raises:
        ManifestError: a manifest cannot be read, or a modality of the model has no vector in it.
        CheckpointError: `out` holds something, or the model cannot be read.
        ValueError: `short` does not divide the dimension.
    """
    from encoders.modality import Modality
    from onepeace.evaluate.encoder import Encoder
    from onepeace.evaluate.rows import MEDIA, Row, read_inputs
    from onepeace.loading import load_embedder
    from onepeace.manifest import ManifestError

    must_be_free(out)
    embedder = load_embedder(model)
    length = embedder.dimension // 4 if short is None else short
    nested_frame(np.eye(embedder.dimension), length)  # refuses what cannot work before an hour has gone by
    sources: dict[str, list[Row]] = {}
    for row in read_inputs(manifests, where or {}).rows:
        sources.setdefault(row.source, []).append(row)
    chosen = [row for own in sources.values() for row in Random(0).sample(own, min(rows, len(own)))]  # noqa: S311
    encoder = Encoder(embedder, batch_size, None)
    groups: dict[str, NDArray[np.float32]] = {}
    for modality in MEDIA:
        if embedder.supports(modality):
            encoder.embed(modality, ((row.id, row.media[modality]) for row in chosen if modality in row.media))
            read = [row.media[modality] for row in chosen if modality in row.media and encoder.has(row.media[modality])]
            if read:
                groups[str(modality)] = encoder.media(read)
    if embedder.supports(Modality.TEXT):
        texts = sorted(encoder.readable_texts(text for row in chosen for text in row.texts_in(None)))
        if texts:
            groups[str(Modality.TEXT)] = encoder.texts(texts)
    if missing := [modality for modality in embedder.modalities if modality not in groups]:
        raise ManifestError(f"{embedder.name} reads {missing[0]} too, and no row of the manifests has any: add some")
    rewrite(embedder.folder, nested_frame(principal_axes(groups.values()), length), out, name or out.name)
    return {modality: len(rows_ND) for modality, rows_ND in groups.items()}
