"""A column of vectors for a dataset of Hugging Face's `datasets`. N: rows, D: embedding dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from onepeace.embedder import BATCH, CHUNK, Embedder
from onepeace.inputs import Audio, Compose, Image, Text
from onepeace.integrations.loading import loaded

try:
    import datasets
except ImportError as error:
    raise ImportError("embedding a dataset needs datasets: pip install 'onepeace[datasets]'") from error


class ColumnEmbedder:
    """Turns a batch of rows into vectors: a callable for `dataset.map(..., batched=True)`, streamed datasets included.

    `text`, `image` and `audio` name columns; of several the vector of a row is that of all it holds, as `Compose`
    makes it. Cells may be decoded or not: PIL images, torchcodec's decoders, `{"array", "sampling_rate"}`,
    `{"bytes", "path"}`, paths.

    It is pickled as the model's folder and fingerprint, never with its weights: so `datasets` knows the results of the
    same model again and none of another, and every process of `num_proc` loads its own.

    >>> import datasets
    >>> from onepeace.integrations.datasets import ColumnEmbedder
    >>> rows = datasets.Dataset.from_dict({"caption": ["a dog", "a cat"]})
    >>> rows = rows.map(ColumnEmbedder("onepeace-tiny", text="caption"), batched=True)
    >>> len(rows[0]["vector"])
    512
    """

    def __init__(
        self,
        model: str | Embedder,
        *,
        text: str | None = None,
        image: str | None = None,
        audio: str | None = None,
        vector: str = "vector",
        batch_size: int = BATCH,
    ) -> None:
        """`model` is a name or folder as `onepeace.load` takes it, or a model that is loaded.

        Raises:
            CheckpointError: no such model.
            ValueError: no column is named.
        """
        kinds: list[tuple[str | None, Any]] = [(text, Text), (image, Image), (audio, Audio)]
        self.columns = {name: kind for name, kind in kinds if name is not None}
        if not self.columns:
            raise ValueError("name at least one column: text=..., image=... or audio=...")
        self.model = model if isinstance(model, Embedder) else loaded(model)
        self.vector = vector
        self.batch_size = batch_size

    def __call__(self, batch: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Return {vector: unit rows (N, D)} for a batch of columns.

        Raises:
            MediaError: a cell that cannot be read.
            ValueError: a row that holds nothing, or a column that is not there.
        """
        if missing := [name for name in self.columns if name not in batch]:
            raise ValueError(f"no column {missing[0]!r}; the columns are {', '.join(batch)}")
        cells = [batch[name] for name in self.columns]
        inputs = [self._input(place, row) for place, row in enumerate(zip(*cells, strict=True))]
        return {self.vector: self.model.encode(inputs, batch_size=self.batch_size, show_progress_bar=False)}

    def _input(self, place: int, cells: tuple[Any, ...]) -> Any:
        kinds = self.columns.values()
        parts = [kind(_source(cell)) for kind, cell in zip(kinds, cells, strict=True) if cell is not None]
        if not parts:
            raise ValueError(f"row {place} of a batch holds nothing in {', '.join(self.columns)}: filter it out first")
        return parts[0] if len(parts) == 1 else Compose(*parts)

    def __getstate__(self) -> dict[str, Any]:
        model, arithmetic = self.model.model, self.model.model.arithmetic
        dtype = "int8" if arithmetic.int8 else str(arithmetic.dtype).removeprefix("torch.")
        place = (str(self.model.folder.path), str(model.device), dtype, self.model.fingerprint)
        return {**self.__dict__, "model": place}

    def __setstate__(self, state: dict[str, Any]) -> None:
        *place, fingerprint = state["model"]
        self.__dict__.update(state, model=loaded(*place))
        if self.model.fingerprint != fingerprint:
            raise ValueError(f"{place[0]} is another model by now: {self.model.fingerprint}, not {fingerprint}")


def embed_columns(
    dataset: datasets.Dataset,
    model: str | Embedder,
    *,
    text: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    vector: str = "vector",
    batch_size: int = BATCH,
    **options: Any,
) -> datasets.Dataset:
    """Return `dataset` with a column of vectors: D float32 each, of length one. Columns are those of `ColumnEmbedder`.

    Only vectors are written to the cache, beside the dataset. Media are read as they are stored and decoded by
    onepeace, which needs neither torchcodec nor FFmpeg. `options` go to `dataset.map`.

    Raises:
        MediaError: a cell that cannot be read.
        ValueError: no or unknown columns, a row that holds nothing, or a name for the vectors that is taken.
        TypeError: not a `Dataset`; map a `ColumnEmbedder` over a streamed one, and call this for each split of a dict.

    >>> import datasets
    >>> from onepeace.integrations.datasets import embed_columns
    >>> rows = datasets.Dataset.from_dict({"caption": ["a dog", "a cat"]})
    >>> rows = embed_columns(rows, "onepeace-tiny", text="caption")
    >>> rows.features["vector"]
    List(Value('float32'), length=512)
    """
    if not isinstance(dataset, datasets.Dataset):
        raise TypeError(
            f"expected a datasets.Dataset, got {type(dataset).__name__}: give one split, or map ColumnEmbedder"
        )
    embed = ColumnEmbedder(model, text=text, image=image, audio=audio, vector=vector, batch_size=batch_size)
    if missing := [name for name in embed.columns if name not in dataset.column_names]:
        raise ValueError(f"no column {missing[0]!r}; the columns are {', '.join(dataset.column_names)}")
    if vector in dataset.column_names:
        raise ValueError(f"there is a column {vector!r} already: say vector='another name'")
    needed = dataset.select_columns(list(embed.columns)).with_format(None)
    for name in embed.columns:
        if isinstance(feature := needed.features[name], datasets.Audio | datasets.Image):
            needed = needed.cast_column(name, type(feature)(decode=False))
    vectors = needed.map(
        embed,
        batched=True,
        batch_size=CHUNK * batch_size,
        remove_columns=needed.column_names,
        features=datasets.Features({vector: datasets.List(datasets.Value("float32"), length=embed.model.dimension)}),
        **{"desc": "Embedding", **options},
    )
    return datasets.concatenate_datasets([dataset, vectors], axis=1)


def _source(cell: Any) -> Any:
    """Return a cell as `Image` and `Audio` take it. A decoder of torchcodec gives its samples (C, N)."""
    if hasattr(cell, "get_all_samples"):
        samples = cell.get_all_samples()
        return {"array": samples.data.numpy(), "sampling_rate": samples.sample_rate}
    return cell
