"""The Python face of a task's model: questions -> answers."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from onepeace.ahead import chunks
from onepeace.checkpoint import ModelFolder
from onepeace.inputs import MediaError, listed
from onepeace.model.task_head import TaskConfig
from onepeace.model_card import task_card_html
from onepeace.predict.answering import FITS, Asked, answer, labels_of
from onepeace.predict.answers import Answer
from onepeace.predict.forward import TaskForward
from onepeace.predict.preparing import Numbers, Prepared, Row, TaskReader
from onepeace.predict.question import Question, part_names, question, rows_of, together
from onepeace.progress import progress_bar

BATCH = 32  # inputs in a forward, unless told
CHUNK = 4  # batches that are sorted by length together
SHORT = 256  # inputs; below this nobody waits long enough to want a progress bar
VERBS = {
    "classify": "says which of {labels} labels fits",
    "tag": "says which of {labels} labels fit",
    "choose": "chooses among texts",
    "ground": "finds the box that a text speaks of",
    "detect": "finds all boxes that a text fits",
    "locate": "finds when a sound is heard",
}


class TaskPredictor:
    """Answers what a model was trained to answer: labels, choices, boxes in pictures, moments in sounds.

    An answer never depends on what else is asked with it. `onepeace.load` and `onepeace.load_task` give one for the
    folder of a task's model. Which answers come depends on the task:

    | kind | answers |
    | --- | --- |
    | `classify` | `Prediction`: the one right label |
    | `tag` | `Tags`: any number of labels, and the likeliest |
    | `choose` | `Choice`: one of the given texts |
    | `ground` | `Grounding`: the box that a text speaks of |
    | `detect` | `Detection`: all boxes that a text fits, or that it is not present |
    | `locate` | `Moments`: when it is heard, or that it is not present |

    >>> from onepeace.checkpoint import build_model, write_folder
    >>> from onepeace.model.task_head import TaskConfig
    >>> task = TaskConfig(kind="classify", modalities=("image",), outputs=2, labels=("cat", "dog"))
    >>> fresh = build_model(model.folder.config, task)  # nothing is learnt yet
    >>> write_folder(Path("my-classes"), "my-classes", model.folder.config, fresh.state_dict(), task=task)
    >>> predictor = onepeace.load_task("my-classes")
    >>> predictor
    TaskPredictor('my-classes', says which of 2 labels fits, reads image)
    >>> predictor.labels, predictor.reads, predictor.does
    (('cat', 'dog'), ('image',), 'says which of 2 labels fits')
    >>> predictor.model.training, str(predictor.device)
    (False, 'cpu')
    >>> predictor.probabilities([onepeace.Image("cat.jpg")]).shape
    (1, 2)
    >>> predictor.predict([onepeace.Image("cat.jpg")])[0].label in predictor.labels
    True

    A task of several modalities takes them together, as dicts or as columns:

    >>> task = TaskConfig(kind="ground", modalities=("text", "image"), outputs=4)
    >>> fresh, words = build_model(model.folder.config, task), model.folder.tokenizer()
    >>> write_folder(Path("my-finder"), "my-finder", model.folder.config, fresh.state_dict(), words, task=task)
    >>> finder = onepeace.load_task("my-finder")
    >>> finder.predict([{"image": "cat.jpg", "text": "the cat"}])[0].size
    (256, 170)
    >>> [found.text for found in finder.predict(image=["cat.jpg", "dog.jpg"], text="an animal")]
    ['an animal', 'an animal']
    >>> finder.ask(image="cat.jpg", text="its nose").save("nose.png").name
    'nose.png'

    Raises:
        CheckpointError: a folder without a task, or one that reads text and has no vocabulary.
    """

    def __init__(self, folder: ModelFolder, device: torch.device) -> None:
        self.reader = TaskReader(folder)
        self._forward = TaskForward(folder.task_model(), self.reader.reader.preprocessors, device)
        self.folder, self.name, self.device = folder, folder.name, device
        self.task: TaskConfig = self.reader.task

    def __repr__(self) -> str:
        return f"TaskPredictor({self.name!r}, {self.does}, reads {together(self.reads)})"

    def _repr_html_(self) -> str:
        return task_card_html(self)

    @property
    def does(self) -> str:
        """What the task is, in a few words."""
        return VERBS[self.task.kind].format(labels=self.task.outputs)

    @property
    def model(self) -> torch.nn.Module:
        """The model on tensors."""
        return self._forward.model

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, their numbers where they have no names; empty where no labels are answered."""
        return labels_of(self.task)

    @property
    def reads(self) -> tuple[str, ...]:
        """The parts of one input, as `predict` names them: text, image, image2, audio, choices."""
        return tuple(part_names(self.task))

    def predict(
        self,
        inputs: Any = None,
        batch_size: int = BATCH,
        *,
        threshold: float = FITS,
        errors: str = "raise",
        show_progress_bar: bool | None = None,
        **columns: Any,
    ) -> list[Any]:
        """Return one answer an input, in their order.

        `inputs` is a list of dicts: `{"image": ..., "text": ...}`, where a str under "image", "image2" and "audio" is a
        path and one under "text" is words; whatever `onepeace.Image` and `Audio` take will do. A task that reads one
        modality takes its inputs bare, too. Or give columns, `image=[...], text=[...]`; a single value is that of every
        input, and a pandas table is `**table[["image", "text"]]`.

        `threshold` is the probability from which a label of a task that tags fits, and a box or span counts.

        With `errors="return"`, the place of an input that cannot be answered holds its error, and the others are
        answered.

        Raises:
            MediaError: an input cannot be read.
            TypeError: an input of an unknown type, one input outside a list, or an unknown column.
            ValueError: a part is missing, or one that the task does not read.
        """
        if errors not in ("raise", "return"):
            raise ValueError(f"errors must be raise or return, got {errors!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}")
        questions = self._questions(inputs, columns, stop=errors == "raise")
        if show_progress_bar is None:  # a library does not write into the logs of a program unasked
            show_progress_bar = len(questions) > SHORT and sys.stderr.isatty()
        out: list[Answer | ValueError] = []
        with progress_bar(len(questions), "predicting", show_progress_bar) as advance:
            for answered in self._answers(questions, batch_size, threshold):
                if isinstance(answered, MediaError) and errors == "raise":
                    raise MediaError(f"input {len(out)}: {answered}" if len(questions) > 1 else str(answered))
                out.append(answered)
                advance(1)
        return out

    def ask(self, value: Any = None, *, threshold: float = FITS, **parts: Any) -> Any:
        """Return the answer about one input, given as one of `predict`'s or in parts: `ask(image=..., text=...)`.

        Raises what `predict` raises.
        """
        if (value is None) == (not parts):
            raise TypeError(f"ask takes one input, or its parts: {', '.join(self.reads)}")
        asked = question(parts if value is None else value, self.task, self.name, "the input")
        (answered,) = self._answers([asked], 1, threshold)
        if isinstance(answered, ValueError):
            raise answered
        return answered

    def probabilities(self, inputs: Any = None, batch_size: int = BATCH, **columns: Any) -> NDArray[np.float32]:
        """Return (inputs, labels): each row adds up to one, or in a task that tags each number stands for itself.

        Takes what `predict` takes. A long sound's is the mean over its windows.

        Raises:
            MediaError: an input cannot be read.
            TypeError: an input of an unknown type.
            ValueError: an input of other modalities, or a task that answers with no labels.
        """
        if not self.labels:
            raise ValueError(f"{self.name} {self.does}, so there are no labels: use predict")
        told = self.predict(inputs, batch_size, **columns)
        rows = [[one.probabilities[label] for label in self.labels] for one in told]
        return np.array(rows, np.float32).reshape(len(rows), len(self.labels))

    def numbers(self, rows: Sequence[Row]) -> list[Numbers]:
        """Return what the model says of rows that a `TaskReader` prepared, before it becomes answers.

        >>> from onepeace.checkpoint import build_model, write_folder
        >>> from onepeace.model.task_head import TaskConfig
        >>> from onepeace.predict.question import Question
        >>> task = TaskConfig(kind="classify", modalities=("image",), outputs=3)
        >>> fresh = build_model(model.folder.config, task)
        >>> write_folder(Path("mine"), "mine", model.folder.config, fresh.state_dict(), task=task)
        >>> predictor = onepeace.load_task("mine")
        >>> prepared = predictor.reader.prepare(Question({"image": onepeace.Image("cat.jpg")}))
        >>> predictor.numbers(prepared.rows(task.choices))[0].shape
        (3,)
        """
        return self._forward(rows, BATCH)

    def _questions(self, inputs: Any, columns: dict[str, Any], stop: bool) -> list[Question | ValueError]:
        """Return what `predict` was given as questions; unless it is to stop, errors in the places of bad ones."""
        if (inputs is None) == (not columns):
            raise TypeError(f"predict takes a list of inputs, or columns: {', '.join(self.reads)}")
        if inputs is None:
            values = rows_of(columns, self.task, self.name)
        else:
            if hasattr(inputs, "columns") and len(self.reads) > 1:
                table = f"**table[{list(self.reads)}]"
                raise TypeError(f"a {type(inputs).__name__} is a table: give its columns, as in predict({table})")
            values, single = listed(inputs)
            if single:
                raise TypeError(f"predict takes a list of inputs, got {type(inputs).__name__}: ask takes one")
        out: list[Question | ValueError] = []
        for i, value in enumerate(values):
            try:
                out.append(question(value, self.task, self.name, f"input {i}"))
            except (TypeError, ValueError) as error:
                if stop:
                    raise
                out.append(ValueError(str(error)))
        return out

    def _answers(
        self, questions: Sequence[Question | ValueError], batch_size: int, threshold: float
    ) -> Iterator[Answer | ValueError]:
        """Yield the answers in order; what cannot be answered is its error."""
        reader = self.reader
        for chunk in chunks(questions, reader.prepared, CHUNK * batch_size, _nbytes):
            readable = [prepared for _, prepared in chunk if isinstance(prepared, Prepared)]
            numbers = iter(self._forward([row for one in readable for row in one.rows(self.task.choices)], batch_size))
            for asked, prepared in chunk:
                if isinstance(prepared, ValueError) or isinstance(asked, ValueError):
                    yield prepared if isinstance(prepared, ValueError) else asked  # type: ignore[misc]
                else:
                    whole = prepared.joined([next(numbers) for _ in prepared.rows(self.task.choices)])
                    yield answer(self.task, whole, Asked(asked, prepared, reader.longest_window), threshold)


def _nbytes(prepared: Prepared | ValueError) -> int:
    return prepared.nbytes if isinstance(prepared, Prepared) else 0
