"""The Python face: raw inputs of any modality -> unit vectors. N: inputs, D: embedding dimension."""

from __future__ import annotations

import asyncio
import difflib
import inspect
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from encoders.media import Audio, Image, MediaError, Text
from encoders.modality import Modality
from onepeace.ahead import CPU_BATCH_BYTES, chunks
from onepeace.checkpoint import ModelFolder
from onepeace.inference import EncodingModel
from onepeace.inputs import Compose, Part, listed, parts_of, wrapped
from onepeace.lanes import Lanes
from onepeace.model.onepeace import OnePeace
from onepeace.model.sequence import SequenceTower
from onepeace.model_card import model_card_html
from onepeace.progress import progress_bar
from onepeace.quantization import check_precision, quantize
from onepeace.reader import FloatMatrix, InputReader, Prepared, Span, combined, mean, shortened, unit_row
from onepeace.sequences import (
    Reading,
    SequenceAnswer,
    SequenceEmbedding,
    SequenceInput,
    encode_sequence,
    read_sequence,
)
from onepeace.similarity import similarity, similarity_pairwise
from onepeace.similarity_table import SimilarityTable
from onepeace.token_features import token_features

BATCH = 32  # inputs in a forward, unless told
CHUNK = 8  # batches that are sorted by length together
SHORT = 256  # inputs; below this nobody waits long enough to want a progress bar

Waiting = tuple[tuple[int, int], Modality, Any]  # the input and the place in it; what its preprocessor made

# Options of sentence-transformers that onepeace has under another name, and where.
ELSEWHERE = {
    "output_value": "`encode_tokens` gives the features of tokens",
    "pool": "one process uses all cores; `onepeace index build --engine ray` spreads work over several",
    "chunk_size": "memory is bounded without it",
}
_cancelled: ContextVar[threading.Event | None] = ContextVar("cancelled", default=None)  # set: nobody waits any more


@dataclass(frozen=True)
class EncodeResult:
    """What `encode_many` found: rows for the inputs that could be read, reasons for those that could not.

    >>> found = model.encode_many(["a dog", onepeace.Image("missing.jpg"), "rain"])
    >>> found.vectors.shape, found.kept, found.spans
    ((2, 512), [0, 2], [None, None])
    >>> [i for i, reason in found.failures]
    [1]
    """

    vectors: FloatMatrix  # (kept, D)
    kept: list[int]  # the input of each row
    failures: list[tuple[int, str]]  # (input, reason)
    spans: list[Span | None]  # the stretch of its sound that a row is for; None where it is for the whole input


@dataclass(frozen=True, eq=False)
class Window:
    """A stretch of a sound and its vector.

    >>> windows = model.encode_windows("rain.ogg")
    >>> windows[0].start, windows[0].vector.shape
    (0.0, (512,))
    """

    start: float  # seconds from the beginning of the sound
    end: float  # seconds
    vector: FloatMatrix  # (D,) float32, length one


