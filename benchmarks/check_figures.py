"""Compute the figures that `onepeace check` compares onepeace-tiny's vectors with; after every change of its weights.

Run: python benchmarks/check_figures.py
"""

from __future__ import annotations

import onepeace
from onepeace.check.figures import PATH, Figures
from retrieval.check import gallery_samples


def main() -> None:
    figures = Figures.of(onepeace.load(dtype="float32", device="cpu"), gallery_samples())
    figures.write()
    print(f"{PATH}: {', '.join(figures.vectors)} of {figures.model}, fingerprint {figures.fingerprint}")


if __name__ == "__main__":
    main()
