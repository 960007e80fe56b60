"""Measuring a model on manifests and class folders: this file wires rows, vectors, searches and classifiers.

A fold or a source is chosen with `where`; nothing chooses by what it finds.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from encoders.modality import Modality
from onepeace.embedder import Embedder
from onepeace.evaluate.classification import CLASS_RECALL, TOP_ACCURACY, Classification
from onepeace.evaluate.encoder import Encoder
from onepeace.evaluate.examples import Shown
from onepeace.evaluate.measurement import Measurement
from onepeace.evaluate.probe import linear_probe, neighbour_scores
from onepeace.evaluate.retrieval import Collection, Retrieval, retrieve_both_ways
from onepeace.evaluate.rows import MEDIA, Medium, Row, read_inputs, shares_labels
from onepeace.evaluate.search import Side
from onepeace.manifest import ManifestError
from onepeace.zero_shot import TEMPLATES, ZeroShotClassifier

log = logging.getLogger(__name__)

LABEL_LANGUAGE = "en"  # labels and the templates around them are taken to be English
ALL = "all"


@dataclass
class Evaluation:
    """All that was found.

    >>> evaluation = measure(model, [Path("manifest.csv")], show_progress_bar=False)
    >>> [result.task for result in evaluation.retrievals], evaluation.classifications
    (['text to image', 'image to text'], [])
    >>> len(evaluation.measurements), evaluation.failures
    (6, [])
    """

    model: str
    inputs: list[str]
    results: list[Retrieval | Classification] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)  # (what could not be used, why)
    notes: list[str] = field(default_factory=list)

    @property
    def measurements(self) -> list[Measurement]:
        """Return every figure, in the order of the results."""
        return [measurement for result in self.results for measurement in result.measurements]

    @property
    def retrievals(self) -> list[Retrieval]:
        """Return the results that are searches."""
        return [result for result in self.results if isinstance(result, Retrieval)]

    @property
    def classifications(self) -> list[Classification]:
        """Return the results that are classifications."""
        return [result for result in self.results if isinstance(result, Classification)]


def evaluate(
    model: Embedder,
    manifests: Sequence[Path],
    where: Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
    *,
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
) -> list[Measurement]:
    """Return the main figures, recall and accuracy, of each source in the manifests; `measure` finds all.

    >>> for figure in evaluate(model, [Path("manifest.csv")], show_progress_bar=False)[:1]:
    ...     print(figure.task, figure.metric, figure.candidates, figure.chance)
    text to image R@1 4 25.0
    """
    evaluation = measure(model, manifests, where, templates, batch_size=batch_size, show_progress_bar=show_progress_bar)
    for name, reason in evaluation.failures:
        log.warning("not read: %s: %s", name, reason)
    return [m for m in evaluation.measurements if m.metric not in (TOP_ACCURACY, CLASS_RECALL)]


def measure(
    model: Embedder,
    inputs: Sequence[Path],
    where: Mapping[str, Sequence[str]] | None = None,
    templates: Sequence[str] | None = None,
    *,
    languages: Sequence[str] = (),
    probe: Sequence[Path] = (),
    batch_size: int = 32,
    show_progress_bar: bool | None = None,
) -> Evaluation:
    """Measure each source of manifests and class folders, their rows taken together.

    A source whose rows share labels is classified zero-shot among all its labels, each in `templates`, and with rows of
    `probe` also by a linear probe and by nearest neighbours that are trained on these. One whose rows have texts of
    their own is searched both ways, every text a query, every text of a row a right answer for it. Sounds that have a
    picture are searched both ways with the pictures.

    Args:
        model: what is measured.
        inputs: manifests, and folders with one sub-folder a class.
        where: keeps rows whose columns have one of the given values, compared as text.
        templates: prompts around a label; a few by default.
        languages: measure texts in each of these, or in "all"; by default the English ones, or all of a row without.
        probe: manifests and class folders to train classifiers on; what is measured is left out of them.
        batch_size: inputs that go through the model together.
        show_progress_bar: None: where standard error is a terminal.

    Raises:
        ManifestError: an input cannot be read, an unknown column or language, an id of two rows, no row is left, or
            there is nothing to measure.

    >>> evaluation = measure(model, [Path("manifest.csv")], show_progress_bar=False)
    >>> [figure.metric for figure in evaluation.measurements[:3]]
    ['R@1', 'R@5', 'R@10']
    """
    read = read_inputs(inputs, where or {})
    evaluation = Evaluation(model.name, [str(path) for path in inputs], failures=read.failures)
    spoken = sorted({language for row in read.rows for language, _ in row.texts if language is not None})
    if unknown := [language for language in languages if language not in (*spoken, LABEL_LANGUAGE, ALL)]:
        raise ManifestError(
            f"no text is in the language {unknown[0]!r}; there are {', '.join(spoken) or 'none stated'}"
        )
    asked: Sequence[str | None] = spoken if ALL in languages else (languages or [None])
    encoder = Encoder(model, batch_size, show_progress_bar)
    run = _Run(encoder, evaluation, templates, asked)
    training = _training_rows(read.rows, probe, evaluation)
    for modality in MEDIA:
        if model.supports(modality):
            encoder.embed(modality, _media(modality, [*read.rows, *training]))
    for source, own in by_source(read.rows).items():
        run.source(source, own, [row for row in training if _same_source(row, own[0])])
    evaluation.failures += encoder.failures
    if not evaluation.results:
        why = "".join(f"; {name}: {reason}" for name, reason in evaluation.failures[:1])
        raise ManifestError(
            f"nothing to measure in {', '.join(evaluation.inputs)}: a manifest has a column image or audio, and "
            f"text, texts or label beside it{why}"
        )
    return evaluation


def _training_rows(measured: Sequence[Row], probe: Sequence[Path], evaluation: Evaluation) -> list[Row]:
    """Return the labelled rows of the probe's inputs whose source is measured, less the measured ones."""
    if not probe:
        return []
    read = read_inputs(probe, {})
    evaluation.failures += read.failures
    names = {row.id for row in measured}
    classed = [own[0] for own in by_source(measured).values() if any(_of_classes(modality, own) for modality in MEDIA)]
    wanted = [row for row in read.rows if row.label and any(_same_source(row, other) for other in classed)]
    kept = [row for row in wanted if row.id not in names]
    if len(kept) < len(wanted):
        evaluation.notes.append(f"{len(wanted) - len(kept)} rows are measured, so no probe is trained on them")
    if not kept:
        evaluation.notes.append(f"no probe: {', '.join(map(str, probe))} has no labelled rows of a measured source")
    return kept


