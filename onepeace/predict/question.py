"""What a task is asked: typed parts of one input, checked against what the task reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from encoders.media import Audio, Image, Text
from onepeace.inputs import Compose, listed, parts_of
from onepeace.model.task_head import TaskConfig

SECOND, CHOICES = "image2", "choices"  # the second picture of two; the texts to choose among
WRAPPERS: dict[str, type[Text | Image | Audio]] = {"text": Text, "image": Image, SECOND: Image, "audio": Audio}


@dataclass(frozen=True)
class Question:
    """One input of a task, in parts; nothing is opened yet."""

    parts: Mapping[str, Text | Image | Audio] = field(default_factory=dict)  # by their names in `WRAPPERS`
    choices: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is asked, or said, or asked for; empty where there is no text."""
        text = self.parts.get("text")
        return text.text if isinstance(text, Text) else ""

    @property
    def medium(self) -> Image | Audio | None:
        """The picture that boxes lie in, or the sound that spans lie in."""
        return next((part for part in self.parts.values() if isinstance(part, Image | Audio)), None)


def part_names(task: TaskConfig) -> list[str]:
    """Return the names of what a task reads.

    >>> part_names(TaskConfig(kind="classify", modalities=("text", "image"), outputs=2, pictures=2))
    ['text', 'image', 'image2']
    """
    second = [SECOND] if task.pictures == 2 else []
    return [*map(str, task.modalities), *second, *([CHOICES] if task.kind == "choose" else [])]


def together(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    >>> together(["text", "image", "image2"])
    'text, image and image2'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def example(task: TaskConfig) -> str:
    """Return how one input of a task is written.

    >>> example(TaskConfig(kind="ground", modalities=("text", "image"), outputs=4))
    '{"text": ..., "image": ...}'
    """
    return "{" + ", ".join(f'"{name}": ...' for name in part_names(task)) + "}"


def question(value: Any, task: TaskConfig, name: str, where: str) -> Question:
    """Return what one input asks: a dict of parts, or the bare input of a task that reads one modality.

    In a dict, a str is words under "text" and a path under "image", "image2" and "audio". `name` is the model's,
    `where` what messages call the input.

    Raises:
        TypeError: a part of another type.
        ValueError: a part is missing, or one that the task does not read.
    """
    reads = part_names(task)
    if isinstance(value, Mapping) and not {"array", "sampling_rate"} <= value.keys():
        return _of_parts(value, task, name, where)
    if isinstance(value, Compose):
        raise TypeError(f"{where}: a Compose is a mix for one vector: give its parts as {example(task)}")
    try:
        (part,) = parts_of(value)
    except TypeError as error:
        raise TypeError(f"{where}: {error}") from None
    if len(reads) > 1:
        raise ValueError(
            f"{where} is {part.modality} alone, and {name} reads {together(reads)} together: {example(task)}"
        )
    if [str(part.modality)] != reads:
        raise ValueError(f"{where} is {part.modality}, and {name} reads {reads[0]} only")
    source = part.source if isinstance(part.source, Image | Audio) else Text(part.source)
    return _not_empty(Question({reads[0]: source}), where)


def _of_parts(value: Mapping[str, Any], task: TaskConfig, name: str, where: str) -> Question:
    reads = part_names(task)
    told = f"and {name} reads {together(reads)}: {example(task)}"
    given = {str(key): part for key, part in value.items() if not _absent(part)}
    if unknown := [key for key in given if key not in reads]:
        raise ValueError(f"{where} has {unknown[0]}, {told}")
    optional = {"text"} if task.kind == "choose" else set()  # a choice may be all there is to read
    if missing := [key for key in reads if key not in given and key not in optional]:
        raise ValueError(f"{where} has no {together(missing)}, {told}")
    try:
        parts = {key: _wrapped(key, given[key]) for key in reads if key in given and key != CHOICES}
        choices = choices_of(given[CHOICES]) if CHOICES in given else ()
    except (TypeError, ValueError) as error:
        raise type(error)(f"{where}: {error}") from None
    return _not_empty(Question(parts, choices), where)


def _not_empty(asked: Question, where: str) -> Question:
    if "text" in asked.parts and not asked.text.strip():
        raise ValueError(f"{where} has an empty text")
    return asked


def choices_of(value: Any) -> tuple[str, ...]:
    """Return the texts to choose among.

    Raises:
        TypeError: no list of texts.
        ValueError: fewer than two, an empty one, or one twice.
    """
    if isinstance(value, str) or (not isinstance(value, Sequence) and not hasattr(value, "tolist")):
        raise TypeError(f"choices must be a list of texts, got {value!r}")
    texts = tuple(value.tolist() if hasattr(value, "tolist") else value)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"choices must be a list of texts, got {value!r}")
    if len(texts) < 2:
        raise ValueError(f"choices must be two or more, got {len(texts)}")
    if not all(text.strip() for text in texts) or len(set(texts)) < len(texts):
        raise ValueError("choices must be different texts, none of them empty")
    return texts


def _wrapped(key: str, part: Any) -> Text | Image | Audio:
    wrapper = WRAPPERS[key]
    if isinstance(part, Text | Image | Audio | Compose) and not isinstance(part, wrapper):
        raise TypeError(f"{key} is {part!r}, wanted {wrapper.__name__}")
    if wrapper is Text and not isinstance(part, str | Text):
        raise TypeError(f"text must be a str, got {type(part).__name__}")
    return part if isinstance(part, wrapper) else wrapper(part)


def _absent(part: Any) -> bool:
    """Return whether a cell of a table is empty: None, or pandas's NaN."""
    return part is None or (isinstance(part, float) and part != part)


def rows_of(columns: Mapping[str, Any], task: TaskConfig, name: str) -> list[dict[str, Any]]:
    """Return the rows of columns; a single value is that of every row.

    Raises:
        TypeError: a column that the task does not read.
        ValueError: columns of different lengths, or none.
    """
    reads = part_names(task)
    if unknown := [key for key in columns if key not in reads]:
        raise TypeError(f"no column {unknown[0]!r}: {name} reads {together(reads)}")
    lists: dict[str, list[Any]] = {}
    singles: dict[str, Any] = {}
    for key, column in columns.items():
        values, single = _listed_choices(column) if key == CHOICES else listed(column)
        if single:
            singles[key] = values[0]
        else:
            lists[key] = values
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{length} of {key}" for key, length in lengths.items())
        raise ValueError(f"columns must have one value for each input, got {told}")
    if not columns:
        raise ValueError(f"no input: {name} reads {together(reads)}")
    count = next(iter(lengths.values()), 1)
    return [singles | {key: values[i] for key, values in lists.items()} for i in range(count)]


def _listed_choices(column: Any) -> tuple[list[Any], bool]:
    """Return the choices of each row; texts alone are those of every row."""
    if isinstance(column, str):
        raise TypeError(f"choices must be a list of texts, got {column!r}")
    values, _ = listed(column)
    return ([values], True) if values and all(isinstance(value, str) for value in values) else (values, False)
