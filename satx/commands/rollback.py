"""`satx rollback`: champion and previous swap back."""

from __future__ import annotations

from dataclasses import asdict

from satx.commands.console import next_commands, out, print_json
from satx.registry.rollback import rollback
from satx.registry.served import models_config
from satx.tracking.client import open_tracker


def rollback_command(*, task: str | None, reason: str, as_json: bool) -> None:
    """Make the previous champion champion again, and print what changed."""
    done = rollback(open_tracker(), task=task, reason=reason)
    if as_json:
        about = {"export": str(done.export.folder), "completed": done.completed}
        print_json({"task": done.name, **asdict(done.transition), **about})
        return
    if done.completed:
        out.print(f"Completed the stopped rollback to version {done.transition.champion}.")
    out.print(
        f"Version {done.transition.champion} is the champion of {done.name} again; version {done.transition.before} is kept as "
        f"`previous`. Servers that follow {models_config()} switch to it."
    )
    print(f"Export: {done.export.folder}")
    next_commands({"satx show": "champion and history", "satx rollback": "undo this rollback"})
