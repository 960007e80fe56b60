from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import Result

from retrieval import Item, QueryModel, Searcher, Store

Run = Callable[..., Result]


def test_a_store_is_built_grown_shown_and_searched(run: Run, pack: Path, tmp_path: Path, sentences: list[str]) -> None:
    store = tmp_path / "store"
    built = run("index", "build", pack, "--store", store)
    assert (built.exit_code, built.stdout) == (0, f"added 7 items to {store}\n")
    (pack / "b.wav").write_bytes(b"some sound")
    grown = run("index", "add", store, pack)
    assert grown.exit_code == 0
    assert grown.stdout.startswith(f"added 1 item to {store}\n7 were in the store already")
    shown = json.loads(run("index", "info", store, "--json", "--verify").stdout)
    assert shown["modalities"] == {"text": 6, "audio": 1, "image": 1}
    assert (shown["count"], shown["deleted"], shown["writes"], shown["verified"]) == (8, 0, 3, True)
    found = run("search", store, "--text", sentences[3], "--top", 2)
    assert found.exit_code == 0
    assert found.stdout.index("lines.txt#4") > 0
    assert "8, 6 text" in run("index", "info", store).stdout


def test_json_hits_are_those_of_the_searcher(run: Run, store: Store, model: QueryModel) -> None:
    result = run(
        "search",
        store.folder,
        "--text",
        "a cat",
        "--top",
        3,
        "--where",
        "number=1",
        "--where",
        "modality=text",
        "--json",
    )
    expected = Searcher(store, model).search("a cat", 3, {"number": 1, "modality": "text"})
    assert json.loads(result.stdout) == [
        {
            "rank": 1,
            "score": hit.score,
            "id": "text/1",
            "modality": "text",
            "uri": "text.txt#1",
            "metadata": hit.item.metadata,
        }
        for hit in expected
    ]


def test_like_leaves_the_item_itself_out(run: Run, store: Store) -> None:
    result = run("search", store.folder, "--like", "text/2", "--top", 2, "--json")
    assert [hit["id"] for hit in json.loads(result.stdout)] == [
        hit.item.id for hit in Searcher(store).search_like("text/2", 2)
    ]


