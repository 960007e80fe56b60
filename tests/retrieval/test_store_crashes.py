"""kill -9 at every step of a write: the state before or the state after, and the next write goes through."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from retrieval import Item, ModelTag, QueryModel, Store

TextItems = Callable[..., list[Item]]

# Kills itself before the k-th call that changes what is on the disk, for k = 1, 2, ... until a write comes through.
SCRIPT = """
import json, os, pathlib, shutil, signal, sys
import numpy as np
from retrieval import Item, ModelTag, QueryModel, Store

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
k, status = 0, None
while status != 0:
    folder = root / f"{k:03d}" / "store"
    folder.parent.mkdir()
    if action == "add":
        shutil.copytree(root / "base", folder)
    child = os.fork()
    if child == 0:
        left = k
        if action == "add":
            Store.open(folder).add(items, vectors)
        else:
            Store.create(folder, items, vectors, model=tag)
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
    store.folder.rename(root / "base")
    return root


def test_an_add_that_is_killed_leaves_the_old_or_the_new_state(
    root: Path, tag: ModelTag, model: QueryModel, text_items: TextItems, sentences: list[str]
) -> None:
    old = [item.id for item in text_items(sentences)]
    new = [*old, "new/0", "new/1", "new/2"]
    seen = []
    for folder in killed("add", root, tag):
        with Store.open(folder, verify=True) as store:
            seen.append([item.id for item in store.catalog])
            assert seen[-1] in (old, new)
            store.add(text_items(sentences, "next"), model.encode(sentences))
        after = Store.open(folder, verify=True)
        assert [item.id for item in after.catalog] == seen[-1] + [f"next/{n}" for n in range(6)]
        assert len(list(folder.glob("generation-*"))) == 1
        assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["manifest.json", "writer.lock"]
    assert seen == sorted(seen, key=len)  # once published, it stays published
    assert seen.count(old) >= 5
    assert seen.count(new) >= 3  # killed after publishing, and not killed


FULL_DISK = """
import resource, signal, sys
import numpy as np
from retrieval import Item, ModelTag, Store

store = Store.open(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
items = [Item(f"new/{n}", "text", "x" * 100) for n in range(2_000)]
for limit in (0, 100, 2_000, 10_000, 50_000, 131_500, 200_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        store.add(items, np.ones((2_000, store.model.dimension)))
    except OSError:
        print("refused")
"""


def test_a_full_disk_is_an_error_and_leaves_the_old_state(store: Store, model: QueryModel) -> None:
    before = list(store.catalog)
    arguments = [sys.executable, "-c", FULL_DISK, str(store.folder)]
    done = subprocess.run(arguments, check=True, timeout=300, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * 7
    assert list(Store.open(store.folder, verify=True).catalog) == before
    store.add([Item("new", "text", "x")], model.encode(["new"]))
    assert len(Store.open(store.folder, verify=True)) == len(before) + 1


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
