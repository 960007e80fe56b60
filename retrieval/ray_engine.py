"""The model on Ray: batches of items go to workers, of this machine or of a cluster, and their vectors stream back."""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .build_config import BuildConfig, BuildReport
from .catalog import Item
from .engine import Engine, embedded
from .found import Failure, printable

ITEMS_A_WORKER = 16_384  # handed out together; enough that loading the models is soon forgotten
BATCHES_A_WORKER = 4  # at least, where that leaves them full, so that all end at about the same time
ATTEMPTS = 3  # at a batch that kills its worker, and as many at each of its items alone
OBJECT_STORE_BYTES = 256 * 2**20  # of a local Ray: paths go out and vectors come back, never media
CORES_A_WORKER = 4  # by default; more threads than these hardly speed up one model

Batch = list[Item]


class Begun:
    """How often work on each batch was begun; an actor, so that it outlives the workers."""

    def __init__(self) -> None:
        self.times: Counter[int] = Counter()

    def count(self, number: int) -> int:
        """Count one more beginning, and return how many that makes."""
        self.times[number] += 1
        return self.times[number]


class EmbeddingWorker:
    """One copy of the model in a process of Ray's."""

    def __init__(self, loading: tuple[str, str, str, str], threads: int, config: BuildConfig, begun: Any) -> None:
        """Load model, device and dtype; the fourth is the fingerprint that it must have."""
        import torch

        from onepeace.cli import load_model

        torch.set_num_threads(threads)
        name, device, dtype, fingerprint = loading
        self.model = load_model(name, device, dtype)
        if self.model.fingerprint != fingerprint:
            raise ValueError(
                f"model {name} is another one on a worker (fingerprint {self.model.fingerprint}) than where the build "
                f"was started ({fingerprint}): install the same onepeace, or put the folder where all see it"
            )
        self.config, self.begun = config, begun

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed the items of one row of `_packed`. The row that comes back has vectors for all but the failures."""
        import ray

        [row] = batch.to_pylist()
        deadly = ray.get(self.begun.count.remote(row["number"])) > ATTEMPTS
        items = [] if deadly else [Item(**told) for told in json.loads(row["items"])]
        report = BuildReport()
        some = list(embedded(items, self.model, self.config, report))
        return pa.table(
            {
                "number": [row["number"]],
                "deadly": [deadly],
                "items": [json.dumps([asdict(item) for found, _ in some for item in found])],
                "vectors": [b"".join(vectors.tobytes() for _, vectors in some)],
                "failures": [json.dumps(report.failed)],
            }
        )


class RayEngine(Engine):
    """Embeds on Ray workers, each with its own copy of the model, while this process alone writes the store.

    Without an address a Ray of its own runs on this machine, out of other machines' reach, until the engine is closed.
    One that this process has initialised is used and left running, as is a cluster that is joined by its address.
    Workers read files by their paths, so a cluster needs a file system that all its nodes see, and onepeace on each.

    Items that come back are ticked off, so one that Ray computes twice counts once, and one whose worker died is
    handed out again. What kills its worker again and again is a failure.

    >>> engine = RayEngine("onepeace-tiny", workers=2)
    >>> engine.name, engine.dimension, engine.modalities
    ('onepeace-tiny', 512, ('text', 'image', 'audio'))
    >>> with engine:  # doctest: +SKIP
    ...     build_store(["photos"], "my-store", engine)
    """

    worker = EmbeddingWorker

    def __init__(
        self,
        model: str | os.PathLike[str] = "onepeace-tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        address: str | None = None,
        workers: int | None = None,
    ) -> None:
        """Name a model as `onepeace.load` does; the workers load it. `workers` None is one a GPU, or 4 CPU cores.

        Raises ValueError (CheckpointError) for a model that is not there, or embeds nothing.
        """
        from onepeace.reader import embedding_folder

        if workers is not None and workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        folder = embedding_folder(Path(model))
        path = folder.path
        self.name, self.fingerprint = folder.name, folder.fingerprint()
        self.dimension, self.modalities = folder.config.embedding_dim, folder.modalities()
        # A shipped model lies elsewhere on other machines.
        self._model = str(model) if path != Path(model) else os.path.abspath(path)
        self._device, self._dtype, self._address, self._wanted = device, dtype, address, workers
        self.workers = 0  # until it is opened
        self._open = ExitStack()

    def __enter__(self) -> Self:
        """Start or join Ray. Raises ImportError without it, ValueError when that cluster or its cores are not there."""
        with ExitStack() as opening:
            ray = _imported(local=self._address is None)
            if not ray.is_initialized():
                _initialise(ray, self._address)
                opening.callback(ray.shutdown)
            elif self._address is not None:
                raise ValueError("this process is connected to a Ray already: leave out the address, or ray.shutdown()")
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            self.workers, self._cpus, self._gpus = shares(nodes, self._wanted, self._device)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def items_at_once(self, config: BuildConfig) -> int:
        """So many that the workers, which load the model anew for them, are busy for long."""
        if not self.workers:
            raise ValueError("the Ray engine is not open: with RayEngine(...) as engine: build_store(..., engine)")
        return max(config.items_at_once, ITEMS_A_WORKER * self.workers)

    def embed(
        self, items: list[Item], config: BuildConfig, report: BuildReport
    ) -> Iterator[tuple[list[Item], npt.NDArray[np.float32]]]:
        """Yield each batch as it comes back. Raises ValueError for workers that cannot load this very model."""
        if not items:
            return
        fair = -(-len(items) // (BATCHES_A_WORKER * self.workers))
        size = max(config.batch_size, min(config.items_at_once, fair))
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        deadly = yield from self._round(batches, config, report)
        if deadly:  # most of these items had only the wrong company
            deadly = yield from self._round([[item] for batch in deadly for item in batch], config, report)
        reason = f"its worker died, {ATTEMPTS} times: perhaps it takes more memory than there is"
        report.failed += [Failure(printable(item.uri), reason) for batch in deadly for item in batch]

    def _round(
        self, batches: list[Batch], config: BuildConfig, report: BuildReport
    ) -> Generator[tuple[list[Item], npt.NDArray[np.float32]], None, list[Batch]]:
        """Hand each batch to a worker and yield what comes back. Return those whose workers died."""
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_arrow

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        waiting = dict(enumerate(batches))
        deadly: list[Batch] = []
        begun: Any = ray.remote(num_cpus=0)(Begun).remote()
        loading = (self._model, self._device, self._dtype, self.fingerprint)
        with DataContext.current(context):
            answers = from_arrow([_packed(number, batch) for number, batch in waiting.items()]).map_batches(
                self.worker,
                batch_size=1,
                batch_format="pyarrow",
                fn_constructor_args=(loading, self._cpus, config, begun),
                compute=ActorPoolStrategy(size=min(self.workers, len(batches))),
                num_cpus=self._cpus,
                num_gpus=self._gpus,
            )
        try:
            tables: Any = answers.iter_batches(batch_size=None, batch_format="pyarrow")
            for table in tables:
                for answer in table.to_pylist():
                    batch = waiting.pop(answer["number"], None)
                    if batch is None:  # computed twice
                        continue
                    if answer["deadly"]:
                        deadly.append(batch)
                        continue
                    report.failed += [Failure(*told) for told in json.loads(answer["failures"])]
                    kept = [Item(**told) for told in json.loads(answer["items"])]
                    yield kept, np.frombuffer(answer["vectors"], np.float32).reshape(len(kept), self.dimension)
        except ray.exceptions.RayError as error:
            raise ValueError(f"the workers gave up: {_last_line(error)}") from error
        finally:
            ray.kill(begun)
        return [*deadly, *waiting.values()]


def _packed(number: int, batch: Batch) -> pa.Table:
    return pa.table({"number": [number], "items": [json.dumps([asdict(item) for item in batch])]})


def _imported(local: bool) -> Any:
    wanted = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # notes on dead workers, which Ray writes to stdout
    }
    if local:  # whatever its name says, it makes every part of Ray listen on the loopback interface only
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    for name, value in wanted.items():  # read when Ray is imported
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"the Ray engine needs Ray: pip install 'onepeace[scale]' ({error})") from error
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what matters is raised
    return ray


def _initialise(ray: Any, address: str | None) -> None:
    own = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES} if address is None else {}
    try:
        if address is not None and address != "auto":
            _knock(address)
        with _silent_stderr():
            ray.init(address or "local", log_to_driver=False, logging_level=logging.CRITICAL, **own)
    except Exception as error:  # a start that takes too long is no more than that to Ray
        wanted = "Ray cannot be started here" if address is None else f"no Ray cluster can be joined at {address!r}"
        raise ValueError(f"{wanted}: {_last_line(error.__cause__ or error)}") from error


def _knock(address: str) -> None:
    """Raise ValueError or OSError unless somebody listens there; Ray would take minutes to say so."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise ValueError("give HOST:PORT, or auto for the cluster that this machine belongs to")
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Hide what Ray's C++ parts say: being told to be quiet, they first say that."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def shares(nodes: Sequence[dict[str, float]], workers: int | None, device: str) -> tuple[int, int, int]:
    """Return how many workers there will be, and how many CPU cores and GPUs each has, given each node's resources.

    Raises ValueError for more workers than GPUs (unless `device` is "cpu") or cores.
    """
    cores = [int(node.get("CPU", 0)) for node in nodes]
    gpus = 0 if device == "cpu" else int(sum(node.get("GPU", 0) for node in nodes))
    if device.startswith("cuda") and not gpus:
        raise ValueError(f"device {device!r} needs a GPU, and Ray has none: leave it at auto, or say cpu")
    wanted = workers or gpus or max(1, sum(count // CORES_A_WORKER for count in cores))
    if gpus and wanted > gpus:
        raise ValueError(f"Ray has {gpus} GPUs: at most so many workers, got {wanted} (--device cpu uses cores)")

    def places(share: int) -> int:
        each = (count // share for count in cores)
        return sum(
            min(place, int(node.get("GPU", 0))) if gpus else place for place, node in zip(each, nodes, strict=True)
        )

    fitting = [share for share in range(1, max(cores) + 1) if places(share) >= wanted]
    if not fitting:
        raise ValueError(f"Ray has {sum(cores)} CPU cores: at most so many workers, got {wanted}")
    return wanted, fitting[-1], min(1, gpus)


def _last_line(error: BaseException) -> str:
    """Of a worker's traceback, the error itself."""
    return str(error).strip().splitlines()[-1].strip() or type(error).__name__
