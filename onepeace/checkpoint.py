"""The export folder: config.json, model.safetensors, tokenizer.json, README.md, calibration.json <-> a model.

Weights may be stored as they are, in half precision, or as int8 rows: each row of a matrix becomes whole numbers from
-127 to 127 and one float16 scale, a tensor named `<name>.scale` beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from encoders.modality import Modality
from onepeace.calibration import Calibration, calibrations_data, read_calibrations
from onepeace.model.config import ModelConfig
from onepeace.model.onepeace import OnePeace
from onepeace.model.sequence import SequenceConfig, SequenceTower
from onepeace.model.task_head import TaskConfig
from onepeace.model.task_model import TaskModel
from onepeace.model.trunk import Trunk

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT_VERSION = 1
CONFIG, WEIGHTS, TOKENIZER, CARD = "config.json", "model.safetensors", "tokenizer.json", "README.md"
CALIBRATION = "calibration.json"  # no part of the fingerprint: vectors do not depend on it
SEQUENCE, SEQUENCE_WEIGHTS = "sequence.json", "sequence.safetensors"  # neither
QUERY_BANK, QUERY_BANK_ROWS = "querybank.json", "querybank.safetensors"  # nor these
SCALE = ".scale"  # suffix of the tensor that holds the scales of int8 rows
SMALLEST_QUANTISED = 4096  # elements; below this, int8 saves nothing that counts

Storage = Literal["float32", "float16", "bfloat16", "int8"]
_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int8: "I8", torch.int64: "I64"}


class CheckpointError(ValueError):
    """A model folder or checkpoint that cannot be read; the message names the file and the way out.

    >>> open_folder(Path("no-such-folder"))
    Traceback (most recent call last):
    CheckpointError: no-such-folder is not a model folder: it has no config.json
    """


@dataclass(frozen=True)
class ModelFolder:
    """A model folder that was found and whose config was read.

    >>> folder = model.folder
    >>> folder.name, folder.modalities(), len(folder.fingerprint())
    ('onepeace-tiny', ('text', 'image', 'audio'), 16)
    >>> folder.tokenizer().encode("a dog").tokens[:4]
    ['[CLS]', 'a', 'dog', '[SEP]']
    >>> folder.model().training, len(folder.tensors()) > 100
    (False, True)
    >>> sorted(folder.calibrations()), folder.calibration_sources()["image"]
    (['audio', 'image'], ['caltech101'])
    >>> write_folder(Path("mine"), "mine", folder.config, folder.tensors())
    >>> open_folder(Path("mine")).write_calibrations(folder.calibrations(), {"image": ["photos"]}).name
    'calibration.json'
    >>> from onepeace.model.task_head import TaskConfig
    >>> task = TaskConfig(kind="classify", modalities=("image",), outputs=2)
    >>> write_folder(Path("head"), "head", folder.config, build_model(folder.config, task).state_dict(), task=task)
    >>> open_folder(Path("head")).task_model().task.outputs
    2
    >>> mine = open_folder(Path("mine"))
    >>> mine.write_sequence_tower(SequenceTower(mine.config, SequenceConfig(layers=1)))
    >>> mine.sequence_tower().config == mine.sequence_config() == SequenceConfig(layers=1)
    True
    >>> mine.write_query_bank(np.eye(2, 512, dtype=np.float32), {"photos": 2})
    >>> mine.has_query_bank(), mine.query_bank().shape
    (True, (2, 512))
    """

    path: Path
    name: str
    config: ModelConfig
    task: TaskConfig | None = None  # None: the model embeds

    def fingerprint(self) -> str:
        """Return 16 hex digits of the SHA-256 over config, weights and tokenizer: equal means equal vectors."""
        digest = hashlib.sha256()
        for file in (CONFIG, WEIGHTS, TOKENIZER):
            if (self.path / file).exists():
                with open(self.path / file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()[:16]

    def modalities(self) -> tuple[str, ...]:
        """Return what this model can embed; without a vocabulary a model reads no text."""
        blind = {Modality.TEXT} if self.tokenizer() is None else set()
        return tuple(str(modality) for modality in self.config.adapters if modality not in blind)

    def tokenizer(self) -> Tokenizer | None:
        """Return the folder's tokenizer, or None: such a model reads no text."""
        from tokenizers import Tokenizer

        path = self.path / TOKENIZER
        if not path.exists():
            return None
        try:
            return Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception
            raise CheckpointError(f"{path} cannot be read as a tokenizer: {error}") from error

    def calibrations(self) -> dict[str, Calibration]:
        """Return how cosines become probabilities, by modality; empty for a model that was never calibrated.

        Raises:
            CheckpointError: the file is there and cannot be read.
        """
        return self._calibration()[0]

    def calibration_sources(self) -> dict[str, list[str]]:
        """Return the names of the data that the calibration of each modality was fitted on. Raises CheckpointError."""
        return self._calibration()[1]

    def _calibration(self) -> tuple[dict[str, Calibration], dict[str, list[str]]]:
        path = self.path / CALIBRATION
        if not path.exists():
            return {}, {}
        try:
            return read_calibrations(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, OSError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def write_calibrations(self, calibrations: Mapping[str, Calibration], sources: Mapping[str, Sequence[str]]) -> Path:
        """Write how cosines become probabilities beside the weights, and return where.

        `sources` names, by modality, the data that it was fitted on.
        """
        data = calibrations_data(calibrations, sources)
        _replace(self.path / CALIBRATION, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())
        return self.path / CALIBRATION

    def model(self) -> OnePeace:
        """Return the embedding model with its weights in float32, however they are stored, ready to evaluate.

        Raises:
            CheckpointError: a task's model; or weights are missing, damaged, left over, or of another shape.
        """
        if self.task is not None:
            raise CheckpointError(f"{self.path} holds a model of the task {self.task.kind}, which does not embed")
        return cast(OnePeace, self._filled())

    def task_model(self) -> TaskModel:
        """Return a task's model, likewise.

        Raises:
            CheckpointError: a model without a task; or weights are missing, damaged, left over, or of another shape.
        """
        if self.task is None:
            raise CheckpointError(f"{self.path} holds a model that embeds, and no task's head")
        return cast(TaskModel, self._filled())

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights as they are stored, int8 rows as float32.

        Raises:
            CheckpointError: the file is damaged.
        """
        return dequantise(read_tensors(self.path / WEIGHTS))

    def sequence_config(self) -> SequenceConfig:
        """Return the config of the sequence tower, without its weights.

        Raises:
            CheckpointError: there is none, it was trained beside other weights, or it cannot be read.
        """
        path = self.path / SEQUENCE
        if not path.exists():
            raise CheckpointError(f"{self.name} has no sequence tower ({SEQUENCE}): onepeace-tiny has one")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            config, base = SequenceConfig(**data["tower"]), data["base"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error!r}") from error
        if base != self.fingerprint():
            raise CheckpointError(f"{path} belongs to the model with fingerprint {base}, not to {self.fingerprint()}")
        return config

    def sequence_tower(self) -> SequenceTower:
        """Return what lets texts read sequences of this model's vectors, in float32, ready to evaluate.

        Raises:
            CheckpointError: there is none, it was trained beside other weights, or its files are damaged.
        """
        tower = SequenceTower(self.config, self.sequence_config())
        try:
            stored = dequantise(read_tensors(self.path / SEQUENCE_WEIGHTS))
            tower.load_state_dict({name: tensor.float() for name, tensor in stored.items()})
        except RuntimeError as error:
            raise CheckpointError(f"{self.path / SEQUENCE_WEIGHTS} does not fit {SEQUENCE}: {error}") from error
        return tower.eval().requires_grad_(False)

    def write_sequence_tower(self, tower: SequenceTower, storage: Storage = "float16") -> None:
        """Write a sequence tower that was trained beside this model into its folder, in the place of one before."""
        write_tensors(self.path / SEQUENCE_WEIGHTS, _stored(tower.state_dict(), storage))
        data = {"base": self.fingerprint(), "tower": tower.config.to_dict()}
        _replace(self.path / SEQUENCE, (json.dumps(data, indent=2) + "\n").encode())

    def has_query_bank(self) -> bool:
        """Return whether there is a bank, damaged or not."""
        return (self.path / QUERY_BANK).exists()

    def query_bank(self) -> NDArray[np.float32] | None:
        """Return unit vectors (B, d) of texts as people search with; None for a model that has no such bank.

        d is the embedding dimension, or less: vectors that may be cut are kept by their first numbers.

        Raises:
            CheckpointError: the bank was made with other weights, or its files are damaged.
        """
        if not self.has_query_bank():
            return None
        path = self.path / QUERY_BANK
        again = "make it again with `onepeace querybank`"
        try:
            base = json.loads(path.read_text(encoding="utf-8"))["base"]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged: {again}") from error
        if base != self.fingerprint():
            raise CheckpointError(
                f"{path} belongs to the model with fingerprint {base}, not to {self.fingerprint()}: {again}"
            )
        try:
            rows_Bd = dequantise(read_tensors(self.path / QUERY_BANK_ROWS))["rows"].float().numpy()
            lengths_B1 = np.linalg.norm(rows_Bd, axis=1, keepdims=True)
            whole = rows_Bd.size and rows_Bd.shape[1] <= self.config.embedding_dim
            if not whole or not np.isfinite(lengths_B1).all() or not lengths_B1.all():
                raise ValueError(f"rows of shape {rows_Bd.shape}")
        except (ValueError, KeyError) as error:
            raise CheckpointError(f"{self.path / QUERY_BANK_ROWS} is missing or damaged: {again}") from error
        bank_Bd: NDArray[np.float32] = rows_Bd / lengths_B1
        return bank_Bd

    def write_query_bank(self, rows_Bd: NDArray[np.float32], sources: Mapping[str, int]) -> None:
        """Write a bank of unit vectors as int8 rows; `sources` says how many of its texts are from where."""
        write_tensors(self.path / QUERY_BANK_ROWS, _stored({"rows": torch.from_numpy(rows_Bd)}, "int8"))
        data = {"base": self.fingerprint(), "texts": dict(sources)}
        _replace(self.path / QUERY_BANK, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())

    def _filled(self) -> Trunk:
        with torch.device("meta"):
            model = build_model(self.config, self.task)
        tensors = {name: t.float() if t.is_floating_point() else t for name, t in self.tensors().items()}
        expected = model.state_dict()
        problems = [f"missing {name}" for name in expected.keys() - tensors.keys()]
        problems += [f"unknown {name}" for name in tensors.keys() - expected.keys()]
        problems += [
            f"{name} has shape {tuple(tensors[name].shape)}, wanted {tuple(tensor.shape)}"
            for name, tensor in expected.items()
            if name in tensors and tensors[name].shape != tensor.shape
        ]
        if problems:
            raise CheckpointError(f"{self.path / WEIGHTS} does not fit {CONFIG}: {'; '.join(sorted(problems)[:5])}")
        frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        model.load_state_dict(tensors, assign=True)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        return model.eval()


def build_model(config: ModelConfig, task: TaskConfig | None = None) -> OnePeace | TaskModel:
    """Return a model with its initial weights: one that embeds, or a task's.

    >>> type(build_model(model.folder.config)).__name__
    'OnePeace'
    """
    return OnePeace(config) if task is None else TaskModel(config, task)


def open_folder(path: Path) -> ModelFolder:
    """Return the model folder at `path`.

    Raises:
        CheckpointError: no such folder, no or an unreadable config, another format version, no weights.

    >>> open_folder(model.folder.path).config.embedding_dim
    512
    """
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path} is not a model folder: it has no {CONFIG}")
    try:
        data = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        version, name, model = data["format_version"], data["name"], data["model"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path / CONFIG} cannot be read: {error!r}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path / CONFIG} has format version {version}; this release reads {FORMAT_VERSION}: "
            "export the model again, or install a matching onepeace"
        )
    if not (path / WEIGHTS).is_file():
        raise CheckpointError(f"{path} has no {WEIGHTS}")
    try:
        config = ModelConfig.from_dict(model)
        task = TaskConfig.from_dict(data["task"]) if data.get("task") else None
    except ValueError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}") from error
    return ModelFolder(path, name, config, task)


def write_folder(
    path: Path,
    name: str,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer | None = None,
    card: str = "",
    storage: Storage | None = None,
    task: TaskConfig | None = None,
) -> None:
    """Write an export folder; `storage` None keeps each tensor's own type.

    Tensors are converted and written one after the other, so memory stays near the largest of them. Raises
    CheckpointError for a folder that holds something, see `must_be_free`.

    >>> folder = model.folder
    >>> weights = folder.model().state_dict()
    >>> write_folder(Path("mine"), "mine", folder.config, weights, folder.tokenizer(), storage="int8")
    >>> sorted(path.name for path in Path("mine").iterdir())
    ['README.md', 'config.json', 'model.safetensors', 'tokenizer.json']
    """
    must_be_free(path)
    path.mkdir(parents=True, exist_ok=True)
    write_tensors(path / WEIGHTS, _stored(tensors, storage))
    if tokenizer is not None:
        _replace(path / TOKENIZER, tokenizer.to_str(pretty=False).encode())
    data: dict[str, Any] = {"format_version": FORMAT_VERSION, "name": name, "model": config.to_dict()}
    if task is not None:
        data["task"] = task.to_dict()
    _replace(path / CARD, card.encode())
    _replace(path / CONFIG, (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def must_be_free(path: Path) -> None:
    """Refuse a folder that holds something: nothing is ever written over.

    Raises:
        CheckpointError: `path` is a file, or a folder that is not empty.

    >>> must_be_free(Path("a-new-folder"))
    >>> must_be_free(Path("dog.jpg"))
    Traceback (most recent call last):
    CheckpointError: dog.jpg already exists and is not an empty folder: choose another, or remove it first
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise CheckpointError(f"{path} already exists and is not an empty folder: choose another, or remove it first")


LazyTensor = tuple[str, torch.dtype, tuple[int, ...], Callable[[], Tensor]]


def _stored(tensors: Mapping[str, Tensor], storage: Storage | None) -> Iterable[LazyTensor]:
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if storage is None or not tensor.is_floating_point():
            yield name, tensor.dtype, shape, lambda t=tensor: t  # type: ignore[misc]
        elif storage != "int8":
            dtype = getattr(torch, storage)
            yield name, dtype, shape, lambda t=tensor, d=dtype: t.to(d)  # type: ignore[misc]
        elif tensor.ndim < 2 or tensor.numel() < SMALLEST_QUANTISED:
            yield name, torch.float32, shape, lambda t=tensor: t.float()  # type: ignore[misc]
        else:
            yield name, torch.int8, shape, lambda t=tensor: quantise_rows(t)[0]  # type: ignore[misc]
            yield name + SCALE, torch.float32, shape[:1], lambda t=tensor: quantise_rows(t)[1]  # type: ignore[misc]


def quantise_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return (int8 weight, float32 scale a row): symmetric, largest magnitude of a row at 127.

    >>> whole, scale = quantise_rows(torch.tensor([[1.0, -0.5], [0.0, 0.2]]))
    >>> whole.tolist(), whole.dtype
    ([[127, -64], [0, 127]], torch.int8)
    """
    rows = weight.detach().float().flatten(1)
    scale = (rows.abs().amax(1) / 127.0).clamp(min=torch.finfo(torch.float32).tiny)
    whole = (rows / scale.unsqueeze(1)).round()
    return whole.to(torch.int8).view_as(weight), scale


def dequantise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, int8 ones multiplied by their scales; the others as they are.

    >>> whole, scale = quantise_rows(torch.tensor([[1.0, -0.5]]))
    >>> [round(value, 3) for value in dequantise({"w": whole, "w.scale": scale})["w"][0].tolist()]
    [1.0, -0.504]
    """
    out = {}
    for name, tensor in tensors.items():
        if name.endswith(SCALE) and tensors.get(name.removesuffix(SCALE), tensor).dtype == torch.int8:
            continue
        if tensor.dtype == torch.int8:
            scale = tensors[name + SCALE]
            tensor = tensor.float().mul_(scale.view(-1, *[1] * (tensor.ndim - 1)))
        out[name] = tensor
    return out


def read_pickled(path: Path, mmap: bool = False) -> Any:
    """Return what `torch.save` wrote, unpickling nothing but tensors, plain values and an `argparse.Namespace`.

    Raises:
        CheckpointError: no such file, damaged, or one that holds more.

    >>> torch.save({"step": 7}, "last.ckpt")
    >>> read_pickled(Path("last.ckpt"))
    {'step': 7}
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # if it cannot be read, the error says so
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
            except RuntimeError as error:
                if not mmap or "mmap" not in str(error):  # a file in the format before torch 1.6 cannot be mapped
                    raise
                return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, OSError, KeyError) as error:
        # PyTorch's own messages advise to unpickle everything, which would run code from the file.
        holds_code = "Unsupported global" in str(error)
        reason = "it holds more than tensors and plain values" if holds_code else "it is none, or it is damaged"
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {reason}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file.

    Raises:
        CheckpointError: the file is damaged or is not safetensors.

    >>> read_tensors(model.folder.path / "model.safetensors")["adapters.image.class_token"].shape
    torch.Size([384])
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def write_tensors(path: Path, tensors: Iterable[LazyTensor]) -> None:
    """Write a safetensors file one tensor at a time: aside, synced, renamed.

    The library's own writer builds the whole file in memory first, which a 4B model cannot afford.

    >>> weight = torch.eye(2)
    >>> write_tensors(Path("w.safetensors"), [("w", torch.float16, (2, 2), lambda: weight)])
    >>> read_tensors(Path("w.safetensors"))["w"].dtype
    torch.float16
    """
    entries = sorted(tensors, key=lambda entry: (-entry[1].itemsize, entry[0]))  # large types first: all stay aligned
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dtype, shape, _ in entries:
        size = dtype.itemsize * torch.Size(shape).numel()
        header[name] = {"dtype": _DTYPES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, _, make in entries:
            tensor = make().detach().to("cpu", dtype).contiguous()
            stream.write(tensor.reshape(-1).view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)


def _replace(path: Path, data: bytes) -> None:
    aside = path.with_name(path.name + ".part")
    with open(aside, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(aside, path)
