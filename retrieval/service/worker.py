"""The model in a process of its own, watched over: when it dies, its batches fail and another one takes its place."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .slots import Place, Slots, array_at

if TYPE_CHECKING:
    from onepeace.sequences import Reading

Rows = npt.NDArray[np.float32]
Row = Mapping[str, Sequence[npt.NDArray[Any]]]  # of a question: arrays by the name of its part
Layout = list[list[tuple[str, int]]]  # how many arrays each part of each row has
HEAD = "head:"  # in front of a head's name, where a batch is for that head and not of a modality
ASK = "ask"  # where it asks sequences
LANES = 2  # batches that are computed side by side
SLOTS = LANES + 2  # batches whose windows lie in shared memory; one waits, one is written
RESERVED_BYTES = 512 * 2**20  # beside the weights, for batches and compiled kernels: what onepeace-tiny needs
PATIENCE = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)  # seconds between starts that failed
START_SECONDS = 300.0  # until a model must be loaded

logger = logging.getLogger(__name__)


class WorkerGoneError(Exception):
    """The process died, was stuck, or is being started: try again soon."""


@dataclass(frozen=True)
class ModelSource:
    """Which model to load, as `onepeace.load` takes it."""

    model: str
    device: str = "auto"
    dtype: str = "auto"
    heads: Mapping[str, str] = field(default_factory=dict)  # name -> folder of a task's model


def work(connection: Connection, source: ModelSource, shared: str) -> None:
    """Load the models, then answer batches until the pipe is closed. Runs in the worker's process."""
    import signal

    import onepeace
    from onepeace.memory import keep_freed_memory, reserve_memory

    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the service drains first
    try:
        embedder = onepeace.load_embedder(source.model, device=source.device, dtype=source.dtype)
        heads = {f"{HEAD}{name}": onepeace.load_task(at, device=source.device) for name, at in source.heads.items()}
    except Exception as error:
        connection.send(("failed", " ".join(str(error).split())))
        return
    reserve_memory(RESERVED_BYTES)
    memory = SharedMemory(shared)
    connection.send(("ready", embedder.model.logit_scale))
    sending = threading.Lock()

    def compute(number: int, wanted: str, layout: Layout | None, places: list[Any]) -> None:
        windows: list[Any] = [array_at(memory, place) if isinstance(place, Place) else place for place in places]
        answer: Any
        try:
            if layout is None:
                answer = embedder.embed_windows(wanted, windows)
            elif wanted == ASK:
                answer = [embedder.ask_windows(row["text"], *row["items"])[0] for row in _rows(windows, layout)]
            else:
                answer = heads[wanted].numbers(_rows(windows, layout))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        with sending, suppress(OSError):  # the service is gone
            connection.send((number, answer))

    with ThreadPoolExecutor(LANES) as lanes:
        while True:
            try:
                batch = connection.recv()
            except (EOFError, OSError):
                return  # the service is gone
            lanes.submit(compute, *batch)


def _rows(arrays: Sequence[Any], layout: Layout) -> list[dict[str, list[Any]]]:
    """Return arrays by row and part, as they were before they were put in one list."""
    import torch

    waiting = iter(arrays)
    return [{part: [torch.from_numpy(next(waiting)) for _ in range(count)] for part, count in row} for row in layout]


class Pending(NamedTuple):
    """A batch that was sent."""

    answer: Future[Any]
    begun: float  # when it was sent, or when a lane was free for it
    slot: int | None  # that its windows are in


