"""`onepeace check`: whether this installation works, from versions to a store; the checks of a store are here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onepeace.cli import DeviceOption, JsonOption, ModelOption

from .gallery import GALLERY

if TYPE_CHECKING:
    from onepeace.check import Check, Finding, Samples

    from .store import Store

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - Linux's; it is looked at, nothing is written
ITEMS, WIDTH, QUERIES, K = 500, 64, 5, 10  # of the store that is made
# The first of each has reference figures.
TEXTS = ("a dog barking", "two sailing boats on the sea", "rain", "a red apple on a table, seen from above, in the sun")
PICTURES = ("astronaut-orange-space", "two-sailing-boats", "red-apple", "face-tabby-cat", "rocket-launch-pad")
SOUNDS = ("dog-barking-again", "bee-buzzing", "clock-ticking-once", "cow-mooing", "rooster-crowing")


def check_command(
    model: ModelOption = "onepeace-tiny",
    device: DeviceOption = "auto",
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what takes longest: batches and speed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Prove that this installation works: versions, kernels, the model's vectors, media, a store, speed.

    Exit code 0: all is well, though perhaps slow. 1: something is wrong, and
    its line says what to do. Extras that are not installed are no failure.

    \b
    Examples:
      onepeace check
      onepeace check --quick --json
      onepeace check --model my-model --device cuda
    """
    from onepeace.check import ModelChecks, environment_checks, print_rows, run, to_json
    from onepeace.memory import keep_freed_memory

    from .command_options import print_json

    keep_freed_memory()
    checks = environment_checks() + ModelChecks(model, gallery_samples(), device, quick=quick).all() + store_checks()
    rows = run(checks)
    if as_json:
        print_json(to_json(rows))
    else:
        print_rows(rows)
    if any(row.wrong for row in rows):
        raise typer.Exit(1)


def gallery_samples() -> Samples:
    """Return inputs of the gallery that ships."""
    from onepeace.check import Samples

    return Samples(
        TEXTS,
        [GALLERY / "pictures" / f"{name}.webp" for name in PICTURES],
        [GALLERY / "sounds" / f"{name}.ogg" for name in SOUNDS],
    )


def store_checks() -> list[Check]:
    """Return the checks of what stores and the service need."""
    from onepeace.check import Check

    advice = "pip install --force-reinstall faiss-cpu pyarrow numpy"
    return [
        Check("store", "round trip", round_trip, advice),
        Check("store", "index", approximate, advice),
        Check("store", "damage", damage, "install onepeace again"),
        Check("store", "shared memory", shared_memory, "start the container with --shm-size=256m"),
    ]


@contextmanager
def little_store(kind: str = "exact") -> Iterator[Store]:
    """Yield a store of random vectors in a temporary folder."""
    import numpy as np

    from .catalog import Item
    from .manifest import ModelTag
    from .store import Store

    rows_ND = np.random.default_rng(0).normal(size=(ITEMS, WIDTH)).astype(np.float32)
    items = [Item(f"item-{i}", "text", f"item-{i}", {"text": f"item {i}"}) for i in range(ITEMS)]
    with tempfile.TemporaryDirectory(prefix="onepeace-check-") as folder:
        tag = ModelTag("onepeace-check", "0" * 16, WIDTH)
        with Store.create(Path(folder) / "store", items, rows_ND, model=tag, kind=kind) as store:
            yield store


def round_trip() -> Finding:
    """Make a store, change it, open it again, search it, and compare with brute force."""
    import numpy as np

    from onepeace.check import Finding, Outcome

    from .integrity import problems
    from .store import Store

    with little_store() as store:
        store.delete(["item-3"])
        store.close()
        with Store.open(store.folder, verify=True) as again:
            ids = [f"item-{i}" for i in range(ITEMS) if i != 3]
            rows_ND = again.vectors(ids)
            _, found = again.current.search(rows_ND[:QUERIES], K)
            hits = [[item.id for item in again.current.items(keys)] for keys in found]
        expected = [[ids[i] for i in np.argsort(-row)[:K]] for row in rows_ND[:QUERIES] @ rows_ND.T]
        wrong = problems(store.folder)
    if wrong:
        return Finding(Outcome.FAILED, wrong[0].what, "look for a failing disk, and set TMPDIR to another folder")
    if hits != expected:
        advice = "pip install --force-reinstall faiss-cpu numpy"
        return Finding(Outcome.FAILED, "search finds other items than brute force", advice)
    return Finding(
        Outcome.OK, f"{ITEMS} items written, one deleted, opened again; {QUERIES} searches as by brute force"
    )


def approximate() -> Finding:
    """Search through FAISS's graph: nearly all that brute force finds must be found."""
    from onepeace.check import Finding, Outcome

    with little_store("hnsw") as store:
        rows_ND = store.vectors([f"item-{i}" for i in range(ITEMS)])
        _, found = store.current.search(rows_ND[:QUERIES], K)
        best = (-(rows_ND[:QUERIES] @ rows_ND.T)).argsort(axis=1)[:, :K]
        hits = [{item.id for item in store.current.items(keys)} for keys in found]
    share = sum(len({f"item-{i}" for i in row} & hit) for row, hit in zip(best, hits, strict=True)) / (QUERIES * K)
    if share < 0.9:
        advice = "pip install --force-reinstall faiss-cpu"
        return Finding(Outcome.FAILED, f"HNSW finds {share:.0%} of what is nearest", advice)
    return Finding(Outcome.OK, f"HNSW finds {share:.0%} of what is nearest")


def damage() -> Finding:
    """Flip a byte of the vectors: verifying must name the file."""
    from onepeace.check import Finding, Outcome

    from .integrity import problems

    with little_store() as store:
        store.close()
        path = max(store.folder.rglob("*"), key=lambda file: file.stat().st_size if file.suffix == ".vectors" else 0)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        found = [problem for problem in problems(store.folder) if problem.path == path]
    if not found:
        return Finding(Outcome.FAILED, f"a changed byte in {path.name} is not noticed", "install onepeace again")
    return Finding(Outcome.OK, "a changed byte is noticed")


def shared_memory() -> Finding:
    """Look whether the service's inputs find room on their way to the model."""
    from onepeace.check import Finding, Outcome
    from onepeace.check.versions import has_extra

    from .service.slots import SLOT_BYTES
    from .service.worker import SLOTS

    if not SHARED_MEMORY.is_dir():
        return Finding(Outcome.SKIPPED, f"no {SHARED_MEMORY} on this system")
    free, needed = shutil.disk_usage(SHARED_MEMORY).free, SLOTS * SLOT_BYTES
    told = f"{free / 2**20:,.0f} MiB free in {SHARED_MEMORY}, the service takes {needed / 2**20:.0f}"
    if free >= needed:
        return Finding(Outcome.OK, told)
    if not has_extra("service"):
        return Finding(Outcome.SKIPPED, f"{told}; it is not installed")
    return Finding(Outcome.FAILED, told, "start the container with --shm-size=256m, or free some there")
