"""kill -9 and Ctrl-C at every step of a write and at any moment: what returned is there, nothing is half there."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from retrieval import Item, ModelTag, QueryModel, Store, StoreError
from retrieval.integrity import problems
from retrieval.migrate import migrate
from retrieval.repair import repair
from retrieval.snapshot import snapshot

TextItems = Callable[..., list[Item]]

# Stops itself at the k-th step that changes what is on the disk, for k = 1, 2, ... until an action comes through: with
# SIGKILL, or with SIGINT, after which the same writer goes on.
SCRIPT = """
import json, os, pathlib, shutil, signal, sys
import numpy as np
import retrieval.index, retrieval.writer
from retrieval import Item, ModelTag, Store
from retrieval.catalog import CatalogWriter
from retrieval.migrate import migrate
from retrieval.repair import repair
from retrieval.snapshot import snapshot

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
action, how, root = sys.argv[1], getattr(signal, sys.argv[2]), pathlib.Path(sys.argv[3])
tag = ModelTag(*json.loads(sys.argv[4]))
left = None

def step():
    global left
    if left is not None:
        left -= 1
        if left < 0:
            left = None
            signal.raise_signal(how)

def deadly(place, name, after=False):
    real = getattr(place, name)
    def call(*args, **kwargs):
        step()
        result = real(*args, **kwargs)
        if after:
            step()
        return result
    setattr(place, name, call)

for name in ("replace", "rename", "fsync", "mkdir", "unlink", "rmdir"):
    deadly(os, name)
deadly(CatalogWriter, "apply", after=True)
whole = retrieval.writer.append

def in_halves(file, position, content):
    step()
    half = len(content) // 2
    whole(file, position, content[:half])
    step()
    whole(file, position + half, content[half:])

retrieval.writer.append = in_halves

class Stepping:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def truncate(self, size):
        step()
        return self.file.truncate(size)

retrieval.writer.open = lambda *args, **kwargs: Stepping(open(*args, **kwargs))
items = [Item(f"new/{n}", "text", "x") for n in range(3)]
vectors = np.eye(3, tag.dimension)
if action == "seal":
    retrieval.writer.SEGMENT_BYTES = 1

def change(writer):
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

def refused(*args):
    raise OSError("the disk is full")

def act(folder):
    if action == "refused":
        with Store.open(folder) as store, store.writing() as writer:
            CatalogWriter.apply = refused
            try:
                writer.add(items, vectors)
            except OSError:
                pass
    elif action == "create":
        Store.create(folder, items, vectors, model=tag)
    elif action == "repair":
        repair(folder, snapshot=root / "copy")
    elif action == "rebuild":
        repair(folder)
    elif action == "migrate":
        migrate(folder)
    elif action == "snapshot":
        with Store.open(root / "base") as store:
            snapshot(store, folder)
    else:
        with Store.open(folder) as store, store.writing() as writer:
            change(writer)

def act_and_go_on(folder, k):
    global left
    interrupted = False
    if action == "create":
        try:
            left = k
            act(folder)
        except KeyboardInterrupt:
            return True
        return False
    with Store.open(folder) as store, store.writing() as writer:
        try:
            left = k
            change(writer)
        except KeyboardInterrupt:
            interrupted = True
        left = None
        writer.add([Item("after", "text", "x")], vectors[:1])
    return interrupted

k, going = 0, True
while going:
    folder = root / f"{k:03d}" / "store"
    folder.parent.mkdir()
    if action not in ("create", "snapshot"):
        shutil.copytree(root / "base", folder)
    child = os.fork()
    if child == 0:
        if how == signal.SIGINT:
            os._exit(7 if act_and_go_on(folder, k) else 0)
        left = k
        act(folder)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 7 if how == signal.SIGINT else -how), status
    going = status != 0
    k += 1
