"""A model that MTEB measures: texts, pictures, sounds, and items that hold several of them. D: embedding dimension."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from onepeace.embedder import BATCH, CHUNK, Embedder
from onepeace.inputs import Audio, Compose, Image, Text
from onepeace.loading import load_embedder
from onepeace.model import OnePeace

try:
    import datasets
    from mteb.models import ModelMeta
    from mteb.models.abs_encoder import AbsEncoder
except ImportError as error:
    raise ImportError(f"measuring with MTEB needs mteb: pip install 'onepeace[mteb]' ({error})") from error

if TYPE_CHECKING:
    from mteb import TaskMetadata
    from mteb.types import BatchedInput, PromptType

WRAPPERS: dict[str, Any] = {"text": Text, "image": Image, "audio": Audio}
UNREAD = "video"


class OnePeaceEncoder(AbsEncoder):
    """A loaded model as MTEB's encoder.

    `model` is a name or folder as `onepeace.load` takes it, or a model that is loaded. An item that holds several of
    text, picture and sound becomes one vector, as `Compose` makes it; an empty text beside others is left out. Pictures
    and sounds are decoded here and not by `datasets`, so that neither torchcodec nor FFmpeg is needed, sounds of any
    rate and length work, and long ones are cut into windows whose vectors are averaged.

    >>> import mteb
    >>> from mteb.mocks import MockVisualSTSTask
    >>> from onepeace.integrations.mteb import OnePeaceEncoder
    >>> encoder = OnePeaceEncoder("onepeace-tiny")
    >>> encoder.mteb_model_meta.modalities
    ['text', 'image', 'audio']
    >>> results = mteb.evaluate(encoder, MockVisualSTSTask(), cache=None, show_progress_bar=False)
    >>> len(results.task_results)
    1
    """

    def __init__(
        self,
        model: str | Embedder = "onepeace-tiny",
        revision: str | None = None,
        *,
        device: str | None = None,
        **options: Any,
    ) -> None:
        """Load the model; `options` go to `onepeace.load`.

        Raises:
            CheckpointError: no such model.
            ValueError: a `revision` that is not the model's fingerprint.
        """
        self.model = model if isinstance(model, Embedder) else load_embedder(model, device=device or "auto", **options)
        if revision not in (None, self.model.fingerprint):
            raise ValueError(
                f"revision is {revision!r}, and {self.model.name} is {self.model.fingerprint!r}: leave it out"
            )
        self.mteb_model_meta = _meta(self.model)

    def encode(
        self,
        inputs: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> NDArray[np.float32]:
        """Return unit rows (N, D) for the N items of a data loader's dataset, in their order.

        `batch_size`, `show_progress_bar` and `precision` are those of `Embedder.encode`. Queries and documents are
        embedded alike, so prompts and instructions count only where MTEB has put them into the text itself.

        Raises:
            MediaError: an item that cannot be read.
            ValueError: an item without text, picture and sound, or with a video.
        """
        dataset = _undecoded(inputs.dataset)
        options = {name: kwargs[name] for name in ("show_progress_bar", "precision") if name in kwargs}
        batch_size = kwargs.get("batch_size", inputs.batch_size or BATCH)
        rows: Any = DataLoader(dataset, batch_size=CHUNK * batch_size, collate_fn=list)
        parts = [self.model.encode([_input(row) for row in some], batch_size=batch_size, **options) for some in rows]
        return np.concatenate([np.empty((0, self.model.dimension), np.float32), *parts])


def _undecoded(dataset: Any) -> Any:
    """Leave pictures and sounds as the bytes or paths that they are stored as."""
    for name, feature in (getattr(dataset, "features", None) or {}).items():
        if name in WRAPPERS and isinstance(feature, datasets.Audio | datasets.Image):
            dataset = dataset.cast_column(name, type(feature)(decode=False))
    return dataset


def _input(row: Mapping[str, Any]) -> Any:
    """Return an item as `encode` takes it."""
    if row.get(UNREAD) is not None:
        raise ValueError(f"an item holds a video, and onepeace reads {', '.join(WRAPPERS)} only")
    held = {name: row[name] for name in WRAPPERS if row.get(name) is not None}
    if len(held) > 1 and held.get("text") == "":
        del held["text"]
    if not held:
        raise ValueError(f"an item holds none of {', '.join(WRAPPERS)}, only {', '.join(row) or 'nothing'}")
    parts = [WRAPPERS[name](value) for name, value in held.items()]
    return parts[0] if len(parts) == 1 else Compose(*parts)


def _meta(model: Embedder) -> ModelMeta:
    """What MTEB wants to know; the fingerprint is the revision, so that cached results are of these weights."""
    with torch.device("meta"):  # counted without being loaded again
        parameters = sum(weight.numel() for weight in OnePeace(model.folder.config).parameters())
    return ModelMeta(
        loader=None,
        name=f"onepeace/{model.name}",
        revision=model.fingerprint,
        release_date=None,
        languages=None,
        n_parameters=parameters,
        memory_usage_mb=None,
        max_tokens=None,
        embed_dim=model.dimension,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name="cosine",
        use_instructions=False,
        training_datasets=None,
        modalities=list(model.modalities),
    )