class ModelWorker:
    """Runs batches in the worker's process, a few side by side, begun in the order they came."""

    def __init__(self, source: ModelSource, *, batch_seconds: float = 60.0) -> None:
        self.source = source
        self.batch_seconds = batch_seconds
        self.ready = False
        self.logit_scale = 1.0  # of the loaded model
        self.starts = 0  # processes that were started
        self.failure: str | None = None  # why the model cannot be loaded
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["onepeace.loading"])  # so that a new process needs no imports
        self._process: Any = None
        self._connection: Connection | None = None
        self._pending: dict[int, Pending] = {}  # by number
        self._slots = Slots(SLOTS)
        self._number = 0
        self._lock = threading.Lock()
        self._senders = ThreadPoolExecutor(1, thread_name_prefix="to-worker")
        self._sending = threading.Lock()  # apart, since a full pipe holds the sender until the worker reads
        self._closing = threading.Event()
        self._settled = threading.Event()  # the first start is over
        self._thread = threading.Thread(target=self._supervise, name="model-worker", daemon=True)

    def start(self) -> None:
        """Start the first process and return once the model is loaded. Raises ValueError when it cannot be."""
        self._thread.start()
        self._settled.wait()
        if not self.ready:
            self.close()
            raise ValueError(self.failure or f"the process of model {self.source.model!r} ended before it was loaded")

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return None if self._process is None else self._process.pid

    async def embed(self, modality: str, windows: Sequence[Any]) -> Rows:
        """Return (N, D) rows of N prepared windows. Raises WorkerGoneError, and RuntimeError of the model's own."""
        rows: Rows = await self._asked(modality, None, list(windows))
        return rows

    async def predict(self, head: str, rows: Sequence[Row]) -> list[Rows]:
        """Return what a head says of each row of questions. Raises WorkerGoneError, and RuntimeError of the model's."""
        numbers: list[Rows] = await self._answers(f"{HEAD}{head}", rows)
        return numbers

    async def ask(self, rows: Sequence[Row]) -> list[Reading]:
        """Return what the `items` of each row, one array (N, D), say to its `text`. Raises as `predict` does."""
        readings: list[Reading] = await self._answers(ASK, rows)
        return readings

    async def _answers(self, wanted: str, rows: Sequence[Row]) -> Any:
        layout = [[(part, len(arrays)) for part, arrays in row.items()] for row in rows]
        return await self._asked(wanted, layout, [array for row in rows for arrays in row.values() for array in arrays])

    async def _asked(self, wanted: str, layout: Layout | None, arrays: list[Any]) -> Any:
        send = partial(self._send, wanted, layout, arrays)
        return await asyncio.wrap_future(await asyncio.get_running_loop().run_in_executor(self._senders, send))

    def _send(self, wanted: str, layout: Layout | None, windows: list[Any]) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        with self._sending:
            with self._lock:
                connection = self._connection
                if connection is None:
                    raise WorkerGoneError("the model is being started")
                self._number += 1
                number = self._number
                written = self._slots.write(windows)
                slot, places = (None, windows) if written is None else written
                self._pending[number] = Pending(future, time.monotonic(), slot)
            try:
                connection.send((number, wanted, layout, places))
            except (OSError, ValueError, TypeError):  # closed meanwhile
                with self._lock:
                    self._forget(self._pending.pop(number, None))
                raise WorkerGoneError("the model's process has ended") from None
        return future

    def _supervise(self) -> None:
        failures, loaded = 0, False
        while not self._closing.is_set():
            try:
                came_up = self._one_life()
            except Exception as error:  # no process could be started: no memory, no file handles
                logger.exception("the model's process cannot be started")
                self.failure, came_up = str(error), False
            loaded = loaded or came_up
            self._settled.set()
            if self._closing.is_set() or not loaded:  # what never came up is for `start` to tell
                return
            failures = 0 if came_up else failures + 1
            logger.warning("the model's process has ended, another one is started")
            self._closing.wait(PATIENCE[min(failures, len(PATIENCE) - 1)])

    def _one_life(self) -> bool:
        """Start a process and hand on its answers until it ends; return whether it ever was ready."""
        ours, theirs = self._context.Pipe()
        self._process = self._context.Process(target=work, args=(theirs, self.source, self._slots.name), daemon=True)
        self._process.start()
        self.starts += 1
        theirs.close()
        came_up = False
        begun = time.monotonic()
        try:
            while not self._closing.is_set():
                if not ours.poll(0.25):
                    if self._is_stuck(begun if not came_up else None):
                        logger.error("the model's process does not answer and is ended")
                        break
                    continue
                kind, content = ours.recv()
                if kind == "ready":
                    with self._lock:
                        self._connection, self.ready, came_up = ours, True, True
                    self.logit_scale = content
                    self._settled.set()
                elif kind == "failed":
                    self.failure = content
                    break
                else:
                    self._answer(kind, content)
        except (EOFError, OSError):
            pass
        with self._lock:
            self.ready, self._connection = False, None
            lost, self._pending = self._pending, {}
        ours.close()
        self._process.kill()
        self._process.join()
        with self._lock:
            for pending in lost.values():
                self._forget(pending)
        for pending in lost.values():
            pending.answer.set_exception(WorkerGoneError("the model's process has ended"))
        return came_up

    def _is_stuck(self, loading_since: float | None) -> bool:
        if loading_since is not None:
            return time.monotonic() - loading_since > START_SECONDS
        with self._lock:
            computed = list(self._pending.values())[:LANES]
            oldest = min((pending.begun for pending in computed), default=time.monotonic())
        return time.monotonic() - oldest > self.batch_seconds

    def _answer(self, number: int, content: Any) -> None:
        with self._lock:
            done = self._pending.pop(number)
            self._forget(done)
            for begins in list(self._pending)[LANES - 1 : LANES]:  # now, however long it has waited in the pipe
                self._pending[begins] = self._pending[begins]._replace(begun=time.monotonic())
        if isinstance(content, str):
            done.answer.set_exception(RuntimeError(content))
        else:
            done.answer.set_result(content)

    def _forget(self, pending: Pending | None) -> None:
        if pending is not None and pending.slot is not None:
            self._slots.release(pending.slot)

    def close(self) -> None:
        """End the process."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._senders.shutdown()
        self._slots.close()