"""


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where there is one: waiting for a disk adds nothing to a process that dies."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def stopped(action: str, root: Path, tag: ModelTag, how: str = "SIGKILL") -> list[Path]:
    """Run SCRIPT; return the folder of each run, in the order of the step at which it was stopped."""
    arguments = [action, how, str(root), json.dumps([tag.name, tag.fingerprint, tag.dimension])]
    subprocess.run([sys.executable, "-c", SCRIPT, *arguments], check=True, timeout=300)
    return [folder / "store" for folder in sorted(root.iterdir()) if folder.name.isdigit()]


@pytest.fixture
def root(store: Store, quick_path: Path) -> Path:
    root = quick_path / "root"
    root.mkdir()
    store.delete(["text/5"])
    store.close()
    shutil.move(store.folder, root / "base")
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


def ids(folder: Path) -> list[str]:
    with Store.open(folder, verify=True) as store:
        return [item.id for item in store.catalog]


@pytest.mark.parametrize("action", AFTER)
def test_a_write_that_is_killed_leaves_the_old_or_the_new_state(
    action: str, root: Path, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    new = AFTER[action]
    seen = []
    for folder in stopped(action, root, tag):
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
        assert seen.count(OLD) >= 5
        assert seen.count(new) >= 3  # killed afterwards, and not killed


@pytest.mark.parametrize("action", AFTER)
def test_a_write_that_is_interrupted_leaves_the_old_or_the_new_state_and_its_writer_goes_on(
    action: str, root: Path, tag: ModelTag
) -> None:
    new = AFTER[action]
    seen = []
    for folder in stopped(action, root, tag, "SIGINT"):
        assert problems(folder) == []
        *found, last = ids(folder)
        assert last == "after"
        assert found in (OLD, new)
        seen.append(found)
    assert len(seen) > 5
    if new != OLD:
        assert seen == sorted(seen, key=lambda ids: ids == new)
        assert seen.count(OLD) >= 3
        assert seen.count(new) >= 2


def test_a_write_that_is_killed_while_it_is_taken_back_is_whole_or_gone(root: Path, tag: ModelTag) -> None:
    seen = [ids(folder) for folder in stopped("refused", root, tag)]
    assert all(found in (OLD, AFTER["add"]) for found in seen)
    assert seen.count(AFTER["add"]) >= 1  # its record was there
    assert seen[-1] == OLD


def test_a_create_that_is_killed_leaves_no_store_or_a_whole_one(root: Path, tag: ModelTag) -> None:
    seen = []
    for folder in stopped("create", root, tag):
        if folder.exists():
            seen.append(ids(folder))
        else:
            seen.append([])
            Store.create(folder, [], [], model=tag)
        assert [path.name for path in folder.parent.iterdir()] == ["store"]
    assert seen == sorted(seen, key=len)
    assert seen.count([]) >= 5
    assert seen.count(["new/0", "new/1", "new/2"]) >= 1


def test_a_create_that_is_interrupted_leaves_no_store_and_no_files_or_a_whole_one(root: Path, tag: ModelTag) -> None:
    seen = []
    for folder in stopped("create", root, tag, "SIGINT"):
        seen.append([path.name for path in folder.parent.iterdir()])
        assert seen[-1] == [] or ids(folder) == ["new/0", "new/1", "new/2"]
    assert seen == sorted(seen)
    assert seen.count([]) >= 5
    assert seen[-1] == ["store"]


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("action", ["repair", "rebuild"])
def test_a_repair_that_is_killed_can_be_repeated(action: str, root: Path, tag: ModelTag) -> None:
    with Store.open(root / "base") as store:
        snapshot(store, root / "copy")
        before = store.vectors(OLD)
    if action == "repair":
        flip(next((root / "base").rglob("*.vectors")), 3)
    else:
        flip(root / "base" / "manifest.json", 40)
        flip(next((root / "base").rglob("catalog.sqlite")), 5_000)
    folders = stopped(action, root, tag)
    assert len(folders) > 10
    for folder in folders:
        repair(folder, snapshot=root / "copy")
        assert ids(folder) == OLD
        with Store.open(folder) as store:
            np.testing.assert_array_equal(store.vectors(OLD), before)
        assert len(list(folder.glob("generation-*"))) == 1


def test_a_migration_that_is_killed_can_be_repeated(quick_path: Path, tag: ModelTag) -> None:
    root = quick_path / "root"
    shutil.copytree(Path(__file__).parent / "format_1", root / "base")
    folders = stopped("migrate", root, tag)
    assert len(folders) > 10
    for folder in folders:
        migrate(folder)
        assert ids(folder) == ["a", "b", "c"]
        with Store.open(folder) as store, store.writing():
            pass  # whoever writes next removes what is left
        assert len(list(folder.glob("generation-*"))) == 1


def test_a_snapshot_that_is_killed_leaves_none_or_a_whole_one(root: Path, tag: ModelTag) -> None:
    seen = []
    for folder in stopped("snapshot", root, tag):
        seen.append(folder.exists())
        if not folder.exists():
            with Store.open(root / "base") as store:
                snapshot(store, folder)
        assert ids(folder) == OLD
        assert [path.name for path in folder.parent.iterdir()] == ["store"]
    assert seen == sorted(seen)
    assert seen.count(False) >= 5
    assert seen.count(True) >= 1


# Adds, deletes, merges and compacts without end, and says what has returned; in a process for each line it reads.
WORKER = """
import os, random, signal, sys
import numpy as np
import retrieval.index, retrieval.writer
from retrieval import Item, Store

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
retrieval.writer.SEGMENT_BYTES = 40_000
retrieval.writer.TAIL_ROWS = 300

def vector(name):
    return np.random.default_rng(int(name)).normal(size=16)

