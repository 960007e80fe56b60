"""A bank of texts as people search with: what search by a model orders its nearest items anew by.

B: texts of the bank, d: numbers of a vector that are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from onepeace.classify import labels_of_file
from onepeace.embedder import Embedder
from onepeace.evaluate.encoder import Encoder
from onepeace.evaluate.rows import read_inputs
from onepeace.manifest import ManifestError
from onepeace.reader import shortened

TEXTS = 5000  # of each source
FEW = 1000  # fewer order no better than none, or worse; 2,000 do as well as 5,000


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

    A source is what a row's column `source` says, or the name of its file; a `.txt` is one, with a text a line. Of each
    source up to `texts` are drawn, always the same, and each text counts once; `where` keeps rows whose columns have
    one of the given values. `dimensions` keeps the first numbers of each vector, for models whose vectors may be cut. A
    bank that is there is replaced.

    Raises:
        ManifestError: a manifest cannot be read, or has no texts that can be.
        ValueError: the model reads no text; a folder; or `texts` or `dimensions` is out of range.

    >>> from pathlib import Path
    >>> from shutil import copytree
    >>> _ = Path("queries.txt").write_text("a dog" + chr(10) + "rain on a roof")
    >>> mine = onepeace.load(copytree(model.folder.path, "my-model"))
    >>> write_query_bank(mine, [Path("queries.txt")], dimensions=128)
    {'queries': 2}
    """
    if "text" not in model.modalities:
        raise ValueError(f"{model.name} reads no text, and a query bank is made of texts")
    most = model.truncate_dim or model.dimension
    if dimensions is not None and not 1 <= dimensions <= most:
        raise ValueError(f"dimensions must be from 1 to {most}, got {dimensions}")
    if texts < 1:
        raise ValueError(f"texts must be at least 1, got {texts}")
    if folders := [path for path in manifests if Path(path).is_dir()]:
        raise ValueError(f"{folders[0]} is a folder: give manifests with a column text, texts or label, or .txt files")
    told: dict[str, set[str]] = {}
    lines = [path for path in map(Path, manifests) if path.suffix.lower() == ".txt"]
    tables = [path for path in map(Path, manifests) if path not in lines]
    for path in lines:
        told.setdefault(path.stem, set()).update(labels_of_file(path))
    for row in read_inputs(tables, where or {}).rows if tables else []:
        told.setdefault(row.source, set()).update(row.texts_in(None), [row.label] if row.label else [])
    drawn = {name: Random(0).sample(sorted(own), min(texts, len(own))) for name, own in told.items()}  # noqa: S311
    encoder = Encoder(model, batch_size, None)
    read = encoder.readable_texts(text for own in drawn.values() for text in own)
    if not read:
        names = ", ".join(map(str, manifests))
        raise ManifestError(f"{names}: no text that can be read; texts stand in a column text or texts, names in label")
    sources = dict.fromkeys(drawn, 0)
    taken: set[str] = set()
    for name, own in drawn.items():
        fresh = {text for text in own if text in read} - taken
        sources[name] = len(fresh)
        taken |= fresh
    model.folder.write_query_bank(shortened(encoder.texts(sorted(taken)), dimensions), sources)
    vars(model).pop("query_bank", None)  # what it read before
    return sources
