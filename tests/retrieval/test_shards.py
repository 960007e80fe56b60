from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from little_media import picture

import onepeace
from retrieval import Item, Store, build_store
from retrieval.found import Failure, Ignored
from retrieval.scan import scan
from retrieval.shards import ShardMember


def write_tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    members = {
        "a/1.png": picture(1),
        "a/1.json": json.dumps({"year": 2020, "none": None}).encode(),
        "a/1.txt": b"zwei Hunde\n",
        "a/2.png": picture(2),
        "a/2.cls": b"7",
        "a/3.md": b"notes",
        "a/4.png": b"no picture",
    }
    write_tar(tmp_path / "data" / "x.tar", members)
    return tmp_path / "data" / "x.tar"


def test_a_shard_gives_its_samples(shard: Path) -> None:
    found = list(scan([shard.parent], ["image", "text"]))
    assert found == [
        Item("data/x.tar/a/1.png", "image", f"{shard}/a/1.png", {"year": 2020}),
        Item("data/x.tar/a/1.txt", "text", f"{shard}/a/1.txt", {"year": 2020, "text": "zwei Hunde"}),
        Item("data/x.tar/a/2.png", "image", f"{shard}/a/2.png", {"label": "7"}),
        Ignored(f"{shard}/a/3.md"),
        Item("data/x.tar/a/4.png", "image", f"{shard}/a/4.png"),
    ]
    assert next(iter(scan([shard], ["text"]))) == Failure(f"{shard}/a/1.png", "the model embeds text, not image")


def test_members_are_embedded_like_files(shard: Path, tmp_path: Path, embedder: onepeace.Embedder) -> None:
    report = build_store([shard], tmp_path / "store", embedder)
    assert (report.added, [Path(failure.uri).name for failure in report.failed]) == (3, ["4.png"])
    (tmp_path / "1.png").write_bytes(picture(1))
    alone = embedder.encode([onepeace.Image(tmp_path / "1.png")])
    with Store.open(tmp_path / "store") as store:
        assert (1 - store.vectors(["x.tar/a/1.png"]) @ alone.T).max() < 1e-3
        assert build_store([shard], tmp_path / "store", embedder).present == 3


def test_a_shard_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    members = {"1.png": picture(1), "2.png": picture(2)}
    for second, order in enumerate((["1.png", "2.png"], ["2.png", "1.png"])):
        write_tar(tmp_path / "x.tar", {name: members[name] for name in order})
        os.utime(tmp_path / "x.tar", (second, second))  # a file system's clock may be slower than a test
        assert ShardMember(f"{tmp_path}/x.tar/1.png").read() == members["1.png"]


@pytest.mark.parametrize("keep", [100, 3_000])
def test_a_cut_shard_is_named(shard: Path, keep: int) -> None:
    shard.write_bytes(shard.read_bytes()[:keep])
    failures = [one for one in scan([shard], ["image", "text"]) if isinstance(one, Failure)]
    assert [failure.uri for failure in failures] == [str(shard)]


def test_a_note_that_cannot_be_read_loses_nothing_else(tmp_path: Path) -> None:
    members = {"1.png": picture(1), "1.json": b"{broken", "1.cls": b"4", "2.txt": b"\xff", "2.png": picture(2)}
    write_tar(tmp_path / "x.tar", members)
    shard = tmp_path / "x.tar"
    found = list(scan([shard], ["image", "text"]))
    assert [one.uri for one in found if isinstance(one, Failure)] == [f"{shard}/1.json", f"{shard}/2.txt"]
    assert [one for one in found if isinstance(one, Item)] == [
        Item("x.tar/1.png", "image", f"{shard}/1.png", {"label": "4"}),
        Item("x.tar/2.png", "image", f"{shard}/2.png"),
    ]


def test_a_damaged_header_in_the_middle_is_told(tmp_path: Path) -> None:
    shard = tmp_path / "x.tar"
    write_tar(shard, {f"{n}.txt": b"words" for n in range(5)})
    content = bytearray(shard.read_bytes())
    content[2 * 1024 + 10] ^= 1  # each member has a block for its header and one for its content
    shard.write_bytes(content)
    found = list(scan([shard], ["text"]))
    assert [one.id for one in found if isinstance(one, Item)] == ["x.tar/0.txt", "x.tar/1.txt"]
    assert found[-1] == Failure(str(shard), "it is damaged behind byte 2,048: what follows cannot be read")
