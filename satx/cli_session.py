"""The commands `satx session …`: sessions as data, with a manifest and a parent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from satx.cli_options import Json

session_app = typer.Typer(
    no_args_is_help=True,
    help="Make sessions from folders and from decisions, and compare them.",
    epilog="Example: `satx session import 1 data/session1`",
)

NAME_HELP = "Name of the session, as in `experiments/session<N>.yaml`."
Author = Annotated[str | None, typer.Option(help="Who decided. Default: the present user.", show_default=False)]


@session_app.command("import", epilog="Example: `satx session import 2 data/session2 --from 1`")
def import_folder(
    name: Annotated[str, typer.Argument(metavar="N", help=NAME_HELP)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Its tiles, with splits and classes; they stay there.")],
    parent: Annotated[
        str | None, typer.Option("--from", help="The session that it was made from, if any.", show_default=False)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Classification task of a new session. Default: school.", show_default=False)
    ] = None,
    positive_class: Annotated[
        str | None,
        typer.Option(
            "--positive-class", help="Class of interest of a new session. Default: school.", show_default=False
        ),
    ] = None,
    author: Author = None,
    as_json: Json = False,
) -> None:
    """Make a session of a folder of tiles: list every picture in a manifest."""
    from satx.commands.session import ImportRequest, import_command

    import_command(ImportRequest(name, folder, parent, task, positive_class, author), as_json=as_json)


@session_app.command("new", epilog="Example: `satx session new 3 --from 2 --add data/found --decisions decisions.csv`")
def new(
    name: Annotated[str, typer.Argument(metavar="N", help=NAME_HELP)],
    parent: Annotated[str, typer.Option("--from", help="The session to start from.")],
    add: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of tiles to add, with splits and classes.", show_default=False),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CSV of decisions: keep, drop, relabel, unrecognised.", show_default=False),
    ] = None,
    new_test_version: Annotated[
        bool, typer.Option("--new-test-version", help="Let the test split change; scores are then not compared.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why the tiles of --add are added.", show_default=False)] = None,
    author: Author = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a session of this name that no run has used.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a session from its parent: add tiles, apply decisions, and say why each tile is in it."""
    from satx.commands.session import new_command
    from satx.sessions.new_session import NewSession
    from satx.sessions.session_file import present_author

    request = NewSession(
        name=name,
        parent=parent,
        add=add,
        decisions=decisions,
        new_test_version=new_test_version,
        reason=reason,
        author=author or present_author(),
        replaces=replace,
    )
    new_command(request, as_json=as_json)


@session_app.command("diff", epilog="Example: `satx session diff 1 2`")
def diff(
    first: Annotated[str, typer.Argument(metavar="N", help="The session before.")],
    second: Annotated[str, typer.Argument(metavar="M", help="The session after.")],
    as_json: Json = False,
) -> None:
    """Count what was added, dropped, relabelled, moved and re-sliced; table and picture."""
    from satx.commands.session_diff import diff_command

    diff_command(first, second, as_json=as_json)


@session_app.command("show", epilog="Example: `satx session show 3`")
def show(
    name: Annotated[str, typer.Argument(metavar="N", help=NAME_HELP)],
    as_json: Json = False,
) -> None:
    """Print a session's parents, tiles, reasons and digest, and whether a run has used it."""
    from satx.commands.console import quiet_libraries
    from satx.commands.session_diff import show_command

    quiet_libraries()
    show_command(name, as_json=as_json)
