"""A transformer for scikit-learn's pipelines. N: inputs, D: embedding dimension."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onepeace.embedder import BATCH, Embedder
from onepeace.inputs import Audio, Image, Text
from onepeace.integrations.loading import loaded

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError as error:
    raise ImportError("OnePeaceVectorizer needs scikit-learn: pip install 'onepeace[scikit-learn]'") from error

KINDS: dict[str, Any] = {"text": Text, "image": Image, "audio": Audio}


class OnePeaceVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Texts, pictures and sounds as rows (N, D) of features.

    Without `modality` an input is what `Embedder.encode` takes: a str is text, media are `onepeace.Image`, PIL images
    and so on, mixed as one likes. With "text", "image" or "audio" all inputs are of that kind, and a str is the path of
    a picture or sound. `model`, `device` and `dtype` are those of `onepeace.load`; copies share one loaded model, and a
    pickled one holds the name only. Nothing is learned: `fit` checks the parameters and loads the model.

    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from onepeace.integrations.sklearn import OnePeaceVectorizer
    >>> texts, labels = ["a dog", "a puppy", "a car", "a truck"], ["animal", "animal", "thing", "thing"]
    >>> pipeline = make_pipeline(OnePeaceVectorizer(), LogisticRegression()).fit(texts, labels)
    >>> pipeline.predict(["a hound", "a lorry"]).tolist()
    ['animal', 'thing']
    """

    def __init__(
        self,
        model: str = "onepeace-tiny",
        *,
        modality: str | None = None,
        batch_size: int = BATCH,
        device: str = "auto",
        dtype: str = "auto",
    ) -> None:
        self.model = model
        self.modality = modality
        self.batch_size = batch_size
        self.device = device
        self.dtype = dtype

    def fit(self, X: Any, y: Any = None) -> Self:
        """Check the parameters, load the model, and return this.

        Raises:
            CheckpointError: no such model.
            ValueError: a modality that the model does not read, or what `transform` refuses as no list of inputs.
        """
        _listed(X)
        self._loaded()
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return unit rows (N, D) for a list, array or column of N inputs.

        Raises:
            MediaError: an input that cannot be read.
            TypeError: an input of an unknown type.
            ValueError: one input rather than a list, or a matrix of several columns.
        """
        model = self._loaded()
        inputs = _listed(X)
        kind = None if self.modality is None else KINDS[self.modality]
        typed = inputs if kind is None else [one if isinstance(one, kind) else kind(one) for one in inputs]
        rows_ND: NDArray[np.float32] = model.encode(typed, batch_size=self.batch_size)
        return rows_ND

    def _loaded(self) -> Embedder:
        if self.modality is not None and self.modality not in KINDS:
            raise ValueError(f"modality must be None, {', '.join(KINDS)}, got {self.modality!r}")
        model = loaded(self.model, self.device, self.dtype)
        if self.modality is not None and not model.supports(self.modality):
            raise ValueError(f"{model.name} reads {', '.join(model.modalities)} only, got modality={self.modality!r}")
        return model

    @property
    def _n_features_out(self) -> int:
        return self._loaded().dimension

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _listed(X: Any) -> list[Any]:
    """Return N inputs as a list. A frame's or an array's only column is taken."""
    if isinstance(X, str | bytes) or not (hasattr(X, "__len__") or hasattr(X, "shape")):
        raise ValueError(f"expected a list of inputs, got one {type(X).__name__}: put it into a list")
    if hasattr(X, "toarray"):
        raise ValueError("expected a list of inputs, got a sparse matrix: numbers are not embedded")
    shape: tuple[int, ...] = getattr(X, "shape", None) or (len(X),)
    if len(shape) == 2 and shape[1] == 1:
        X = np.asarray(X, dtype=object)[:, 0]
    elif len(shape) != 1:
        raise ValueError(f"expected a list of inputs or one column of them, got shape {tuple(shape)}")
    return [one.item() if isinstance(one, np.str_) else one for one in X]
