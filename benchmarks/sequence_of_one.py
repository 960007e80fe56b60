"""Whether a sequence of one item is found as the item by itself is, and what the tower answers of it.

    python benchmarks/sequence_of_one.py ../shared/data

Flickr8k's val and test pictures, none of which trained: each by itself and as a sequence of one, searched by captions
(R@1) and the other way round. Then 200 of the pictures are asked, each as an album of one, by three texts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import onepeace
from onepeace.manifest import Shards, read_manifest
from onepeace.sequences import Segment, SequenceEmbedding

ASKED = 200
QUESTIONS = ("what is in item 1?", "In item 1, what is there?")  # and a caption of the picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the data pack")
    parser.add_argument("--model", default="onepeace-tiny")
    asked = parser.parse_args()
    model, shards = onepeace.load_embedder(asked.model), Shards(asked.data)
    rows = [
        row
        for split in ("val", "test")
        for row in read_manifest(asked.data / f"manifest-{split}.parquet")
        if row["source"] == "flickr8k"
    ]
    pictures = [onepeace.Image(shards.read(row["image"])) for row in rows]
    said = [(place, text["text"]) for place, row in enumerate(rows) for text in row["texts"] if text["lang"] == "en"]
    own_C, words_CD = np.array([place for place, _ in said]), model.encode([text for _, text in said])
    alone_ND = model.encode(pictures)
    as_one_ND = np.stack([model.encode_sequence(onepeace.Sequence([picture])).vector for picture in pictures])
    cosines_N = (alone_ND * as_one_ND).sum(axis=1)
    print(f"{len(rows)} pictures, {len(said)} captions; cosine at least {cosines_N.min():.7f}")
    for name, rows_ND in (("by themselves", alone_ND), ("sequences of one", as_one_ND)):
        cosines_CN = words_CD @ rows_ND.T
        by_text = 100 * np.mean(cosines_CN.argmax(axis=1) == own_C)
        by_picture = 100 * np.mean(own_C[cosines_CN.argmax(axis=0)] == np.arange(len(rows)))
        print(f"{name}: R@1 {by_text:.2f} by captions, {by_picture:.2f} by pictures")
    answered = []
    for place in np.linspace(0, len(rows) - 1, ASKED).astype(int):
        album = SequenceEmbedding([Segment(1, "image", alone_ND[place])])
        texts = [next(text for at, text in said if at == place), *QUESTIONS]
        answered += [float(answer.vector @ alone_ND[place]) for answer in model.ask(texts, album)]
    print(f"{len(answered)} answers: cosine with the item {np.mean(answered):.5f}, at least {min(answered):.5f}")


if __name__ == "__main__":
    main()