def by_source(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows of each source, sources in the order of their names."""
    sources: dict[str, list[Row]] = {name: [] for name in sorted({row.source for row in rows})}
    for row in rows:
        sources[row.source].append(row)
    return sources


def _same_source(one: Row, other: Row) -> bool:
    """Return whether rows are of one source; what states no source goes with whatever states none either."""
    if one.states_source and other.states_source:
        return one.source == other.source
    return one.states_source == other.states_source


def of_modality(modality: Modality, rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a modality. A spoken description names its picture too; that is measured in its own row."""
    return [row for row in rows if modality in row.media and not (modality is Modality.IMAGE and row.image_ref)]


def _of_classes(modality: Modality, rows: Sequence[Row]) -> bool:
    return shares_labels(of_modality(modality, rows))


def _media(modality: Modality, rows: Sequence[Row]) -> Iterator[tuple[str, Medium]]:
    yield from ((row.id, row.media[modality]) for row in of_modality(modality, rows))
    if modality is Modality.IMAGE:
        yield from (row.picture for row in rows if row.picture)


@dataclass(frozen=True)
class _Run:
    encoder: Encoder
    evaluation: Evaluation
    templates: Sequence[str] | None
    languages: Sequence[str | None]

    def source(self, source: str, rows: Sequence[Row], training: Sequence[Row]) -> None:
        """Measure one source."""
        model, results = self.encoder.model, self.evaluation.results
        classes = 0
        for modality in MEDIA:
            members = of_modality(modality, rows)
            readable = self._readable(modality, members)
            classes = max(classes, len({row.label for row in readable}))
            if len(readable) < 2:
                continue
            if shares_labels(members):
                self._name_lost_classes(members, readable)
                if len({row.label for row in readable}) < 2:
                    continue
                if model.supports(Modality.TEXT):
                    results += self._zero_shot(source, modality, readable)
                results += self._probes(source, modality, readable, self._readable(modality, training))
            elif model.supports(Modality.TEXT):
                results += self._by_text(source, modality, readable)
        results += self._sounds_and_pictures(source, rows)
        if classes < 2 and all(row.in_class_folder for row in rows):
            raise ManifestError(f"{source}: fewer than two of its folders have a picture or sound that can be read")

    def _readable(self, modality: Modality, rows: Sequence[Row]) -> list[Row]:
        return [row for row in of_modality(modality, rows) if self.encoder.has(row.media[modality])]

    def _name_lost_classes(self, members: Sequence[Row], readable: Sequence[Row]) -> None:
        for label in sorted({str(row.label) for row in members} - {str(row.label) for row in readable}):
            self.evaluation.failures.append((label, "no row of this class can be read; it is left out"))

    def _side(self, modality: Modality, rows: Sequence[Row]) -> Side:
        return Side(self.encoder.media([row.media[modality] for row in rows]), np.arange(len(rows)))

    def _by_text(self, source: str, modality: Modality, rows: Sequence[Row]) -> Iterator[Retrieval]:
        """Search media by texts; a text counts for the row that it is of, and media without one are only found."""
        media = self._side(modality, rows)
        shown = [Shown(modality, row.caption, row.media[modality]) for row in rows]
        groups = [row.group for row in rows]
        for language in self.languages:
            readable = self.encoder.readable_texts(text for row in rows for text in row.texts_in(language))
            pairs = [(i, text) for i, row in enumerate(rows) for text in row.texts_in(language) if text in readable]
            if not pairs:
                continue
            texts = Side(self.encoder.texts([text for _, text in pairs]), np.array([i for i, _ in pairs]))
            shown_texts = [Shown(Modality.TEXT, text) for _, text in pairs]
            yield from retrieve_both_ways(
                source,
                Collection("text", texts, [groups[i] for i, _ in pairs], shown_texts),
                Collection(modality, media, groups, shown),
                language,
            )

    def _sounds_and_pictures(self, source: str, rows: Sequence[Row]) -> Iterator[Retrieval]:
        """Search pictures by the sounds that belong to them. Several sounds may share one picture."""
        sounds = [
            (row, *row.picture)
            for row in self._readable(Modality.AUDIO, rows)
            if row.picture and self.encoder.has(row.picture[1])
        ]
        pictures = {name: (row, medium) for row, name, medium in reversed(sounds)}  # id -> its first sound's row
        if len(pictures) < 2:
            return
        place = {name: i for i, name in enumerate(pictures)}
        own = [row for row, _, _ in sounds]
        heard = Side(self._side(Modality.AUDIO, own).vectors, np.array([place[name] for _, name, _ in sounds]))
        seen = Side(self.encoder.media([medium for _, medium in pictures.values()]), np.arange(len(pictures)))
        shown_sounds = [Shown(Modality.AUDIO, row.caption, row.media[Modality.AUDIO]) for row in own]
        shown_pictures = [Shown(Modality.IMAGE, row.caption, medium) for row, medium in pictures.values()]
        yield from retrieve_both_ways(
            source,
            Collection(Modality.AUDIO, heard, [row.group for row in own], shown_sounds),
            Collection(Modality.IMAGE, seen, [row.group for row, _ in pictures.values()], shown_pictures),
        )

    def _zero_shot(self, source: str, modality: Modality, rows: Sequence[Row]) -> Iterator[Classification]:
        """Classify rows by the names of their labels, in each language that has them."""
        for language in self.languages:
            names = label_names(rows, language)
            own = [row for row in rows if row.label in names]
            labels = sorted(set(names.values()))
            if len(labels) < 2:
                continue
            plain = TEMPLATES[modality] if language in (None, LABEL_LANGUAGE) else ("{}",)
            classifier = ZeroShotClassifier(self.encoder.model, labels, self.templates or plain)
            yield Classification(
                source,
                f"zero-shot {modality}",
                labels,
                classifier.probabilities(self._side(modality, own).vectors, modality),
                [names[str(row.label)] for row in own],
                [row.group for row in own],
                language,
            )

    def _probes(
        self, source: str, modality: Modality, rows: Sequence[Row], training: Sequence[Row]
    ) -> Iterator[Classification]:
        """Classify rows by what is learnt from training rows."""
        if not training:
            return
        labels = sorted({str(row.label) for row in training})
        if len(labels) < 2 or not set(labels) & {str(row.label) for row in rows}:
            what = "are all of one class" if len(labels) < 2 else "have none of its labels"
            self.evaluation.notes.append(f"no probe of {source}: the rows to train it on {what}")
            return
        number = {label: i for i, label in enumerate(labels)}
        known, media = self._side(modality, training).vectors, self._side(modality, rows).vectors
        numbers = np.array([number[str(row.label)] for row in training])
        truth, groups = [str(row.label) for row in rows], [row.group for row in rows]
        linear = linear_probe(known, numbers, [row.group for row in training], len(labels))
        votes = neighbour_scores(known, numbers, len(labels), media)
        yield Classification(source, f"linear probe {modality}", labels, linear.scores(media), truth, groups)
        yield Classification(source, f"kNN {modality}", labels, votes, truth, groups)


def label_names(rows: Sequence[Row], language: str | None) -> dict[str, str]:
    """Return what each label is called in a language: in English itself, else the commonest text of its rows.

    Of equally common texts the shortest is taken. A label whose rows have no text in the language is not there.
    """
    labels = {str(row.label) for row in rows}
    if language in (None, LABEL_LANGUAGE):
        return {label: label for label in labels}
    said: dict[str, Counter[str]] = {label: Counter() for label in labels}
    for row in rows:
        said[str(row.label)].update(row.texts_in(language))
    return {
        label: min(counts, key=lambda text: (-counts[text], len(text), text))
        for label, counts in said.items()
        if counts
    }
