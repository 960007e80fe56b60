"""Commands about a model: classify, calibrate, train, export, convert, eval. Mounted at the top level of `onepeace`."""

from __future__ import annotations

import contextlib
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from onepeace.embedder import Embedder

app = typer.Typer(no_args_is_help=True, help="Train, convert, measure and use a model.")

PARTLY = 3  # exit code: finished, but some inputs could not be read

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="A shipped model's name, or the path of an export folder.")
]
BatchOption = Annotated[int, typer.Option("--batch-size", min=1, help="Inputs that go through the model together.")]
DeviceOption = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[
    str, typer.Option(help="What it computes in: auto, float32, bfloat16, or int8, the fastest and least exact.")
]
WhereOption = Annotated[
    list[str] | None, typer.Option(help="Keep rows with COLUMN=VALUE; VALUE|VALUE for either. Repeatable.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


class StorageOption(StrEnum):
    """How weights lie on the disk."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"
    INT8 = "int8"


@app.command(
    epilog="""\b
Examples:
  onepeace classify photos clip.wav --labels "a cat,a dog,rain" --json
  onepeace classify photos --labels-file labels.txt --csv labels.csv --top 3
  onepeace classify sounds --labels "a dog,rain,a car" --multi --threshold 0.7
  onepeace classify photo.jpg --labels cat,dog --other --explain why""",
)
def classify(
    paths: Annotated[list[Path], typer.Argument(help="Pictures, sounds, and folders of them.")],
    labels: Annotated[str | None, typer.Option(help="Names to choose from, with commas between them.")] = None,
    labels_file: Annotated[Path | None, typer.Option(help="A text file of names, one a line.")] = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompts around a label, with | between them; a few by default.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a table instead of lines.")] = None,
    as_json: JsonOption = False,
    top: Annotated[int, typer.Option(min=1, help="How many labels to name, the likeliest first.")] = 1,
    multi: Annotated[bool, typer.Option("--multi", help="Name all labels that fit, each on its own.")] = False,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Probability from which a label fits; 0.5 unless told.")
    ] = None,
    other: Annotated[bool, typer.Option("--other", help='Answer "other" where no label fits.')] = False,
    explain: Annotated[
        Path | None, typer.Option(help="Draw what drove each decision into this folder; a second for each file.")
    ] = None,
    model: ModelOption = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = 32,
) -> None:
    """Say which of some words fits each picture or sound best, without any training.

    Answers are written as they come, in the order of the files.
    """
    from onepeace.classify import labels_of_file, media_files

    if (labels is None) == (labels_file is None):
        raise ValueError("give the labels to choose from with --labels a,b,c or with --labels-file FILE, one of both")
    if threshold is not None and not (multi or other):
        raise ValueError("--threshold goes with --multi or with --other")
    if multi and (other or top > 1):
        raise ValueError("--multi names all labels that fit, or none: it takes no --other and no --top")
    if csv is not None and as_json:
        raise ValueError("choose one of --csv and --json")
    given = labels_of_file(labels_file) if labels_file else (labels or "").split(",")
    names = [label.strip() for label in given if label.strip()]
    if labels is not None and len(names) == 1:
        raise ValueError(f"--labels takes two names or more, with commas between them, got {names[0]!r} alone")
    files, failures = media_files(paths)
    if not files:
        why = f": {failures[0][0]}: {failures[0][1]}" if failures else ""
        raise ValueError(f"no picture and no sound among the given paths{why}")
    from onepeace.classify import CsvTable, JsonLines, Lines, Question
    from onepeace.progress import progress_bar
    from onepeace.zero_shot import FITS, ZeroShotClassifier

    loaded = load_model(model, device, dtype)
    fits = FITS if threshold is None else threshold
    classifier = ZeroShotClassifier(loaded, names, templates.split("|") if templates else None, other=other and fits)
    question = Question(classifier, fits if multi else None, batch_size)
    answered = 0
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(csv.open("w", encoding="utf-8", newline="")) if csv else sys.stdout
        writer: Any = JsonLines(out, top) if as_json else Lines(out, top)
        if csv:
            writer = CsvTable(out, names, top, multi)
        seen = False if csv is None and sys.stdout.isatty() else None  # lines and a bar on one screen spoil each other
        advance = stack.enter_context(progress_bar(len(files), "classifying", seen))
        for part in question.answers(files):
            for path, answer in part:
                if isinstance(answer, ValueError):
                    failures.append((str(path), str(answer)))
                    continue
                writer.write(path, answer)
                answered += 1
                if explain:
                    question.explain(path, answer, explain)
            out.flush()  # what is told stays, whatever comes after
            advance(len(part))
    if not answered:
        raise ValueError(f"none of {len(files)} files could be read: {failures[0][0]}: {failures[0][1]}")
    if csv:
        typer.echo(f"written: {csv}", err=True)
    report_failures(failures)


@app.command(
    epilog="""\b
Examples:
  onepeace ask holiday.mp4 --text "a dog on a beach"
  onepeace ask slides.pdf --text "what is on page 7?" --text "a chart of sales" --top 3
  onepeace ask recording.flac --text "a barking dog" --json
  onepeace ask photos --text "what is in item 3?" --top 2
  onepeace ask holiday.mp4 --scenes --text "what comes before the beach?"
  onepeace ask photos --text "how many birds?" --top 10""",
)
def ask(
    paths: Annotated[
        list[Path], typer.Argument(help="A video, a document, a long sound; or pictures, sounds, folders.")
    ],
    text: Annotated[list[str], typer.Option(help="What is asked. Repeatable.")],
    fps: Annotated[float, typer.Option(min=0.001, help="Frames a second that are looked at in a video.")] = 1.0,
    scenes: Annotated[bool, typer.Option("--scenes", help="Look at the middle frame of each scene instead.")] = False,
    top: Annotated[int, typer.Option(min=1, help="How many places to name, the likeliest first.")] = 1,
    as_json: JsonOption = False,
    model: ModelOption = "onepeace-tiny",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = 32,
) -> None:
    """Ask where in a video, a document, a long sound or an album of files something is, and about how often.

    Texts name a place by what is there ("a dog"), by its number ("item 7") or by its neighbour ("what comes after the
    dog?"), or count items ("how many dogs?"). Of a video the neighbour is the next frame, a second later; with --scenes
    the next scene. Folders are albums of the pictures and sounds in them, in the order of their names.
    """
    from onepeace import ask_command

    if any(not one.strip() for one in text):
        raise ValueError("--text is empty")
    source, names = ask_command.sequence_of(paths, None if scenes else fps)
    for path in ask_command.asked_alone(paths) if names else []:
        typer.echo(f"{path}: left out, as a video or a document is asked alone", err=True)
    loaded = load_model(model, device, dtype)
    album = loaded.encode_sequence(source, batch_size=batch_size)
    answers = loaded.ask(text, album)
    if as_json:
        rows = [
            {
                "text": one,
                "absent": round(answer.absent, 4),
                "count": answer.count,
                "found": ask_command.told(answer, names, top),
            }
            for one, answer in zip(text, answers, strict=True)
        ]
        print_line(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for one, answer in zip(text, answers, strict=True):
        if len(text) > 1:
            print_line(one)
        for line in ask_command.as_lines(answer, names, top):
            print_line(line)


@app.command(
    epilog="""\b
Examples:
  onepeace predict photos --model my-classes --csv labels.csv
  onepeace predict photo.jpg --model my-finder --text "the cat" --draw found
  onepeace predict photos --model my-vqa --text "how many dogs?" --text "is it raining?" --json
  onepeace predict clip.wav --model my-quiz --text "what barks?" --choices "a dog,a seal,nobody"
  onepeace predict --manifest questions.jsonl --where split=test --model my-vqa --json""",
)
def predict(
    model: Annotated[str, typer.Option("--model", "-m", help="The export folder of a model trained for a task.")],
    paths: Annotated[list[Path] | None, typer.Argument(help="Pictures, sounds, and folders of them.")] = None,
    text: Annotated[
        list[str] | None, typer.Option(help="What is asked of every file, or said, or to be found. Repeatable.")
    ] = None,
    choices: Annotated[str | None, typer.Option(help="Texts to choose among, with commas between them.")] = None,
    image2: Annotated[
        Path | None, typer.Option("--image2", help="The second picture, of a task that compares two.")
    ] = None,
    manifest: Annotated[
        list[Path] | None,
        typer.Option(
            help="A table of questions instead of files: columns image, image2, audio, text, choices. Repeatable."
        ),
    ] = None,
    where: WhereOption = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write a table instead of lines.")] = None,
    as_json: JsonOption = False,
    draw: Annotated[
        Path | None, typer.Option(help="Draw what was found into this folder: boxes over pictures, spans under sounds.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to name, the likeliest first.")] = 1,
    threshold: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Probability from which a label fits, or a box or span counts.")
    ] = 0.5,
    device: DeviceOption = "auto",
    batch_size: BatchOption = 32,
) -> None:
    """Ask a model that was trained for a task: which label, which text, which box, when.

    What the model reads decides what is to be given; it says what is missing. Answers are written as they come, in the
    order of the files or rows.
    """
    from onepeace.predict import command

    if csv is not None and as_json:
        raise ValueError("choose one of --csv and --json")
    if bool(paths) and bool(manifest):
        raise ValueError("give files or --manifest, one of both")
    if manifest and (choices or image2):
        raise ValueError("--choices and --image2 go with files: a manifest has columns of these names")
    if where and not manifest:
        raise ValueError("--where keeps rows of a --manifest")
    if any(not one.strip() for one in text or []):
        raise ValueError("--text is empty")
    task = command.task_of(model)
    if draw is not None and task.kind not in command.DRAWN:
        raise ValueError(f"--draw is for models that find boxes or spans; this one answers otherwise ({task.kind})")
    if manifest:
        asked, failures = command.of_manifests(manifest, task, conditions(where), text or [])
    else:
        among = [choice.strip() for choice in choices.split(",")] if choices else []
        asked, failures = command.of_files(paths or [], task, text or [], among, image2)
    if not asked:
        why = f": {failures[0][0]}: {failures[0][1]}" if failures else ""
        raise ValueError(f"nothing to be asked about among what was given{why}")
    import onepeace
    from onepeace.memory import keep_freed_memory
    from onepeace.progress import progress_bar

    keep_freed_memory()
    predictor = onepeace.load_task(model, device=device)
    answered, key = 0, "id" if manifest else "path"
    with contextlib.ExitStack() as stack:
        out: Any = stack.enter_context(csv.open("w", encoding="utf-8", newline="")) if csv else sys.stdout
        writer: Any = command.JsonLines(out, key, top) if as_json else command.Lines(out, top)
        if csv:
            writer = command.CsvTable(out, key, task.kind, top)
        seen = False if csv is None and sys.stdout.isatty() else None  # lines and a bar on one screen spoil each other
        advance = stack.enter_context(progress_bar(len(asked), "predicting", seen))
        for part in command.answers(predictor, asked, threshold, batch_size):
            for one, answer in part:
                if isinstance(answer, ValueError):
                    failures.append((one.name, str(answer)))
                    continue
                writer.write(one, answer)
                answered += 1
                if draw:
                    command.draw(answer, one, draw)
            out.flush()  # what is told stays, whatever comes after
            advance(len(part))
    if not answered:
        raise ValueError(f"none of {len(asked)} could be answered: {failures[0][0]}: {failures[0][1]}")
    if csv:
        typer.echo(f"written: {csv}", err=True)
    report_failures(failures)


@app.command(
    epilog="""\b
Examples:
  onepeace calibrate manifest-val.parquet --where source=caltech101 --test manifest-test.parquet
  onepeace calibrate photos-by-class --model my-model --write""",
)
def calibrate(
    inputs: Annotated[
        list[Path], typer.Argument(help="Labelled manifests, or folders with one sub-folder a class, to fit on.")
    ],
    model: ModelOption = "onepeace-tiny",
    where: WhereOption = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="Measure on these too, on all of their rows. Repeatable.")
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Keep it in the model folder, as calibration.json.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Fit the temperature of zero-shot probabilities, and when a label fits at all, on labelled rows.

    The expected calibration error (ECE, 15 bins) and the negative log-likelihood (NLL) are told before and after.
    Vectors do not change, so stores stay valid.
    """
    from onepeace.calibration import calibrations_data
    from onepeace.evaluate.calibrate import calibrate as fit

    loaded = load_model(model, device, dtype)
    found = fit(loaded, inputs, conditions(where), test or [], batch_size=batch_size)
    if as_json:
        made = calibrations_data(found.calibrations, found.sources)
        measured = [fitness.to_dict() for fitness in found.fitness]
        told = {"modalities": made["modalities"], "fitted_on": found.sources, "measured": measured}
        print_line(json.dumps(told, indent=2))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("source", "of", "rows", "labels", "accuracy", "ECE", "calibrated", "NLL", "calibrated ")
        for one in found.fitness:
            shares = f"{one.accuracy:.1f}", f"{one.ece_before:.3f}", f"{one.ece_after:.3f}"
            name = f"{one.source} (fitted on)" if one.fitted else one.source
            losses = f"{one.nll_before:.3f}", f"{one.nll_after:.3f}"
            table.add_row(name, one.modality, str(one.rows), str(one.labels), *shares, *losses)
        Console(width=None if sys.stdout.isatty() else 120).print(table)
    if write:
        kept = loaded.folder.calibrations() | found.calibrations
        sources = loaded.folder.calibration_sources() | found.sources
        typer.echo(f"written: {loaded.folder.write_calibrations(kept, sources)}", err=True)
    report_failures(found.failures)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    epilog="Example: onepeace train plan configs/plans/tiny.yaml",
)
def train(context: typer.Context) -> None:
    """Train a model under Lightning: `train plan FILE` for several stages, `train fit --config FILE` for one.

    `train validate` measures a checkpoint, `train fit --help` lists all options.
    """
    from onepeace.training.cli import main

    main(context.args)


@app.command(epilog="Example: onepeace scenes scenes --rows 8000")
def scenes(
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    rows: Annotated[int, typer.Option(min=8, help="About how many questions each task has to train on.")] = 8000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
) -> None:
    """Draw pictures and sounds with questions about them, whose answers are known: data to try joint tasks on.

    Each task has three manifests. What those of val and test ask about, such as a red triangle, occurs nowhere in
    training.
    """
    from onepeace.scenes import TASKS, write_scenes
    from onepeace.scenes.combinations import SPLITS

    counts = write_scenes(out, rows, seed)
    for task in TASKS:
        print_line(f"{task}: " + ", ".join(f"{counts[f'{task}-{split}']} {split}" for split in SPLITS))


@app.command(epilog="Example: onepeace export runs/tiny/last.ckpt --out onepeace-mine --storage int8")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .ckpt file that training wrote.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    name: Annotated[str | None, typer.Option(help="The model's name; the folder's by default.")] = None,
    storage: Annotated[StorageOption, typer.Option(help="How weights lie on the disk.")] = StorageOption.FLOAT16,
    card: Annotated[Path | None, typer.Option(help="A model card (Markdown) to put beside the weights.")] = None,
) -> None:
    """Turn a training checkpoint into the folder that `onepeace.load` reads."""
    from onepeace.training.export import export_checkpoint

    text = card.read_text(encoding="utf-8") if card else None
    export_checkpoint(checkpoint, out, name or out.name, storage.value, card=text)
    print_line(str(out))


@app.command(
    epilog="""\b
Examples:
  onepeace convert one-peace.pt --vocab vocab/ --out one-peace-4b
  onepeace convert vggsound.pt --out one-peace-vggsound     a fine-tuned one
  onepeace convert one-peace-4b --out one-peace-again.pt    back to the official layout""",
)
def convert(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt file in the official layout; or a model folder.")],
    out: Annotated[Path, typer.Option(help="The folder to write; or the .pt file, for a model folder.")],
    vocab: Annotated[
        Path | None, typer.Option(help="Folder with dict.txt, encoder.json, vocab.bpe; needed for text input.")
    ] = None,
    storage: Annotated[
        StorageOption | None, typer.Option(help="How weights lie on the disk; as in the file by default.")
    ] = None,
) -> None:
    """Turn an official ONE-PEACE checkpoint into a model folder, or a model folder into such a checkpoint."""
    from onepeace.checkpoint import open_folder
    from onepeace.convert import convert as run
    from onepeace.convert import convert_back

    if checkpoint.is_dir():
        if vocab is not None or storage is not None:
            raise ValueError("--vocab and --storage are for official checkpoints; a model folder is written as it is")
        print_line(f"{out}: {convert_back(open_folder(checkpoint), out)} tensors in the official layout")
        return
    report = run(checkpoint, out, vocab, storage.value if storage else None)
    task = f", to {report.task.kind}" if report.task else ""
    print_line(f"{out}: {report.converted} tensors, reads {', '.join(report.config.adapters)}{task}")
    for name in report.left_over:
        typer.echo(f"left over: {name}", err=True)
    for name in report.added:
        typer.echo(f"not in the file, set to its initial value: {name}", err=True)
    if not report.has_vocabulary and "text" in report.config.adapters:
        typer.echo(
            f"no --vocab given: this folder {'embeds' if report.task is None else 'reads'} everything but text",
            err=True,
        )


@app.command(epilog="Example: onepeace matryoshka runs/mine manifest-train.parquet --out my-model")
def matryoshka(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or the path of an export folder.")],
    manifests: Annotated[list[Path], typer.Argument(help="Manifests of what it was trained on, or of your own data.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    where: WhereOption = None,
    short: Annotated[
        int | None,
        typer.Option(min=1, help="Numbers of a short vector, a divisor of the dimension; a quarter of it by default."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each source that are drawn; axes need few.")] = 1000,
    name: Annotated[str | None, typer.Option(help="The model's name; the folder's by default.")] = None,
    batch_size: BatchOption = 32,
) -> None:
    """Make a model whose vectors may be cut short: their first numbers say most.

    The strongest principal axes of the given media and texts come first, and are repeated among the numbers behind, so
    that vectors of few bits stay good too. Nothing is trained; whole vectors lose what their weakest axes said.
    """
    from onepeace.matryoshka import put_principal_axes_first

    counts = put_principal_axes_first(
        model, manifests, out, where=conditions(where), short=short, rows=rows, name=name, batch_size=batch_size
    )
    print_line(
        f"{out}: by the axes of {', '.join(f'{count} {modality}' for modality, count in counts.items())} vectors"
    )


@app.command(
    epilog="""\b
Examples:
  onepeace querybank my-model manifest-train.parquet
  onepeace querybank my-model queries.txt captions.csv
  onepeace search my-store --text "a dog" --model my-model --rerank""",
)
def querybank(
    model: Annotated[str, typer.Argument(help="A shipped model's name, or the path of an export folder.")],
    manifests: Annotated[
        list[Path],
        typer.Argument(help=".csv, .tsv, .jsonl, .parquet with columns text, texts or label; .txt with a text a line."),
    ],
    where: WhereOption = None,
    texts: Annotated[int, typer.Option(min=1, help="Texts drawn of each file, or value of a column source.")] = 5000,
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, help="Keep so many numbers of a vector: a smaller file, for models that may be cut short."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In the place of a bank that is there.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = 32,
) -> None:
    """Put a bank of texts into a model's folder, by which `onepeace search --rerank` orders what it finds.

    Broad words and many of them serve best, 2,000 at least: captions, names of things, what people asked for. Only
    their vectors are kept. The model's own vectors do not change, so stores stay valid. A service reads the bank when
    it starts. Search by the path of the model (--model) where its name is also that of a shipped one.
    """
    from onepeace.query_bank import FEW, write_query_bank
    from onepeace.reader import embedding_folder

    if embedding_folder(model).has_query_bank() and not replace:
        raise ValueError(f"{model} has a query bank already: give --replace to put another in its place")
    loaded = load_model(model, device, dtype)
    counts = write_query_bank(
        loaded, manifests, where=conditions(where), texts=texts, dimensions=dimensions, batch_size=batch_size
    )
    told = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
    total = sum(counts.values())
    print_line(f"{loaded.folder.path}: a bank of {total:,} {'text' if total == 1 else 'texts'} ({told})")
    if total < FEW:
        typer.echo(f"fewer than {FEW:,} texts order hits no better than none, or worse: give more", err=True)


@app.command(
    name="eval",
    epilog="""\b
Examples:
  onepeace eval ../shared/data/manifest-val.parquet --where source=flickr8k --report eval.html
  onepeace eval photos-by-class --probe more-photos-by-class --json
  onepeace eval manifest-test.parquet --where source=esc10 --probe manifest-train.parquet
  onepeace eval captions.jsonl --languages en,de,ja
  onepeace eval captions.jsonl --truncate-dim 128""",
)
def evaluate(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            help="Manifests (Parquet, CSV or JSONL), or folders with one sub-folder a class; taken together."
        ),
    ],
    model: ModelOption = "onepeace-tiny",
    where: WhereOption = None,
    templates: Annotated[
        str | None, typer.Option(help="Prompts around a label, with | between them; a few by default.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Measure texts in each of these languages, as in en,de,ja; or all.")
    ] = None,
    probe: Annotated[
        list[Path] | None,
        typer.Option(help="Manifest or class folder to train a linear probe and kNN on, source by source. Repeatable."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page with curves, confusions and examples: a .html file, or a folder.")
    ] = None,
    truncate_dim: Annotated[
        int | None, typer.Option(help="Measure vectors cut to so many numbers, at length one again.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    batch_size: BatchOption = 32,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval in all six directions and classification on your own data.

    Every figure has its 95 % interval (bootstrap) and what chance would reach.
    """
    from onepeace.evaluate import measure
    from onepeace.evaluate.report import report_file, write_report
    from onepeace.evaluate.table import figures_table

    wanted = conditions(where)
    page = report_file(report) if report else None
    loaded = load_model(model, device, dtype)
    loaded.truncate_dim = truncate_dim
    evaluation = measure(
        loaded,
        inputs,
        wanted,
        templates.split("|") if templates else None,
        languages=[language.strip() for language in (languages or "").split(",") if language.strip()],
        probe=probe or [],
        batch_size=batch_size,
    )
    if as_json:
        print_line(json.dumps([measurement.to_dict() for measurement in evaluation.measurements], indent=2))
    else:
        from rich.console import Console

        wide = None if sys.stdout.isatty() else 160  # what is piped or kept has no screen to fit
        title = f"{model} on {', '.join(path.name or str(path) for path in inputs)}"
        Console(width=wide).print(figures_table(evaluation.measurements, title))
    if page:
        write_report(evaluation, page, wanted)
        typer.echo(f"report: {page}", err=True)
    for note in evaluation.notes:
        typer.echo(note, err=True)
    report_failures(evaluation.failures)


@app.command(epilog="Example: onepeace bench --model my-model --chart bench.svg")
def bench(
    model: ModelOption = "onepeace-tiny",
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, ...")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="Turns that each way of encoding gets; medians count.")] = 7,
    chart: Annotated[Path | None, typer.Option(help="Draw the ratios as an SVG picture.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how fast a model encodes on this machine.

    Beside each other, in turns: the model as it trains, in float32, and prepared for encoding in each type. The limit
    is what its matrix products reach alone.
    """
    from rich.console import Console
    from rich.table import Table

    from onepeace.bench import run

    if chart is not None and chart.suffix != ".svg":
        raise ValueError(f"--chart writes .svg files, got {chart}")
    speeds = run.bench(model, device=device, rounds=rounds, progress=sys.stderr.isatty())
    name = Path(model).name
    if as_json:
        print_line(json.dumps(run.to_json(name, speeds), indent=2))
    else:
        table = Table(
            "input", "batch", "way", "ms", "a second", "to plain", "of the limit", title=f"{name} on {device}"
        )
        for speed in speeds:
            share = "" if speed.limit_share is None else f"{100 * speed.limit_share:.0f} %"
            figures = f"{1000 * speed.seconds:.1f}", f"{speed.per_second:.1f}", f"{speed.ratio:.2f}", share
            table.add_row(speed.modality, str(speed.batch), speed.way, *figures, end_section=speed is speeds[-1])
        Console(width=None if sys.stdout.isatty() else 100).print(table)
    if chart is not None:
        chart.write_text(run.chart(name, speeds), encoding="utf-8")
        typer.echo(f"chart: {chart}", err=True)


def conditions(where: list[str] | None) -> dict[str, list[str]]:
    """Return the values of each column that `--where` asks for. Raises ValueError."""
    wanted: dict[str, list[str]] = {}
    for condition in where or []:
        column, separator, values = condition.partition("=")
        if not separator:
            raise ValueError(f"--where needs COLUMN=VALUE, got {condition!r}")
        wanted[column] = values.split("|")
    return wanted


def load_model(name: str, device: str = "auto", dtype: str = "auto") -> Embedder:
    """Load a model for a command, which has the process to itself."""
    import onepeace
    from onepeace.memory import keep_freed_memory

    keep_freed_memory()
    return onepeace.load_embedder(name, device=device, dtype=dtype)


def print_line(text: str) -> None:
    """Write one line to standard output."""
    sys.stdout.write(text + "\n")


def report_failures(failures: list[tuple[str, str]]) -> None:
    """List what could not be read on standard error and exit with the code that says so; nothing without failures."""
    for name, reason in failures:
        typer.echo(f"not read: {name}: {reason}", err=True)
    if failures:
        raise typer.Exit(PARTLY)
