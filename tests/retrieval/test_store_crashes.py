"""kill -9 at every step of a write and at any moment: what returned is there, nothing is half there."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retrieval import Item, ModelTag, QueryModel, Store, StoreError
from retrieval.integrity import problems

TextItems = Callable[..., list[Item]]

# Kills itself before the k-th call that changes what is on the disk, for k = 1, 2, ... until a write comes through.
SCRIPT = """
import json, os, pathlib, shutil, signal, sys
import numpy as np
import retrieval.index, retrieval.writer
from retrieval import Item, ModelTag, Store

action, root = sys.argv[1], pathlib.Path(sys.argv[2])
tag = ModelTag(*json.loads(sys.argv[3]))
left = None

def deadly(name):
    real = getattr(os, name)
    def call(*args, **kwargs):
        global left
        if left is not None:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    setattr(os, name, call)

for name in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir"):
    deadly(name)

items = [Item(f"new/{n}", "text", "x") for n in range(3)]
vectors = np.eye(3, tag.dimension)
if action == "seal":
    retrieval.writer.SEGMENT_BYTES = 1

def act(folder):
    if action == "create":
        return Store.create(folder, items, vectors, model=tag)
    with Store.open(folder) as store, store.writing() as writer:
        if action in ("add", "seal"):
            writer.add(items, vectors)
        elif action == "delete":
            writer.delete(["text/1", "text/4"])
        elif action == "replace":
            writer.add([Item("text/1", "text", "x"), items[0]], vectors[:2], replace=True)
        elif action == "compact":
            writer.compact()
        elif action == "merge":
            writer.merge("ivf-sq")

k, status = 0, None
while status != 0:
    folder = root / f"{k:03d}" / "store"
    folder.parent.mkdir()
    if action != "create":
        shutil.copytree(root / "base", folder)
    child = os.fork()
    if child == 0:
        left = k
        act(folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL), status
    k += 1
"""


def killed(action: str, root: Path, tag: ModelTag) -> list[Path]:
    """Run SCRIPT; return the folder of each run, in the order of the step before which it was killed."""
    arguments = [action, str(root), json.dumps([tag.name, tag.fingerprint, tag.dimension])]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, timeout=300)
    return [folder / "store" for folder in sorted(root.iterdir()) if folder.name != "base"]


@pytest.fixture
def root(store: Store, tmp_path: Path) -> Path:
    root = tmp_path / "root"
    root.mkdir()
    store.delete(["text/5"])
    store.close()
    store.folder.rename(root / "base")
    return root


OLD = [f"text/{n}" for n in range(5)]
AFTER = {
    "add": [*OLD, "new/0", "new/1", "new/2"],
    "seal": [*OLD, "new/0", "new/1", "new/2"],
    "delete": ["text/0", "text/2", "text/3"],
    "replace": ["text/0", "text/2", "text/3", "text/4", "text/1", "new/0"],
    "compact": OLD,
    "merge": OLD,
}


@pytest.mark.parametrize("action", AFTER)
def test_a_write_that_is_killed_leaves_the_old_or_the_new_state(
    action: str, root: Path, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    new = AFTER[action]
    seen = []
    for folder in killed(action, root, tag):
        with Store.open(folder, verify=True) as store:
            seen.append([item.id for item in store.catalog])
            assert seen[-1] in (OLD, new)
            found = store.current.search(model.encode(sentences), len(store))[1]
            assert sorted(found[0]) == sorted(row for row, _ in store.catalog.numbered())
            store.add(text_items(sentences, "next"), model.encode(sentences))
        after = Store.open(folder, verify=True)
        assert [item.id for item in after.catalog] == seen[-1] + [f"next/{n}" for n in range(6)]
        assert len(list(folder.glob("generation-*"))) == 1
        names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("generation"))
        assert names == ["manifest.json", "writer.lock"]
        left = {path.name for path in after.current.manifest.home(folder).iterdir()}
        assert not {name for name in left if name.startswith(".")}
    assert len(seen) > 5
    if new != OLD:
        assert seen == sorted(seen, key=lambda ids: ids == new)  # once it counts, it goes on to count
        assert seen.count(OLD) >= 2
        assert seen.count(new) >= 2  # killed afterwards, and not killed


def test_a_create_that_is_killed_leaves_no_store_or_a_whole_one(root: Path, tag: ModelTag) -> None:
    seen = []
    for folder in killed("create", root, tag):
        if folder.exists():
            seen.append([item.id for item in Store.open(folder, verify=True).catalog])
        else:
            seen.append([])
            Store.create(folder, [], [], model=tag)
        assert [path.name for path in folder.parent.iterdir()] == ["store"]
    assert seen == sorted(seen, key=len)
    assert seen.count([]) >= 5
    assert seen.count(["new/0", "new/1", "new/2"]) >= 1


# Adds, deletes, merges and compacts without end, and says what has returned.
WORKER = """
import random, sys
import numpy as np
import retrieval.writer
from retrieval import Item, Store

retrieval.writer.SEGMENT_BYTES = 40_000
retrieval.writer.TAIL_ROWS = 300
random.seed(int(sys.argv[2]))

def vector(name):
    return np.random.default_rng(int(name)).normal(size=16)