def live(folder, seed):
    random.seed(int(seed))
    with Store.open(folder) as store, store.writing() as writer:
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

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print("pid", os.getpid(), flush=True)
        try:
            live(*line.split())
        except KeyboardInterrupt:
            pass
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f"\\ndead {status}", flush=True)
"""


def one_life(worker: subprocess.Popen[str], order: str, how: int, seconds: float) -> tuple[list[list[str]], list[str]]:
    """Let a process live for a while; return what it finished, and what it had begun."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(order, file=worker.stdin, flush=True)
    process = int(worker.stdout.readline().split()[1])
    assert worker.stdout.readline() == "open\n"
    time.sleep(seconds)
    os.kill(process, how)
    finished, pending = [], ["none"]
    dead = threading.Event()

    def again() -> None:  # Python drops an interrupt that comes while an object is being freed
        while not dead.wait(5):
            with suppress(ProcessLookupError):
                os.kill(process, how)

    threading.Thread(target=again, daemon=True).start()
    for line in worker.stdout:
        kind, *names = line.split() or ["cut"]
        if kind == "dead":
            assert names == [str(-how if how == signal.SIGKILL else 0)]
            break
        if kind == "begin":
            pending = names or ["none"]  # an interrupt can cut the line that tells; nothing is begun then
        elif kind == "end":
            finished.append(pending)
            pending = ["none"]
    dead.set()
    return finished, pending


def applied(state: dict[str, str], action: list[str]) -> dict[str, str]:
    kind, names = action[0], action[1:]
    if kind == "delete":
        return {name: uri for name, uri in state.items() if name not in set(names)}
    return state | dict.fromkeys(names, kind) if kind in ("add", "replace") else state


def survive(folder: Path, lives: int, tag: ModelTag) -> None:
    Store.create(folder, model=tag, kind="ivf-sq", recall=0.9).close()
    state: dict[str, str] = {}
    draws = random.Random(7)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        for life in range(lives):
            how = (signal.SIGKILL, signal.SIGINT)[life % 2]
            finished, pending = one_life(worker, f"{folder} {life}", how, draws.random() * 0.4)
            for action in finished:
                state = applied(state, action)
            assert problems(folder) == []
            with Store.open(folder) as store:
                found = {item.id: item.uri for item in store.catalog}
                assert found in (state, applied(state, pending)), (life, pending)
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


def test_stopped_at_random_moments_nothing_acknowledged_is_lost(quick_path: Path, tag: ModelTag) -> None:
    survive(quick_path / "store", 16, tag)


@pytest.mark.slow
def test_stopped_at_two_hundred_random_moments_nothing_acknowledged_is_lost(tmp_path: Path, tag: ModelTag) -> None:
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
    for folder in (tmp_path, *(parent for parent in tmp_path.parents if "pytest-of-" in str(parent))):
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


AS_NOBODY = """
import mmap, os, sys
import numpy as np
import retrieval.snapshot
from retrieval import Item, Store

Store, Item, retrieval.snapshot.snapshot
os.setgid(65534)
os.setuid(65534)
store = Store.open(sys.argv[1])
print(len(store), flush=True)
for line in sys.stdin:
    store.refresh()
    print(len(store), len(Store.open(sys.argv[1])), len(list(store.catalog)), flush=True)
retrieval.snapshot.snapshot(store, sys.argv[2])
print(len(Store.open(sys.argv[2], verify=True)), flush=True)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not write")
def test_who_may_not_write_sees_every_acknowledged_item_and_can_copy_them(store: Store, quick_path: Path) -> None:
    store.close()
    folder = quick_path / "store"
    shutil.move(store.folder, folder)
    quick_path.chmod(0o755)
    (quick_path / "copies").mkdir()
    (quick_path / "copies").chmod(0o777)
    arguments = [sys.executable, "-c", AS_NOBODY, str(folder), str(quick_path / "copies" / "copy")]
    with (
        Store.open(folder) as store,
        subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        ) as reader,
    ):
        assert reader.stdin is not None
        assert reader.stdout is not None

        def seen() -> str:
            assert reader.stdin is not None
            assert reader.stdout is not None
            print(file=reader.stdin, flush=True)
            return reader.stdout.readline()

        assert reader.stdout.readline() == "6\n"
        with store.writing() as writer:
            writer.add([Item(f"during/{n}", "text", "x") for n in range(4)], np.ones((4, 16)))
            assert seen() == "10 10 10\n"
        assert seen() == "10 10 10\n"
        store.add([Item(f"after/{n}", "text", "x") for n in range(3)], np.ones((3, 16)))
        assert seen() == "13 13 13\n"
        with store.writing() as writer:
            writer.compact()
            assert seen() == "13 13 13\n"
        reader.stdin.close()
        assert reader.stdout.readline() == "13\n"


READER = """
import sys
from retrieval import Store

for line in sys.stdin:
    with Store.open(sys.argv[1]) as store:
        print(len(store), flush=True)
"""


def test_readers_of_other_processes_that_come_and_go_leave_the_log_of_a_writer_alone(
    store: Store, model: QueryModel
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(store.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None
        log = next(store.folder.rglob("catalog.sqlite")).with_name("catalog.sqlite-wal")
        with store.writing() as writer:
            for number in range(4):
                print(file=reader.stdin, flush=True)
                assert reader.stdout.readline() == f"{6 + number}\n"
                time.sleep(0.05)  # it closes
                writer.add([Item(f"new/{number}", "text", "x")], model.encode(["new"]))
                assert log.exists()
                assert problems(store.folder) == []
        reader.stdin.close()
    assert len(Store.open(store.folder, verify=True)) == 10
