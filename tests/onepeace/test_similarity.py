"""Cosines, of whatever vectors come in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from later import Later

import onepeace
from onepeace.similarity import similarity, similarity_pairwise

util = Later("sentence_transformers.util")
RNG = np.random.default_rng(5)
A, B = RNG.normal(size=(4, 16)).astype(np.float32), RNG.normal(size=(3, 16)).astype(np.float32)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, list, lambda rows: list(torch.from_numpy(rows))])
def test_cosines_are_those_of_sentence_transformers(kind: Any) -> None:
    found = similarity(kind(A), kind(B))
    assert isinstance(found, torch.Tensor) == isinstance(kind(A)[0], torch.Tensor)
    np.testing.assert_allclose(np.asarray(found), util.cos_sim(A, B).numpy(), atol=1e-6)
    np.testing.assert_allclose(
        np.asarray(similarity_pairwise(kind(A[:3]), kind(B))), util.pairwise_cos_sim(A[:3], B).numpy(), atol=1e-6
    )


def test_an_array_and_a_tensor_go_together() -> None:
    found = similarity(A, torch.from_numpy(B))
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), similarity(A, B), atol=1e-6)
    assert similarity(A[0], B).shape == (1, 3)
    assert similarity_pairwise(A[0], B[0]).shape == (1,)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16, np.float16])
def test_half_precision_is_computed_in_float32(half: Any) -> None:
    rows = A.astype(half) if isinstance(half, type) else torch.from_numpy(A).to(half)
    exact = np.asarray(rows.float() if isinstance(rows, torch.Tensor) else rows.astype(np.float32))
    found = np.asarray(similarity(rows, rows))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, similarity(exact, exact), atol=1e-6)


@pytest.mark.parametrize("precision", ["int8", "binary"])
def test_quantised_vectors_are_refused_with_the_way_out(precision: str) -> None:
    unit = A / np.linalg.norm(A, axis=1, keepdims=True)
    digits = onepeace.quantize(unit, precision)
    for rows in (digits, torch.from_numpy(digits)):
        with pytest.raises(ValueError, match=r"onepeace\.dequantize"):
            similarity(rows, rows)
    back = onepeace.dequantize(digits, precision)
    if precision == "binary":  # 1 - 2 Hamming / D
        hamming = ((unit[:, None] > 0) != (unit[None] > 0)).sum(2)
        np.testing.assert_allclose(similarity(back, back), 1 - 2 * hamming / 16, atol=1e-6)
    else:
        np.testing.assert_allclose(similarity(back, back), unit @ unit.T, atol=0.02)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (A, A[:, :8], "one length, got 16 and 8"),
        (A, np.zeros((1, 16)), "zero or not finite"),
        (A, np.full((1, 16), np.nan), "zero or not finite"),
        (A[None], A, r"shape \(N, D\) or \(D,\), got \(1, 4, 16\)"),
    ],
)
def test_what_has_no_cosine_is_refused(a: np.ndarray, b: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        similarity(a, b)


def test_pairs_need_two_of_each() -> None:
    with pytest.raises(ValueError, match="got 4 and 3"):
        similarity_pairwise(A, B)