class Embedder:
    """Embeds text, pictures and sounds. The same input gives the same vector, alone or among any others.

    The `encode` family follows sentence-transformers: one in, one out; a list in, a matrix out. Several threads may use
    one `Embedder`: on a CPU a few forward passes run side by side and divide torch's threads, elsewhere one at a time.

    >>> import onepeace
    >>> model = onepeace.load("onepeace-tiny")
    >>> model
    Embedder('onepeace-tiny', 512-d, reads text, image, audio)
    >>> rows = model.encode(["a dog barking", "a barking dog", "a bowl of soup"])
    >>> int(model.similarity(rows[0], rows[1:]).argmax())
    0
    >>> model.similarity_pairwise(rows[:2], rows[:2]).round(4).tolist()
    [1.0, 1.0]
    >>> model.modalities, model.dimension, model.max_seq_length, str(model.device)
    (('text', 'image', 'audio'), 512, 62, 'cpu')
    >>> model.folder.name, len(model.fingerprint)
    ('onepeace-tiny', 16)
    >>> query, document = model.encode_query("a dog"), model.encode_document("a dog")
    >>> bool((query == document).all())
    True
    >>> model.truncate_dim = 128
    >>> model.encode("a dog").shape, model.get_embedding_dimension(), model.get_sentence_embedding_dimension()
    ((128,), 128, 128)
    >>> model.truncate_dim = None
    """

    similarity_fn_name = "cosine"  # as sentence-transformers names it

    def __init__(self, model: EncodingModel, folder: ModelFolder) -> None:
        self.model = model
        self.name = folder.name
        self.reader = InputReader(folder)
        self._truncate_dim: int | None = None
        self._lanes = Lanes.for_device(model.device, model.reentrant)
        self._plain_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Embedder({self.name!r}, {self.dimension}-d, reads {', '.join(self.modalities)})"

    def _repr_html_(self) -> str:
        return model_card_html(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out locks, threads and what is made again when it is needed: another process has its own."""
        return {
            name: value
            for name, value in vars(self).items()
            if name not in ("_lanes", "_plain_lock", "_in_turn", "_plain", "_tower")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what `__getstate__` left, with a lock of its own."""
        model = state["model"]
        vars(self).update(state, _lanes=Lanes.for_device(model.device, model.reentrant), _plain_lock=threading.Lock())

    @property
    def folder(self) -> ModelFolder:
        """Where the model was read from."""
        return self.reader.folder

    @cached_property
    def query_bank(self) -> FloatMatrix | None:
        """Vectors of texts as people search with (B, d), by which `Searcher` reranks; None for a model without.

        Raises:
            CheckpointError: the bank was made with other weights, or its files are damaged.
        """
        return self.folder.query_bank()

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.model.config.embedding_dim

    @property
    def modalities(self) -> tuple[str, ...]:
        """What this model can embed; without a vocabulary a model reads no text."""
        return self.reader.modalities

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for config, weights and tokenizer: a store belongs to one of these."""
        return self.reader.fingerprint

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    @property
    def max_seq_length(self) -> int | None:
        """How many tokens of a text are read, the rest is cut; None where the model reads no text."""
        text = self.reader.preprocessors.get(Modality.TEXT)
        return None if text is None else int(text.config.max_tokens)  # type: ignore[attr-defined]

    @property
    def truncate_dim(self) -> int | None:
        """How many numbers of a vector the `encode` family keeps where a call does not say; None: all.

        Stores hold whole vectors: set it only for vectors that you keep yourself. Raises ValueError for less than one
        or more than there are.
        """
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = self._dimensions(value)

    def supports(self, modality: str | tuple[str, ...]) -> bool:
        """Return whether this model reads `modality`: "text", "image" or "audio", or a tuple, mixed by `Compose`.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> model.supports("audio"), model.supports(("image", "text")), model.supports("video")
        (True, True, False)
        """
        wanted = modality if isinstance(modality, tuple) else (modality,)
        return all(one in self.modalities for one in wanted)

    def get_embedding_dimension(self) -> int:
        """Return how long the vectors of `encode` are, as sentence-transformers names it."""
        return self.truncate_dim or self.dimension

    def get_sentence_embedding_dimension(self) -> int:
        """`get_embedding_dimension`, by its older name."""
        return self.get_embedding_dimension()

    def encode(
        self,
        inputs: Any,
        *,
        prompt_name: None = None,
        prompt: str | None = None,
        batch_size: int = BATCH,
        show_progress_bar: bool | None = None,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: str | torch.device | None = None,
        normalize_embeddings: bool = True,
        truncate_dim: int | None = None,
        ranges: Any = None,
        **unknown: Any,
    ) -> Any:
        """Return unit vectors: (D,) float32 for one input, (N, D) for several.

        Inputs may be mixed: str (always text), `Text`, `Image`, `Audio`, `Compose`, PIL images, audio decoders of
        torchcodec, or `{"array", "sampling_rate"}`. Several come as a list, tuple, generator, pandas Series, array of
        objects or column of `datasets`. A long sound is cut into windows whose vectors are averaged.

        `prompt` is put in front of every text. `truncate_dim` keeps the first numbers and brings the rest to length one
        again. `precision` "float16", "int8", "uint8", "binary" or "ubinary" then takes fewer digits
        (`onepeace.quantize`), int8 and uint8 over `ranges` (2, D), or a constant range. With `convert_to_tensor` the
        result is a tensor; with neither conversion it is a list of tensors.

        Raises:
            MediaError: an input cannot be read; the message says which and why. `encode_many` goes on instead.
            TypeError: an input of an unknown type, or an option that nobody knows.
            ValueError: an option that this model does not have.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> model.encode("a dog").shape, model.encode(["a dog", "rain"], truncate_dim=64, precision="int8").shape
        ((512,), (2, 64))
        """
        if unknown:
            raise TypeError(_unknown_option(next(iter(unknown))))
        if prompt_name is not None:
            raise ValueError(f"{self.name} has no named prompts, got {prompt_name!r}: give the words as prompt=...")
        if device is not None and not self._is_here(device):
            raise ValueError(
                f"{self.name} computes on {self.device}, not on {device!r}: leave device out, or load the model there "
                "with onepeace.load(..., device=...)"
            )
        if not normalize_embeddings:
            raise ValueError("onepeace vectors always have length one: leave normalize_embeddings at True")
        check_precision(precision, ranges)
        kept = self._dimensions(self.truncate_dim if truncate_dim is None else truncate_dim)
        values, single = listed(inputs)
        vectors: Any = shortened(self._encode(values, batch_size, show_progress_bar, prompt, stop=True).vectors, kept)
        if precision != "float32":
            vectors = quantize(vectors, precision, ranges)
        rows: Any = torch.from_numpy(vectors) if convert_to_tensor else vectors
        if not convert_to_numpy and not convert_to_tensor:
            rows = [torch.from_numpy(row) for row in vectors]
        return rows[0] if single else rows

    async def aencode(self, inputs: Any, **options: Any) -> Any:
        """`encode` beside a running event loop: same inputs, options, vectors and errors.

        Calls run one after the other, in a thread of this model. A call that is cancelled while it waits never starts;
        one that runs ends after the batch it is at.

        >>> import asyncio
        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> asyncio.run(model.aencode(["a dog", "rain"])).shape
        (2, 512)
        """
        event = threading.Event()
        context = copy_context()
        context.run(_cancelled.set, event)
        call = partial(context.run, partial(self.encode, inputs, **options))
        try:
            return await asyncio.get_running_loop().run_in_executor(self._in_turn, call)
        finally:
            event.set()  # nobody waits any more, whether there is a result or not

    @cached_property
    def _in_turn(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix=f"aencode-{self.name}")

    def _is_here(self, device: Any) -> bool:
        try:
            asked = torch.device(device)
        except (RuntimeError, TypeError):
            return False
        return asked.type == self.device.type and asked.index in (None, self.device.index)

    def _dimensions(self, value: int | None) -> int | None:
        if value is not None and not 1 <= value <= self.dimension:
            raise ValueError(f"truncate_dim must be between 1 and {self.dimension}, got {value}")
        return value

    def encode_many(
        self,
        inputs: Iterable[Any],
        *,
        batch_size: int = BATCH,
        show_progress_bar: bool | None = None,
        windows: bool = False,
    ) -> EncodeResult:
        """Embed what can be read and say of the rest why not, rather than stop at the first bad input.

        With `windows`, a sound that is longer than the model's window gives a row for each window, in order, instead of
        their mean; `kept` names the sound each time, and `spans` says which stretch of it a row is for.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> found = model.encode_many(["a dog", onepeace.Image("missing.jpg")])
        >>> found.vectors.shape, found.kept, [i for i, reason in found.failures]
        ((1, 512), [0], [1])
        """
        cut_from = 2 if windows else None
        return self._encode(list(inputs), batch_size, show_progress_bar, None, stop=False, cut_from=cut_from)

    def encode_windows(self, sounds: Any, *, batch_size: int = BATCH, show_progress_bar: bool | None = None) -> Any:
        """Return the windows that a sound is cut into, in order: list[Window]; for several sounds a list of such lists.

        Takes what `encode_audio` takes. A sound that is no longer than the model's window (10 s in onepeace-tiny) gives
        one. The mean of their vectors, at length one, is the sound's own.

        Raises:
            MediaError: a sound cannot be read; the message says which and why.

        >>> import numpy as np
        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> noise = np.random.default_rng(0).normal(scale=0.1, size=16_000 * 12)
        >>> [(w.start, w.end) for w in model.encode_windows({"array": noise, "sampling_rate": 16_000})]
        [(0.0, 10.0), (10.0, 12.0)]
        """
        values, single = wrapped(Audio, sounds)
        result = self._encode(values, batch_size, show_progress_bar, None, stop=True, cut_from=1)
        out: list[list[Window]] = [[] for _ in values]
        for i, span, vector in zip(result.kept, result.spans, result.vectors, strict=True):
            assert span is not None
            out[i].append(Window(*span, vector))
        return out[0] if single else out

    def encode_tokens(self, inputs: Any) -> Any:
        """Return the features of each token and where it lies: `TokenFeatures`, or a list of them for several inputs.

        Takes what `encode` takes but `Compose`. The first call loads the model a second time, in float32: the one that
        encodes skips what only tokens need.

        Raises:
            MediaError: an input cannot be read.
            TypeError: an input of an unknown type.
            ValueError: a `Compose`, or a modality that this model does not read.

        >>> import onepeace
        >>> text = "two dogs in the snow"
        >>> tokens = onepeace.load("onepeace-tiny").encode_tokens(text)
        >>> [text[start:end] for start, end in tokens.places], tokens.features.shape
        (['two', 'dogs', 'in', 'the', 'snow'], (5, 384))
        """
        values, single = listed(inputs)
        found = []
        for i, value in enumerate(values):
            if isinstance(value, Compose):
                raise ValueError(f"input {i} is a Compose, whose parts have their own tokens: give them one by one")
            (part,) = self._readable_parts(i, value, len(values))
            try:
                with self._plain_lock:
                    found.append(token_features(self._plain, self.reader, part))
            except MediaError as error:
                raise MediaError(f"input {i}: {error}" if len(values) > 1 else str(error)) from error
        return found[0] if single else found

    @cached_property
    def _plain(self) -> OnePeace:
        return self.folder.model().to(self.device)

    def encode_text(self, texts: Any, **options: Any) -> Any:
        """`encode` for a text or several.

        >>> import onepeace
        >>> onepeace.load("onepeace-tiny").encode_text("a dog").shape
        (512,)
        """
        return self._encode_as(Text, texts, options)

    def encode_images(self, images: Any, **options: Any) -> Any:
        """`encode` for a picture or several: whatever `Image` takes, so a str is a path here.

        >>> import numpy as np
        >>> import onepeace
        >>> grey = np.full((32, 48), 128, np.uint8)
        >>> onepeace.load("onepeace-tiny").encode_images([grey, np.stack([grey] * 3, axis=2)]).shape
        (2, 512)
        """
        return self._encode_as(Image, images, options)

    def encode_audio(self, sounds: Any, **options: Any) -> Any:
        """`encode` for a sound or several: whatever `Audio` takes, so a str is a path here.

        >>> import numpy as np
        >>> import onepeace
        >>> hum = {"array": np.sin(np.arange(16_000) / 20), "sampling_rate": 16_000}
        >>> onepeace.load("onepeace-tiny").encode_audio(hum).shape
        (512,)
        """
        return self._encode_as(Audio, sounds, options)

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """`encode`: queries and documents are embedded alike."""
        return self.encode(inputs, **options)

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """`encode`: queries and documents are embedded alike."""
        return self.encode(inputs, **options)

    similarity = staticmethod(similarity)
    similarity_pairwise = staticmethod(similarity_pairwise)

    def similarity_table(self, a: Any, b: Any = None) -> SimilarityTable:
        """Return the cosines of inputs `a` with inputs `b`, or with each other: a matrix that a notebook shows as such.

        Raises what `encode` raises.

        >>> import onepeace
        >>> onepeace.load("onepeace-tiny", dtype="float32").similarity_table(["a dog", "rain"], ["a puppy"])
              a puppy
        a dog    0.61
        rain    -0.03
        """
        (rows, _), (columns, _) = listed(a), ([], False) if b is None else listed(b)
        vectors = self.encode(rows + columns, truncate_dim=self.dimension)
        left = vectors[: len(rows)]
        if b is None:
            return SimilarityTable(left @ left.T, rows, rows)
        return SimilarityTable(left @ vectors[len(rows) :].T, rows, columns)

    def _encode_as(self, wrapper: type[Text | Image | Audio], values: Any, options: Mapping[str, Any]) -> Any:
        inputs, single = wrapped(wrapper, values)
        return self.encode(inputs[0] if single else inputs, **options)

    def _encode(
        self,
        values: list[Any],
        batch_size: int,
        progress: bool | None,
        prompt: str | None,
        stop: bool,
        cut_from: int | None = None,
    ) -> EncodeResult:
        """Embed; a sound of `cut_from` windows or more gives a row for each."""
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if progress is None:  # a library does not write into the logs of a program unasked
            progress = len(values) > SHORT and sys.stderr.isatty()
        units = [(i, p) for i, value in enumerate(values) for p in self._readable_parts(i, value, len(values))]
        parts = Counter(i for i, _ in units)
        whole: dict[int, list[tuple[FloatMatrix, float]]] = {}  # rows and weights of an input's parts
        cut: dict[int, list[tuple[Span | None, FloatMatrix]]] = {}  # long sounds, with a row for each window
        failures: dict[int, str] = {}

        def prepare(unit: tuple[int, Part]) -> Prepared | MediaError:
            try:
                return self.reader.read(unit[1], prompt)
            except MediaError as error:
                return error

        with progress_bar(len(units), show=progress) as advance, self._lanes.mapping() as run:
            for chunk in chunks(units, prepare, CHUNK * batch_size, _size_of):
                waiting: list[Waiting] = []
                found: dict[int, FloatMatrix] = {}
                for unit, ((i, part), outcome) in enumerate(chunk):
                    if isinstance(outcome, MediaError):
                        if stop:
                            raise MediaError(f"input {i}: {outcome}" if len(values) > 1 else str(outcome)) from outcome
                        failures.setdefault(i, str(outcome))
                        continue
                    found[unit] = np.zeros((len(outcome), self.dimension), dtype=np.float32)
                    waiting += [((unit, place), part.modality, item) for place, (item, _) in enumerate(outcome)]
                for members, rows in self._batches(waiting, batch_size, run):
                    for ((unit, place), _, _), row in zip(members, rows, strict=True):
                        found[unit][place] = row
                for unit, rows_WD in found.items():
                    (i, part), outcome = chunk[unit]
                    assert not isinstance(outcome, MediaError)
                    if cut_from is not None and len(rows_WD) >= cut_from and parts[i] == 1:
                        cut[i] = [(span, row) for (_, span), row in zip(outcome, rows_WD, strict=True)]
                    else:
                        whole.setdefault(i, []).append((mean(rows_WD), part.weight))
                advance(len(chunk))
        kept: list[tuple[int, Span | None, FloatMatrix]] = []
        for i in range(len(values)):
            if i in failures:
                continue
            if i in cut:
                kept += [(i, span, unit_row(row)) for span, row in cut[i]]
                continue
            try:
                kept.append((i, None, combined(*zip(*whole[i], strict=True))))
            except ValueError as error:
                if stop:
                    raise ValueError(f"input {i}: {error}") from None
                failures[i] = str(error)
        rows = np.stack([row for _, _, row in kept]) if kept else np.empty((0, self.dimension), np.float32)
        return EncodeResult(rows, [i for i, _, _ in kept], sorted(failures.items()), [span for _, span, _ in kept])

    def encode_sequence(
        self, source: SequenceInput, *, batch_size: int = BATCH, show_progress_bar: bool | None = None
    ) -> SequenceEmbedding:
        """Embed an album, a video, a document or a long sound item by item: `Sequence`, `Video`, `Pages` or `Audio`.

        Items are embedded as `encode` would, some at a time, so that memory does not grow with the length. Of a video
        frames are items, and so are the windows of its sound track.

        Raises:
            MediaError: it cannot be read, or holds nothing; of a sequence all items must be readable.
            TypeError: no sequence.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> album = model.encode_sequence(onepeace.Sequence([onepeace.Image("dog.jpg"), onepeace.Audio("rain.ogg")]))
        >>> len(album), album.vector.shape, album.nearest(model.encode("the sound of rain")).number
        (2, (512,), 2)
        """
        return encode_sequence(self, source, batch_size, show_progress_bar)

    def ask(self, texts: Any, album: SequenceEmbedding) -> Any:
        """Return what a sequence says to a text: a `SequenceAnswer`; for several texts a list.

        A text may name an item by its number ("what is in item 7?"), by what is in it ("a dog on a beach") or by its
        neighbour ("what comes after the dog?"), count ("how many dogs?": `count` of the answer), or state something of
        the whole ("a dog, then a cat", "three dogs"), which `match` tells apart.

        Raises:
            CheckpointError: the model has no sequence tower.
            TypeError: something else than texts, or than an embedded sequence.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> album = model.encode_sequence(onepeace.Sequence([onepeace.Image("dog.jpg"), onepeace.Audio("rain.ogg")]))
        >>> [answer.segment.number for answer in model.ask(["what is in item 1?", "the sound of rain"], album)]
        [1, 2]
        """
        values, single = listed(texts)
        if other := [value for value in values if not isinstance(value, str | Text)]:
            raise TypeError(f"ask takes texts, got {other[0]!r:.80}")
        if not isinstance(album, SequenceEmbedding):
            raise TypeError(f"ask reads what encode_sequence returns, got {type(album).__name__}")
        words = [value.text if isinstance(value, Text) else value for value in values]
        windows = [window for text in words for window in self.reader.windows("text", text)]
        readings = self.ask_windows(windows, album.vectors) if windows else []
        answers = [SequenceAnswer(album.segments, *reading) for reading in readings]
        return answers[0] if single else answers

    def ask_windows(self, windows: Sequence[FloatMatrix], vectors: FloatMatrix) -> list[Reading]:
        """Return what items with these unit vectors (N, D) say to texts that an `InputReader` prepared, as arrays.

        Raises:
            CheckpointError: the model has no sequence tower.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> words = model.reader.windows("text", "what is in item 2?")
        >>> [reading] = model.ask_windows(words, model.encode(["a dog", "rain"]))
        >>> int(reading.weights.argmax()), reading.vector.shape
        (1, (512,))
        """
        texts, vectors_ND = map(torch.as_tensor, windows), torch.as_tensor(vectors)
        with self._plain_lock, self._lanes.one():
            return read_sequence(self, self._plain, self._tower, texts, vectors_ND)

    @cached_property
    def _tower(self) -> SequenceTower:
        return self.folder.sequence_tower().to(self.device)

    def embed_windows(self, modality: str, windows: Sequence[FloatMatrix]) -> FloatMatrix:
        """Return the rows (N, D) of N windows that an `InputReader` prepared, as arrays.

        >>> import onepeace
        >>> model = onepeace.load("onepeace-tiny")
        >>> model.embed_windows("text", model.reader.windows("text", "a dog")).shape
        (1, 512)
        """
        kind = Modality(modality)
        units = [((0, place), kind, torch.from_numpy(window)) for place, window in enumerate(windows)]
        out_ND = np.empty((len(units), self.dimension), np.float32)
        for members, rows in self._batches(units, BATCH, map):  # its callers have threads of their own
            out_ND[[place for (_, place), _, _ in members]] = rows
        return out_ND

    def _batches(
        self, windows: list[Waiting], batch_size: int, run: Callable[..., Iterator[FloatMatrix]]
    ) -> Iterator[tuple[list[Waiting], FloatMatrix]]:
        """Yield batches of one modality, longest first so that memory peaks at once and little is padding.

        `run` maps as `map` does, one batch after the other or several side by side.
        """
        batches: list[tuple[Modality, list[Waiting]]] = []
        for modality, preprocessor in self.reader.preprocessors.items():
            own = [window for window in windows if window[1] is modality]
            own.sort(key=lambda window: -preprocessor.length(window[2]))
            start = 0
            while start < len(own):
                # The first is the longest, so it says what each of the batch takes once padded.
                fitting = (
                    max(1, CPU_BATCH_BYTES // own[start][2].nbytes) if self.model.device.type == "cpu" else batch_size
                )
                members = own[start : start + min(batch_size, fitting)]
                start += len(members)
                batches.append((modality, members))
        context = copy_context()  # tells whether all of it was cancelled

        def rows_of(batch: tuple[Modality, list[Waiting]]) -> FloatMatrix:
            modality, members = batch
            inputs = self.reader.preprocessors[modality].collate([item for _, _, item in members])
            return context.copy().run(self._forward, modality, inputs)

        if len(batches) == 1:  # also with all that oneDNN keeps for the calling thread
            run = map
        yield from zip((members for _, members in batches), run(rows_of, batches), strict=True)

    def _forward(self, modality: Modality, inputs: tuple[Tensor, ...]) -> FloatMatrix:
        cancelled = _cancelled.get()
        if cancelled is not None and cancelled.is_set():
            raise CancelledError
        with self._lanes.one(), torch.inference_mode():
            rows = self.model.embed(modality, *(tensor.to(self.model.device) for tensor in inputs))
        out: FloatMatrix = rows.float().cpu().numpy()
        return out

    def _readable_parts(self, i: int, value: Any, count: int) -> list[Part]:
        """Return the parts of input `i` of `count`; TypeError and ValueError name it."""
        try:
            parts = parts_of(value)
        except TypeError as error:
            raise TypeError(f"input {i}: {error}" if count > 1 else str(error)) from None
        for part in parts:
            if part.modality not in self.reader.preprocessors:
                raise ValueError(self._unreadable(i, part.modality))
        return parts

    def _unreadable(self, index: int, modality: Modality) -> str:
        if modality is Modality.TEXT and Modality.TEXT in self.model.config.adapters:
            return (
                f"input {index} is text, and {self.name} has no vocabulary: convert it again with `--vocab DIR`, where "
                "DIR holds dict.txt, encoder.json and vocab.bpe"
            )
        return f"input {index} is {modality}, and {self.name} reads {', '.join(self.modalities)} only"


def _size_of(outcome: Prepared | MediaError) -> int:
    return sum(item.nbytes for item, _ in outcome) if isinstance(outcome, list) else 0


def _unknown_option(name: str) -> str:
    """Say that `encode` has no such option, and which was meant."""
    known = [p.name for p in inspect.signature(Embedder.encode).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if name in ELSEWHERE:
        return f"encode has no option {name!r}: {ELSEWHERE[name]}"
    near = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    return f"encode has no option {name!r}: " + (f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}")
