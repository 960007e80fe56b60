"""scikit-learn's own checks as far as they apply, and the vectorizer in pipelines and searches."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from random_models import write_random_model
from scipy.sparse import issparse
from sklearn.base import clone
from sklearn.exceptions import SkipTestWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.utils import estimator_checks

import onepeace
from onepeace.integrations.loading import loaded
from onepeace.integrations.sklearn import OnePeaceVectorizer
from retrieval.gallery import GALLERY

PICTURES = [
    GALLERY / "pictures" / f"{name}.webp"
    for name in ("face-tabby-cat", "head-lion-orange", "red-apple", "red-cherry-stem")
]
BARK = GALLERY / "sounds" / "dog-barking-again.ogg"


@pytest.fixture(scope="module")
def shipped() -> onepeace.Embedder:
    return loaded("onepeace-tiny", dtype="float32")


@pytest.fixture
def vectorizer(shipped: onepeace.Embedder) -> OnePeaceVectorizer:
    return OnePeaceVectorizer(dtype="float32")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_random_model(tmp_path_factory.mktemp("model") / "small", "official"))


class OfNumbers(OnePeaceVectorizer):
    """Writes rows of numbers as texts, so that scikit-learn's checks, which know matrices only, can feed it."""

    def fit(self, X, y=None):
        return super().fit(_written(X), y)

    def transform(self, X):
        return super().transform(_written(X))

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.no_validation = True
        return tags


def _written(X):
    if issparse(X):
        return X
    return [" ".join(np.array(["dog", "cat", "rain"])[np.asarray(row, float).astype(int) % 3]) for row in X]


@pytest.mark.parametrize(
    "check",
    list(estimator_checks.estimator_checks_generator(OfNumbers())),
    ids=lambda pair: estimator_checks._check_name(pair[1]),
)
def test_the_checks_of_scikit_learn(check, small: str) -> None:
    _, run = check
    run(OfNumbers(small, dtype="float32"))


def test_by_its_own_tags_it_takes_no_matrices() -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        checks = [
            estimator_checks._check_name(check)
            for _, check in estimator_checks.estimator_checks_generator(OnePeaceVectorizer())
        ]
    assert checks == ["check_estimator_cloneable"]
    assert [warning.category for warning in told] == [SkipTestWarning]


def test_rows_are_those_of_encode(vectorizer: OnePeaceVectorizer, shipped: onepeace.Embedder) -> None:
    texts = ["a cat", "a dog", "red-apple.webp"]
    expected = shipped.encode(texts)
    for form in (texts, tuple(texts), np.array(texts), np.array(texts, dtype=object)[:, None]):
        np.testing.assert_allclose(vectorizer.fit_transform(form), expected, atol=1e-6)
    pictures = shipped.encode_images(PICTURES)
    by_path = OnePeaceVectorizer(modality="image", dtype="float32")
    np.testing.assert_allclose(by_path.transform([str(path) for path in PICTURES]), pictures, atol=1e-6)
    np.testing.assert_allclose(by_path.transform(PICTURES), pictures, atol=1e-6)
    opened = [PIL.Image.open(path) for path in PICTURES]
    np.testing.assert_allclose(vectorizer.transform(opened), pictures, atol=1e-6)
    by_sound = vectorizer.set_params(modality="audio").transform([str(BARK)])
    np.testing.assert_allclose(by_sound, shipped.encode([onepeace.Audio(BARK)]), atol=1e-6)


def test_a_column_of_a_frame(vectorizer: OnePeaceVectorizer, shipped: onepeace.Embedder) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"caption": ["a cat", "a dog"]}, index=[7, 3])
    expected = shipped.encode(["a cat", "a dog"])
    np.testing.assert_allclose(vectorizer.transform(frame[["caption"]]), expected, atol=1e-6)
    named = vectorizer.set_output(transform="pandas").fit_transform(frame["caption"])
    np.testing.assert_allclose(named.to_numpy(), expected, atol=1e-6)
    assert named.index.tolist() == [7, 3]
    assert named.columns.tolist() == vectorizer.get_feature_names_out().tolist()


def test_names_of_features(vectorizer: OnePeaceVectorizer) -> None:
    names = vectorizer.get_feature_names_out()
    assert len(names) == 512
    assert names[-1] == "onepeacevectorizer511"


def test_copies_keep_parameters_and_share_the_model(vectorizer: OnePeaceVectorizer) -> None:
    vectorizer.set_params(batch_size=3, modality="image")
    for copy in (clone(vectorizer), pickle.loads(pickle.dumps(vectorizer.fit([])))):
        assert copy.get_params() == vectorizer.get_params()
        assert copy._loaded() is vectorizer._loaded()
    assert len(pickle.dumps(vectorizer)) < 1_000


TEXTS = ["a dog", "a puppy", "a cat", "a horse", "a car", "a truck", "a train", "a bus"]
LABELS = ["animal"] * 4 + ["vehicle"] * 4


def test_a_search_over_its_parameters_in_a_pipeline(vectorizer: OnePeaceVectorizer) -> None:
    pipeline = Pipeline([("embed", vectorizer), ("classify", LogisticRegression())])
    grid = {"embed__batch_size": [2, 8], "classify__C": [1.0, 10.0]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TEXTS, LABELS)
    assert search.predict(["a hound", "a lorry"]).tolist() == ["animal", "vehicle"]
    scores = search.cv_results_["mean_test_score"].reshape(2, 2)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])  # no vector depends on the batch


def test_it_learns_from_words_and_sorts_pictures(vectorizer: OnePeaceVectorizer, shipped: onepeace.Embedder) -> None:
    kinds = ["a cat", "a lion", "an apple", "a cherry"]
    pipeline = make_pipeline(vectorizer, LogisticRegression(C=100.0)).fit(kinds, kinds)
    apart = LogisticRegression(C=100.0).fit(shipped.encode(kinds), kinds)
    pictures = [onepeace.Image(path) for path in PICTURES]
    np.testing.assert_allclose(
        pipeline.predict_proba(pictures), apart.predict_proba(shipped.encode_images(PICTURES)), atol=1e-4
    )


def test_mistakes_are_named(vectorizer: OnePeaceVectorizer) -> None:
    with pytest.raises(ValueError, match="put it into a list"):
        vectorizer.transform("a cat")
    with pytest.raises(ValueError, match=r"got shape \(2, 3\)"):
        vectorizer.transform(np.zeros((2, 3)))
    with pytest.raises(TypeError, match="cannot embed int"):
        vectorizer.transform([1, 2])
    with pytest.raises(ValueError, match="modality must be None"):
        OnePeaceVectorizer(modality="picture").fit([])
    with pytest.raises(ValueError, match="no model 'onepiece'"):
        OnePeaceVectorizer("onepiece").fit([])
    with pytest.raises(onepeace.MediaError, match=r"none\.png"):
        OnePeaceVectorizer(modality="image", dtype="float32").transform([Path("none.png")])
