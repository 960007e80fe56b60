"""`onepeace index`: look after stores; find damage, put it right, copy, reclaim space."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from .command_options import AsJson, StoreFolder, print_json

upkeep_commands = typer.Typer(help="Look after stores.")


@upkeep_commands.command()
def verify(store: StoreFolder, as_json: AsJson = False) -> None:
    """Compare every byte of a store with its checksums, and name what is damaged.

    A store that was found damaged is not opened until it is repaired.

    \b
    Examples:
      onepeace index verify my-store
    """
    from .integrity import verify_store

    found = verify_store(store)
    if as_json:
        print_json([{"file": str(problem.path), "what": problem.what, "derived": problem.derived} for problem in found])
    elif not found:
        typer.echo(f"every file of {store} is as it was written")
    for problem in found:
        typer.echo(problem.what + (" (can be made again)" if problem.derived else ""), err=True)
    if found:
        raise ValueError(f"{store} is damaged: put it right with `onepeace index repair {store}`")


@upkeep_commands.command()
def repair(
    store: StoreFolder,
    snapshot: Annotated[Path | None, typer.Option(help="An older copy, to take lost vectors from.")] = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Leave out items whose vectors are lost, and list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put a damaged store right. Nothing is left out unless --drop says so.

    \b
    Examples:
      onepeace index repair my-store
      onepeace index repair my-store --snapshot my-backup
      onepeace index repair my-store --drop --json | jq -r ".lost[]"
    """
    from .repair import repair as put_right

    report = put_right(store, snapshot=snapshot, drop=drop)
    if as_json:
        print_json(asdict(report))
        return
    for what in report.problems:
        typer.echo(what, err=True)
    typer.echo(f"{store} is whole" if report.problems else f"{store} was not damaged")
    if report.restored:
        typer.echo(f"{report.restored:,} items were taken from {snapshot}")
    for name in report.lost:
        typer.echo(f"lost: {name}", err=True)


@upkeep_commands.command()
def compact(store: StoreFolder) -> None:
    """Reclaim the space of deleted items. Needs room for a second copy meanwhile.

    \b
    Examples:
      onepeace index compact my-store
    """
    from .store import Store, bytes_below

    with Store.open(store) as opened, opened.writing() as writer:
        before = bytes_below(store)
        writer.compact()
        after = bytes_below(store)
    typer.echo(f"{store}: {decimal(before)} before, {decimal(after)} now")


@upkeep_commands.command()
def snapshot(
    store: StoreFolder,
    target: Annotated[Path, typer.Argument(metavar="COPY", help="The folder to make.")],
) -> None:
    """Copy a store, also while it is searched and written to. The copy is a store itself.

    \b
    Examples:
      onepeace index snapshot my-store backups/monday
      onepeace search backups/monday --text "a dog"
    """
    from .snapshot import snapshot as copy
    from .store import Store

    with Store.open(store) as opened:
        copy(opened, target)
        typer.echo(f"{len(opened):,} items copied to {target}")


@upkeep_commands.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="COPY", help="What `onepeace index snapshot` made.")],
    target: Annotated[Path, typer.Argument(metavar="STORE", help="The folder to make.")],
) -> None:
    """Make a store from a snapshot, and check every byte of it.

    \b
    Examples:
      onepeace index restore backups/monday my-store
    """
    from .snapshot import restore as put_back

    put_back(source, target)
    typer.echo(f"{target} is as {source} was")


@upkeep_commands.command()
def migrate(store: StoreFolder) -> None:
    """Bring a store of an older format to today's, in one step.

    \b
    Examples:
      onepeace index migrate my-store
    """
    from .migrate import migrate as bring

    typer.echo(f"{store} has today's format" + (" now" if bring(store) else " already"))
