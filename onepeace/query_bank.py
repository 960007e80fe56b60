"""A bank of texts as people search with: what search by a model orders its nearest items anew by.

B: texts of the bank, d: numbers of a vector that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from onepeace.embedder import Embedder
from onepeace.evaluate.encoder import Encoder
from onepeace.evaluate.rows import read_inputs
from onepeace.manifest import ManifestError
from onepeace.reader import shortened

TEXTS = 1500  # of each source: more find no more


def write_query_bank(
    model: Embedder,
    manifests: Sequence[Path],
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    texts: int = TEXTS,
    dimensions: int | None = None,
    batch_size: int = 32,
) -> dict[str, int]:
    """Embed texts and labels of manifests and put them into the model's folder; return how many are from each source.

    Of each source up to `texts` are drawn, always the same; `where` keeps rows whose columns have one of the given
    values. `dimensions` keeps the first numbers of each vector, for models whose vectors may be cut.

    Raises:
        ManifestError: a manifest cannot be read, or no row has a text that can be.
        ValueError: the model reads no text; or `dimensions` is not from 1 to the model's.

    >>> import json
    >>> from pathlib import Path
    >>> from shutil import copytree
    >>> rows = [{"image": "dog.jpg", "text": "a dog"}, {"image": "dog.jpg", "text": "a pet", "label": "dog"}]
    >>> _ = Path("photos.jsonl").write_text("".join(json.dumps(row) + chr(10) for row in rows))
    >>> mine = onepeace.load(copytree(model.folder.path, "my-model"))
    >>> write_query_bank(mine, [Path("photos.jsonl")], dimensions=128)
    {'photos': 3}
    """
    if "text" not in model.modalities:
        raise ValueError(f"{model.name} reads no text, and a query bank is made of texts")
    if dimensions is not None and not 1 <= dimensions <= model.dimension:
        raise ValueError(f"dimensions must be from 1 to {model.dimension}, got {dimensions}")
    told: dict[str, set[str]] = {}
    for row in read_inputs(manifests, where or {}).rows:
        told.setdefault(row.source, set()).update(row.texts_in(None), [row.label] if row.label else [])
    drawn = {name: Random(0).sample(sorted(own), min(texts, len(own))) for name, own in told.items()}  # noqa: S311
    encoder = Encoder(model, batch_size, None)
    read = encoder.readable_texts(text for own in drawn.values() for text in own)
    if not read:
        raise ManifestError("no row of the manifests has a text that can be read")
    sources = dict.fromkeys(drawn, 0)
    taken: set[str] = set()
    for name, own in drawn.items():
        fresh = {text for text in own if text in read} - taken
        sources[name] = len(fresh)
        taken |= fresh
    model.folder.write_query_bank(shortened(encoder.texts(sorted(taken)), dimensions), sources)
    return sources
