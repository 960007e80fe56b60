"""The Python face: raw inputs of any modality -> unit vectors. N: inputs, D: embedding dimension."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from encoders.media import Audio, Image, MediaError, Text
from encoders.tokens import Modality
from onepeace.checkpoint import ModelFolder, open_folder
from onepeace.inference import EncodingModel, best_dtype
from onepeace.inputs import Part, parts_of
from onepeace.predictor import TaskPredictor
from onepeace.progress import progress_bar
from onepeace.reader import SHIPPED as SHIPPED
from onepeace.reader import FloatMatrix, InputReader, Prepared, Span, combined, mean, model_folder, unit_row

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
BATCH = 32  # inputs in a forward, unless told
CHUNK = 8  # batches that are sorted by length together
CHUNK_BYTES = 32 * 2**20  # of decoded media; long sounds close a chunk before it is full
CPU_BATCH_BYTES = 3 * 2**20  # of decoded media in one forward: a CPU is no faster with more, its caches only overflow
AHEAD = 16  # inputs that may be decoded before they are asked for
SHORT = 256  # inputs; below this nobody waits long enough to want a progress bar
WORKERS = 2  # threads that decode while the model runs

Window = tuple[tuple[int, int], Modality, Any]  # the input and the place in it; what its preprocessor made


@dataclass(frozen=True)
class EncodeResult:
    """What `encode_many` found: rows for the inputs that could be read, reasons for those that could not."""

    vectors: FloatMatrix  # (kept, D)
    kept: list[int]  # the input of each row
    failures: list[tuple[int, str]]  # (input, reason)
    spans: list[Span | None]  # the stretch of its sound that a row is for; None where it is for the whole input


def load(
    model: str | Path = "onepeace-tiny",
    *,
    device: str = "auto",
    dtype: str | torch.dtype = "auto",
    compile: bool = False,  # noqa: A002 - as everybody names it
) -> Embedder:
    """Load a model: one that ships with the package by name, or an export folder by path.

    `device` is "auto" (a CUDA GPU where there is one, else the CPU) or a torch device name. `dtype` is what the model
    computes in: "float32", "bfloat16", "int8" (8-bit products in the Transformer: fastest on a CPU, vectors a little
    off), or "auto": bfloat16 where the processor multiplies it natively, else float32. `compile` hands the
    Transformer to torch.compile, which takes a minute for every new shape of batch, and a C++ compiler on a CPU.

    The folder of a head that was trained for a task gives its `TaskPredictor` instead, with `predict`; it computes in
    float32.

    Raises:
        CheckpointError: no such model, or a folder that cannot be read.
        ValueError: no such type or device, no such type on this device, or int8 that is to be compiled.
    """
    folder = model_folder(model)
    place = _device(device)
    opened = open_folder(folder)
    wanted = best_dtype(place) if dtype == "auto" else DTYPES.get(str(dtype).removeprefix("torch."))
    if wanted is None:
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if wanted is torch.int8 and place.type != "cpu":
        raise ValueError(f"dtype 'int8' runs on a CPU only, not on {device}: choose bfloat16")
    if opened.task is not None:  # typed as what nearly all callers load, who need not ask which it is
        return cast(Embedder, TaskPredictor(opened, place))
    return Embedder(EncodingModel(opened.model().to(place), wanted, compile), opened)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} needs a CUDA GPU, and torch finds none: leave it at auto, or say cpu")
    return device


class Embedder:
    """Embeds text, pictures and sounds. The same input gives the same vector, alone or among any others.

    The `encode` family follows sentence-transformers: one in, one out; a list in, a matrix out.
    """

    def __init__(self, model: EncodingModel, folder: ModelFolder) -> None:
        self.model = model
        self.name = folder.name
        self.reader = InputReader(folder)

    def __repr__(self) -> str:
        return f"Embedder({self.name!r}, {self.dimension}-d, reads {', '.join(self.modalities)})"

    @property
    def folder(self) -> ModelFolder:
        """Where the model was read from."""
        return self.reader.folder

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

    def supports(self, modality: str) -> bool:
        """Return whether this model reads `modality`: "text", "image" or "audio"."""
        return modality in self.modalities

    def get_embedding_dimension(self) -> int:
        """Return D, as sentence-transformers names it."""
        return self.dimension

    def encode(
        self,
        inputs: Any,
        *,
        prompt: str | None = None,
        batch_size: int = BATCH,
        show_progress_bar: bool | None = None,
        precision: str = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = True,
        truncate_dim: int | None = None,
    ) -> Any:
        """Return unit vectors: (D,) float32 for one input, (N, D) for a list.

        Inputs may be mixed: str (always text), `Text`, `Image`, `Audio`, `Compose`, PIL images, or
        `{"array", "sampling_rate"}`. `prompt` is put in front of every text. `truncate_dim` keeps the first numbers and
        brings the rest to length one again. A long sound is cut into windows whose vectors are averaged.

        Raises:
            MediaError: an input cannot be read; the message says which and why. `encode_many` goes on instead.
            TypeError: an input of an unknown type.
            ValueError: an option that this model does not have.
        """
        single = not isinstance(inputs, Sequence) or isinstance(inputs, str)
        if isinstance(inputs, bytes | bytearray):
            raise TypeError("bytes could be anything: wrap them as onepeace.Image(...) or onepeace.Audio(...)")
        if precision != "float32":
            raise ValueError(f"precision must be 'float32', got {precision!r}")
        if not normalize_embeddings:
            raise ValueError("onepeace vectors always have length one: leave normalize_embeddings at True")
        if truncate_dim is not None and not 1 <= truncate_dim <= self.dimension:
            raise ValueError(f"truncate_dim must be between 1 and {self.dimension}, got {truncate_dim}")
        values = [inputs] if single else list(inputs)
        result = self._encode(values, batch_size, show_progress_bar, prompt, stop=True)
        vectors = result.vectors
        if truncate_dim is not None:
            vectors = vectors[:, :truncate_dim]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        rows: Any = torch.from_numpy(vectors) if convert_to_tensor else vectors
        if not convert_to_numpy and not convert_to_tensor:
            rows = [torch.from_numpy(row) for row in vectors]
        return rows[0] if single else rows

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
        """
        return self._encode(list(inputs), batch_size, show_progress_bar, None, stop=False, windows=windows)

    def encode_text(self, texts: Any, **options: Any) -> Any:
        """`encode` for a text or a list of texts."""
        return self._encode_as(Text, texts, options)

    def encode_images(self, images: Any, **options: Any) -> Any:
        """`encode` for a picture or a list of them: paths, bytes, PIL images or arrays."""
        return self._encode_as(Image, images, options)

    def encode_audio(self, sounds: Any, **options: Any) -> Any:
        """`encode` for a sound or a list of them: paths, bytes, or `{"array", "sampling_rate"}`."""
        return self._encode_as(Audio, sounds, options)

    def encode_query(self, inputs: Any, **options: Any) -> Any:
        """`encode`: queries and documents are embedded alike."""
        return self.encode(inputs, **options)

    def encode_document(self, inputs: Any, **options: Any) -> Any:
        """`encode`: queries and documents are embedded alike."""
        return self.encode(inputs, **options)

    def similarity(self, a: Any, b: Any) -> FloatMatrix:
        """Return the cosines, (N, M) float32, between rows `a` and rows `b`."""
        rows_a, rows_b = (np.atleast_2d(np.asarray(rows, dtype=np.float32)) for rows in (a, b))
        if rows_a.shape[1] != rows_b.shape[1]:
            raise ValueError(f"rows must have one length, got {rows_a.shape[1]} and {rows_b.shape[1]}")
        unit_a, unit_b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (rows_a, rows_b))
        out: FloatMatrix = unit_a @ unit_b.T
        return out

    def _encode_as(self, wrapper: Callable[[Any], Any], values: Any, options: Mapping[str, Any]) -> Any:
        if isinstance(values, list | tuple):
            return self.encode([value if isinstance(value, wrapper) else wrapper(value) for value in values], **options)  # type: ignore[arg-type]
        return self.encode(values if isinstance(values, wrapper) else wrapper(values), **options)  # type: ignore[arg-type]

    def _encode(
        self,
        values: list[Any],
        batch_size: int,
        progress: bool | None,
        prompt: str | None,
        stop: bool,
        windows: bool = False,
    ) -> EncodeResult:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if progress is None:  # a library does not write into the logs of a program unasked
            progress = len(values) > SHORT and sys.stderr.isatty()
        units = [(i, part) for i, value in enumerate(values) for part in parts_of(value)]
        for i, part in units:
            if part.modality not in self.reader.preprocessors:
                raise ValueError(self._unreadable(i, part.modality))
        parts = Counter(i for i, _ in units)
        whole: dict[int, list[tuple[FloatMatrix, float]]] = {}  # rows and weights of an input's parts
        cut: dict[int, list[tuple[Span | None, FloatMatrix]]] = {}  # long sounds, with a row for each window
        failures: dict[int, str] = {}
        with ThreadPoolExecutor(WORKERS) as pool, progress_bar(len(units), show=progress) as advance:
            for chunk in self._chunks(units, CHUNK * batch_size, pool, prompt):
                waiting: list[Window] = []
                found: dict[int, FloatMatrix] = {}
                for unit, (i, part, outcome) in enumerate(chunk):
                    if isinstance(outcome, MediaError):
                        if stop:
                            raise MediaError(f"input {i}: {outcome}" if len(values) > 1 else str(outcome)) from outcome
                        failures.setdefault(i, str(outcome))
                        continue
                    found[unit] = np.zeros((len(outcome), self.dimension), dtype=np.float32)
                    waiting += [((unit, place), part.modality, item) for place, (item, _) in enumerate(outcome)]
                for members, rows in self._batches(waiting, batch_size):
                    for ((unit, place), _, _), row in zip(members, rows, strict=True):
                        found[unit][place] = row
                for unit, rows_WD in found.items():
                    i, part, outcome = chunk[unit]
                    if windows and len(rows_WD) > 1 and parts[i] == 1 and not isinstance(outcome, MediaError):
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

    def embed_windows(self, modality: str, windows: Sequence[FloatMatrix]) -> FloatMatrix:
        """Return the rows (N, D) of N windows that an `InputReader` prepared, as arrays."""
        kind = Modality(modality)
        units = [((0, place), kind, torch.from_numpy(window)) for place, window in enumerate(windows)]
        out_ND = np.empty((len(units), self.dimension), np.float32)
        for members, rows in self._batches(units, BATCH):
            out_ND[[place for (_, place), _, _ in members]] = rows
        return out_ND

    def _chunks(
        self, units: list[tuple[int, Part]], size: int, pool: ThreadPoolExecutor, prompt: str | None
    ) -> Iterator[list[tuple[int, Part, Prepared | MediaError]]]:
        """Yield inputs with what their preprocessor made of them, in chunks bounded in number and memory.

        A few inputs are decoded ahead while the model works; more would let a folder of long sounds fill the memory.
        """

        def prepare(part: Part) -> Prepared | MediaError:
            try:
                return self.reader.read(part, prompt)
            except MediaError as error:
                return error

        futures = deque(pool.submit(prepare, part) for _, part in units[:AHEAD])
        chunk: list[tuple[int, Part, Prepared | MediaError]] = []
        used = 0
        for number, (i, part) in enumerate(units):
            outcome = futures.popleft().result()
            if number + AHEAD < len(units):
                futures.append(pool.submit(prepare, units[number + AHEAD][1]))
            chunk.append((i, part, outcome))
            used += sum(item.nbytes for item, _ in outcome) if isinstance(outcome, list) else 0
            if len(chunk) == size or used >= CHUNK_BYTES or number + 1 == len(units):
                yield chunk
                chunk, used = [], 0

    def _batches(self, windows: list[Window], batch_size: int) -> Iterator[tuple[list[Window], FloatMatrix]]:
        """Yield batches of one modality, longest first so that memory peaks at once and little is padding."""
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
                yield members, self._forward(modality, preprocessor.collate([item for _, _, item in members]))

    def _forward(self, modality: Modality, inputs: tuple[Tensor, ...]) -> FloatMatrix:
        with torch.inference_mode():
            rows = self.model.embed(modality, *(tensor.to(self.model.device) for tensor in inputs))
        out: FloatMatrix = rows.float().cpu().numpy()
        return out

    def _unreadable(self, index: int, modality: Modality) -> str:
        if modality is Modality.TEXT and Modality.TEXT in self.model.config.adapters:
            return (
                f"input {index} is text, and {self.name} has no vocabulary: convert it again with `--vocab DIR`, where "
                "DIR holds dict.txt, encoder.json and vocab.bpe"
            )
        return f"input {index} is {modality}, and {self.name} reads {', '.join(self.modalities)} only"