print("opening", flush=True)
with Store.open(sys.argv[1]) as store, store.writing() as writer:
    there = [item.id for item in store.catalog]
    print("open", flush=True)
    number = max([int(name) for name in there], default=0)
    while True:
        kind = random.choices(["add", "delete", "replace", "compact", "merge"], [10, 5, 3, 0.3, 0.3])[0]
        if kind == "add":
            names = [str(number + n) for n in range(1, random.randint(2, 60))]
            number += len(names)
        else:
            names = random.sample(there, min(len(there), random.randint(1, 20)))
        print("begin", kind, *names, flush=True)
        if kind == "delete":
            writer.delete(names)
            there = [name for name in there if name not in set(names)]
        elif kind in ("add", "replace") and names:
            rows = np.stack([vector(name) for name in names])
            writer.add([Item(name, "text", kind) for name in names], rows, replace=kind == "replace")
            there += names if kind == "add" else []
        elif kind == "compact":
            writer.compact()
        elif kind == "merge":
            writer.merge()
        print("end", flush=True)
"""


def one_life(folder: Path, seed: int, seconds: float) -> tuple[list[list[str]], list[str] | None, float]:
    """Let a worker live for a while; return what it finished, what it had begun, and how long opening took."""
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder), str(seed)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "opening\n"
        begun = time.monotonic()
        assert process.stdout.readline() == "open\n"
        opening = time.monotonic() - begun
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        lines = [line.split() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    finished, pending = [], None
    for line in lines:
        if line[0] == "begin":
            pending = line[1:]
        else:
            assert pending is not None
            finished.append(pending)
            pending = None
    return finished, pending, opening


def applied(state: dict[str, str], action: list[str]) -> dict[str, str]:
    kind, names = action[0], action[1:]
    if kind == "delete":
        return {name: uri for name, uri in state.items() if name not in set(names)}
    return state | dict.fromkeys(names, kind) if kind in ("add", "replace") else state


def survive(folder: Path, lives: int, tag: ModelTag) -> None:
    Store.create(folder, model=tag, kind="ivf-sq", recall=0.9).close()
    state: dict[str, str] = {}
    draws = random.Random(7)
    for life in range(lives):
        finished, pending, opening = one_life(folder, life, draws.random() * 0.4)
        assert opening < 10  # a bound for a hung recovery, not a measurement
        for action in finished:
            state = applied(state, action)
        assert problems(folder) == []
        with Store.open(folder) as store:
            found = {item.id: item.uri for item in store.catalog}
            assert found in (state, applied(state, pending or ["none"])), (life, pending)
            state = found
            if found:
                names = random.Random(life).sample(sorted(found), min(len(found), 20))
                expected = np.stack([np.random.default_rng(int(name)).normal(size=16) for name in names])
                expected /= np.linalg.norm(expected, axis=1, keepdims=True)
                np.testing.assert_allclose(store.vectors(names), expected, atol=1e-6)
                scores, rows = store.current.search(store.vectors(names), 1)
                np.testing.assert_allclose(scores, 1, atol=1e-5)
                assert [item.id for item in store.catalog.items(rows[:, 0])] == names
    assert len(state) > 100


def test_killed_at_random_moments_nothing_acknowledged_is_lost(tmp_path: Path, tag: ModelTag) -> None:
    survive(tmp_path / "store", 12, tag)


@pytest.mark.slow
def test_killed_at_two_hundred_random_moments_nothing_acknowledged_is_lost(tmp_path: Path, tag: ModelTag) -> None:
    survive(tmp_path / "store", 200, tag)


FULL_DISK = """
import resource, signal, sys
import numpy as np
from retrieval import Item, Store

store = Store.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
items = [Item(f"new/{n}", "text", "x" * 100) for n in range(2_000)]
for limit in (0, 100, 2_000, 10_000, 50_000, 131_500, 200_000, 330_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.add(items, np.ones((2_000, store.model.dimension)))
    except OSError:
        print("refused", len(store))
"""


def test_a_full_disk_is_an_error_and_leaves_the_old_state(store: Store, model: QueryModel) -> None:
    before = list(store.catalog)
    store.close()
    arguments = [sys.executable, "-c", FULL_DISK, str(store.folder)]
    done = subprocess.run(arguments, check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout.split("\n")[:-1] == ["refused 6"] * 8
    with Store.open(store.folder, verify=True) as opened:
        assert list(opened.catalog) == before
        opened.add([Item("new", "text", "x")], model.encode(["new"]))
    assert len(Store.open(store.folder, verify=True)) == len(before) + 1


READ_ONLY = """
import mmap, os, sys  # now, while Python's own files can be read
import numpy as np
from retrieval import Item, Store

Store
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
with Store.open(sys.argv[1], verify=True) as store:
    print(len(store), store.current.search(store.vectors(["text/3"]), 1)[1].tolist())
    try:
        store.add([Item("new", "text", "x")], np.ones((1, store.model.dimension)))
    except OSError as error:
        print(type(error).__name__, store.folder.name in str(error))
"""


def test_a_folder_that_cannot_be_written_is_read(store: Store, tmp_path: Path) -> None:
    store.close()
    for path in (store.folder, *store.folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    try:
        arguments = [sys.executable, "-c", READ_ONLY, str(store.folder)]
        done = subprocess.run(arguments, timeout=300, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    finally:
        for path in (store.folder, *store.folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.stdout.splitlines() == ["6 [[3]]", "PermissionError True"], done.stderr
    with pytest.raises(StoreError, match="already exists"):
        Store.create(store.folder, model=store.model)