def test_items_are_named_by_their_files_however_these_are_written(
    run: Run, pack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was given alone has another id than one from a folder; its path is the same."""
    monkeypatch.chdir(pack)
    (pack / "sub").mkdir()
    (pack / "sub" / "b.wav").write_bytes(b"some sound")
    run("index", "build", "a.jpg", "sub", "--store", tmp_path / "s")
    for given in ("./a.jpg", "sub/../a.jpg", str(pack / "a.jpg")):
        like = run("search", tmp_path / "s", "--like", given, "--top", 1, "--json")
        assert like.stdout == run("search", tmp_path / "s", "--like", "a.jpg", "--top", 1, "--json").stdout
    assert Store.open(tmp_path / "s").ids("id ~ *") == ["a.jpg", "sub/b.wav"]
    run("index", "add", tmp_path / "s", "lines.txt")
    assert run("index", "remove", tmp_path / "s", "./lines.txt").stdout.startswith("removed 6 items")
    assert run("index", "remove", tmp_path / "s", "../pack/sub/b.wav", "a.jpg").stdout.startswith("removed 2 items")
    assert len(Store.open(tmp_path / "s")) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "--bogus"], "error: No such option: --bogus (onepeace search --help)"),
        (["--bogus"], "error: No such option: --bogus (onepeace --help)"),
        (["index", "add"], "error: Missing argument 'STORE' (onepeace index add --help)"),
        (["search", "s", "--audio"], "error: Option '--audio' requires an argument (onepeace search --help)"),
        (["search", "s", "--sound", "x.ogg"], "error: --sound x.ogg: say --audio x.ogg (onepeace search --help)"),
        (
            ["search", "s", "--text", "rain", "on", "a roof"],
            'error: words that belong together stand in quotes: --text "rain on a roof" (onepeace search --help)',
        ),
        (
            ["search", "s", "--picture", "a b.jpg"],
            'error: --picture a b.jpg: say --image "a b.jpg" (onepeace search --help)',
        ),
        (["search", "s", "a/b.ogg"], "error: a/b.ogg: say --audio a/b.ogg (onepeace search --help)"),
        (["search", "s", "a dog"], 'error: a dog: say --text "a dog" (onepeace search --help)'),
        (["frobnicate"], "error: No such command 'frobnicate' (onepeace --help)"),
    ],
)
def test_options_that_do_not_exist_are_told_in_one_line(run: Run, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == message + "\n"


def test_a_mix_is_handed_over_as_one_query_with_its_weights(
    store: Store, model: Any, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    import onepeace

    seen: list[Any] = []

    def encode(inputs: list[Any]) -> Any:
        seen.extend(inputs)
        return np.ones((len(inputs), model.dimension), np.float32)

    monkeypatch.setattr(model, "encode", encode, raising=False)
    parts = ["--image", "a.jpg", "--text", "x.jpg", "--audio", "b.ogg"]
    run("search", store.folder, *parts, "--weight", 1, "--weight", 2, "--weight", 0.5)
    (query,) = seen
    assert [type(part) for part in query.parts] == [onepeace.Text, onepeace.Image, onepeace.Audio]
    assert [query.parts[0].text, query.parts[1].source, query.parts[2].source] == ["x.jpg", "a.jpg", "b.ogg"]
    assert query.weights == [1, 2, 0.5]


def test_files_that_cannot_be_read_are_listed_last_and_the_exit_code_says_so(
    run: Run, pack: Path, tmp_path: Path
) -> None:
    (pack / "broken.wav").write_bytes(b"")
    result = run("index", "build", pack, "--store", tmp_path / "s", "--json")
    assert result.exit_code == 3
    report = json.loads(result.stdout)
    assert report["added"] == 7
    assert [failure["uri"] for failure in report["failed"]] == [str(pack / "broken.wav")]
    assert result.stderr.splitlines()[0] == "1 could not be read:"
    assert result.stderr.splitlines()[1].startswith(f"  {pack / 'broken.wav'}: ")
    assert len(Store.open(tmp_path / "s")) == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["search", "{store}", "--like", "nobody"], "error: not in the store: 'nobody': give an id"),
        (
            ["index", "add", "{store}", "https://a.org/b.jpg"],
            "error: files of the web are not fetched: download a.org/b",
        ),
        (["index", "remove", "{store}", "."], "of a whole folder say --where 'uri ~ "),
        (["search", "{store}", "--like", "0"], "error: not in the store: '0': do you mean text/0?"),
        (
            ["search", "{store}", "--image", "text/0"],
            "text/0 is no file here but an item of the store: say --like text/0",
        ),
        (["index", "add", "{store}/..", "{store}"], "is a store and"),
        (["search", "{store}"], "error: give --text, --image or --audio"),
        (["search", "{store}", "--ask", "a dog", "--rerank"], "error: --ask goes with --top and --where alone"),
        (
            ["search", "{store}", "--like", "text/0", "--rerank"],
            "has no query bank; `onepeace querybank` makes one of your texts",
        ),
        (
            ["search", "{store}", "--text", "a", "--rerank", "--diversity", "0.2"],
            "error: diversity and rerank both order the nearest: give one of them",
        ),
        (["search", "{store}", "--without-text", "a"], "error: give --text, --image or --audio"),
        (["search", "{store}", "--text", "a", "--diversity", "0.5", "--where", "(a=1"], "error: where: expected"),
        (["index", "remove", "{store}"], "error: give items by their ids or files, or --where"),
        (["index", "remove", "{store}", "nobody"], "error: not in the store: 'nobody': give an id that"),
        (["build", "photos"], "error: build is a command of index: say onepeace index build"),
        (["index", "snapshot", "{store}", "{store}"], "already exists and is not an empty folder"),
        (["index", "merge", "{store}", "--kind", "tree"], "error: kind must be one of auto, exact, hnsw"),
        (
            ["index", "build", "{store}/manifest.json", "--store", "{store}x", "--precision", "x"],
            "error: precision must",
        ),
        (
            ["search", "{store}", "--text", "a", "--weight", "1", "--weight", "2"],
            "error: give one --weight for each part",
        ),
        (["search", "{store}", "--text", "a", "--where", "colour=red"], "error: where: unknown field 'colour'"),
        (["search", "{store}", "--text", "a", "--where", "colour"], "error: where: expected field=value"),
        (
            ["search", "{store}", "--text", "a", "--where", "not modality in (text, picture)"],
            "error: where: unknown modality 'picture'; they are image, audio, text",
        ),
        (["search", "{store}", "--text", "a", "--where", ""], "error: where: expected field=value"),
        (["search", "{store}", "--text", " "], "error: a text to search with must have words"),
        (["search", "{store}", "--text", "a", "--without-text", ""], "error: a text to search with must have words"),
        (["search", "{store}", "--text", "{rain}"], "rain.ogg is a sound: give it with --audio, not with --text"),
        (["search", "{store}", "--image", "{rain}"], "rain.ogg is a sound: give it with --audio, not with --image"),
        (
            ["search", "{store}", "--text", "a", "--where", "image"],
            "no condition: say modality=image",
        ),
        (
            ["index", "build", "{store}", "--store", "{store}x"],
            "error: nothing was added: the given paths hold no picture",
        ),
        (["search", "{store}/..", "--text", "a"], "is not a store (it has no manifest.json)"),
        (["search", "{store}", "--image", "/no/such.jpg"], "error: /no/such.jpg: No such file or directory"),
        (["index", "info", "/no/such"], "error: /no/such is not a store"),
        (["index", "build", "/no/such", "--store", "{store}x"], "error: no such file or folder: /no/such"),
        (
            ["index", "build", "{store}", "--store", "{store}/.."],
            "already exists and is not an empty folder: it is no store, so name a folder that is not there yet",
        ),
        (["index", "build", "{store}/writer.lock", "--store", "{store}x"], "error: nothing was added: the given paths"),
        (["index", "build", "{rain}", "--store", "{store}x"], "error: nothing was added: none of 1 could be read"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(
    run: Run, store: Store, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "rain.ogg").write_bytes(b"")
    named = {"{store}": str(store.folder), "{rain}": str(tmp_path / "rain.ogg")}
    for name, path in named.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_the_table_of_hits_says_modality_and_has_texts_only_where_there_are_some(
    run: Run, store: Store, model: QueryModel
) -> None:
    assert run("search", store.folder, "--text", "a dog").stdout.split()[:4] == ["score", "modality", "id", "text"]
    store.add([Item("dog.jpg", "image", "dog.jpg")], model.encode(["a dog"]))
    found = run("search", store.folder, "--text", "a dog", "--where", "modality=image").stdout
    assert found.split() == ["score", "modality", "id", "1", "1.000", "image", "dog.jpg"]
    assert run("search", store.folder, "--text", "a dog", "--where", "modality=audio").stdout == "nothing found\n"
    store.add([Item("clip", "video", "clip.mp4")], model.encode(["a clip"]))
    assert "clip" in run("search", store.folder, "--text", "a clip", "--where", "modality=video").stdout


def test_what_is_left_out_is_named_and_stores_are_passed_over(run: Run, pack: Path) -> None:
    assert run("index", "build", pack, "--store", pack / "store").exit_code == 0
    for name in ("a.doc", "b.doc", "c.doc", ".DS_Store", ".rain.ogg"):
        (pack / name).write_bytes(b"of no use")
    told = run("index", "build", pack, "--store", pack / "store")
    assert (told.exit_code, told.stdout.startswith("added 0 items")) == (0, True)
    assert told.stderr.splitlines() == [
        f"4 left out, hidden or neither media nor text: {pack}/.rain.ogg, {pack}/a.doc, {pack}/b.doc and 1 more"
    ]


def test_a_damaged_store_is_named_and_not_served(run: Run, store: Store) -> None:
    path = next(store.folder.rglob("*.vectors"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    result = run("search", store.folder, "--text", "a dog")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"error: {path} is damaged" in result.stderr


def test_a_file_that_goes_while_a_store_is_shown_is_no_error(run: Run, store: Store) -> None:
    before = json.loads(run("index", "info", store.folder, "--json").stdout)
    home = next(store.folder.glob("generation-*"))
    (home / "gone").symlink_to(home / "nowhere")  # listed, but not there when it is looked at
    assert json.loads(run("index", "info", store.folder, "--json").stdout) == before


def test_a_store_is_looked_after(run: Run, pack: Path, tmp_path: Path, sentences: list[str]) -> None:
    store = tmp_path / "store"
    run("index", "build", pack, "--store", store, "--precision", "float16")
    assert run("index", "verify", store).stdout == f"every file of {store} is as it was written\n"
    assert run("index", "snapshot", store, tmp_path / "copy").stdout == f"7 items copied to {tmp_path / 'copy'}\n"
    assert run("index", "remove", store, "pack/a.jpg").stdout == f"removed 1 item from {store}\n"
    removed = run("index", "remove", store, "--where", "uri ~ *#2 or uri ~ *#3", "--json")
    assert json.loads(removed.stdout) == {"removed": 2}
    assert "deleted" in run("index", "info", store).stdout
    assert run("index", "compact", store).exit_code == 0
    shown = json.loads(run("index", "info", store, "--json").stdout)
    assert (shown["count"], shown["deleted"], shown["precision"]) == (4, 0, "float16")
    assert run("index", "merge", store, "--kind", "hnsw", "--recall", "0.9").stdout.startswith("hnsw, 100.0 % of the")
    assert run("search", store, "--text", sentences[4], "--top", 1, "--json").stdout.count("lines.txt#5") == 2

    path = next(store.rglob("catalog.sqlite"))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = run("index", "verify", store)
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"{path} is damaged" in found.stderr
    assert "index repair" in found.stderr.splitlines()[-1]
    assert run("search", store, "--text", "a dog").exit_code == 1
    assert run("index", "repair", store).stdout == f"{store} is whole\n"
    assert run("index", "repair", store).stdout == f"{store} was not damaged\n"
    assert run("index", "verify", store).exit_code == 0

    restored = run("index", "restore", tmp_path / "copy", tmp_path / "back")
    assert restored.stdout == f"{tmp_path / 'back'} is as {tmp_path / 'copy'} was\n"
    assert len(Store.open(tmp_path / "back")) == 7
    assert run("index", "migrate", store).stdout == f"{store} has today's format already\n"


def test_a_mix_pulls_and_pushes(run: Run, store: Store, model: QueryModel, sentences: list[str]) -> None:
    def best(*arguments: object) -> list[str]:
        return [hit["id"] for hit in json.loads(run("search", store.folder, *arguments, "--top", 6, "--json").stdout)]

    like = best("--like", "text/0", "--text", sentences[3])
    assert set(like[:2]) == {"text/0", "text/3"}
    rows = store.vectors([f"text/{n}" for n in range(6)])
    for arguments, query in (
        (["--like", "text/0", "--text", sentences[3]], rows[0] + rows[3]),
        (["--like", "text/0", "--without-text", sentences[3]], rows[0] - 0.5 * rows[3]),
    ):
        assert best(*arguments) == [f"text/{n}" for n in np.argsort(-(rows @ query))]
    pages = [best("--text", sentences[0])[start : start + 2] for start in (0, 2, 4)]
    assert [best("--text", sentences[0], "--offset", start)[:2] for start in (0, 2, 4)] == pages
    found = json.loads(run("search", store.folder, "--text", sentences[0], "--min-score", 0.99, "--json").stdout)
    assert [hit["id"] for hit in found] == ["text/0"]


def test_debug_shows_where_an_error_came_from(run: Run, store: Store) -> None:
    with_it = run("--debug", "search", store.folder, "--like", "nobody")
    assert with_it.exit_code == 1
    assert isinstance(with_it.exception, ValueError)


def test_hits_with_markup_in_them_print_as_they_are(run: Run, store: Store, model: QueryModel) -> None:
    store.add([Item("[bold]x[/]", "text", "x", {"text": "[red]"})], model.encode(["[red]"]))
    result = run("search", store.folder, "--text", "[red]", "--top", 1)
    assert "[bold]x[/]" in result.stdout
    assert result.stdout.rstrip().endswith("[red]")


def test_help_lists_every_command_with_examples_and_loads_nothing_heavy() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from retrieval.cli import app\n"
        "for words in ([], ['index'], ['search'], ['demo'], ['index', 'build']):\n"
        "    result = CliRunner().invoke(app, [*words, '--help']); print(result.stdout); assert result.exit_code == 0\n"
        "heavy = {'torch', 'faiss', 'timm', 'librosa', 'lightning', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for words in ("index", "search", "demo", "embed", "build", "add", "info", "Examples:"):
        assert words in result.stdout


def test_the_console_command_prints_hits_that_can_be_piped(store: Store) -> None:
    command = [sys.executable, "-c", "from retrieval.cli import app; app()"]
    done = subprocess.run(
        [*command, "search", store.folder, "--like", "text/0", "--json"], capture_output=True, text=True, check=True
    )
    assert [hit["id"] for hit in json.loads(done.stdout)] == [
        hit.item.id for hit in Searcher(store).search_like("text/0")
    ]
    failed = subprocess.run(
        [*command, "search", store.folder, "--like", "nobody"], capture_output=True, text=True, check=False
    )
    assert (failed.returncode, failed.stdout, failed.stderr.count("\n")) == (1, "", 1)
    assert failed.stderr.startswith("error: not in the store: 'nobody': give an id")


def test_storing_and_searching_vectors_loads_no_model() -> None:
    script = (
        "import sys, retrieval.search, retrieval.build; assert not {'torch', 'onepeace.embedder'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
