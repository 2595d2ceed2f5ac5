"""`satx promote`: evaluate a run on the test tiles, compare it with the champion, export it, move the alias."""

from __future__ import annotations

from shlex import quote
from typing import Any

from satx.commands.console import banner, next_commands, out, print_json, table
from satx.registry.champion import Promotion, promote
from satx.reports.doubts import doubts
from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.report import named_counts
from satx.tracking.client import open_tracker
from satx.tracking.provenance import INPUTS
from satx.tracking.runs import get_run

SERVING_IMAGE = "tensorflow/serving:2.19.1"


def promote_command(run_id: str, *, force: bool, as_json: bool) -> None:
    """Promote a run and print the result."""
    client = open_tracker()
    run = get_run(client, run_id)
    if INPUTS not in run.data.tags:  # a run of version 0.1: the study records its inputs
        from satx.study.run_recovery import record_inputs

        record_inputs(client, run)
    done = promote(client, run_id, force=force)
    if as_json:
        print_json(_as_json(done))
        return
    if done.scores is not None:
        _print_scores(done)
    for doubt in doubts([done.candidate.run]):
        banner(doubt)
    if done.forced is not None:
        banner(f"{done.forced}\n\nPromoted anyway; this is recorded on version {done.version}.", title="Forced")
    if done.unchanged:
        out.print(
            f"Run {run_id} is already the champion of {done.name}, as version {done.version}: nothing was changed."
        )
    else:
        before = f"; version {done.replaced} is kept as `previous`" if done.replaced is not None else ""
        out.print(f"Version {done.version} is now the champion of {done.name}{before}.")
    if not_served := done.candidate.store.report.not_served:
        banner(
            f"The export decodes {', '.join(SERVED_FORMATS)} wherever it is served. The session also has tiles in other "
            f"formats: {named_counts(not_served)}. Convert such tiles before you send them to it."
        )
    print(f"Export: {done.export.folder}")
    next_commands({"satx show": "champion, export and history"})
    print(f"  # serve it on 127.0.0.1:8501\n  {docker_line(done)}")


def docker_line(done: Promotion) -> str:
    """Return the command that serves exactly this version with TensorFlow Serving, reachable from this machine only."""
    folder, inside = done.export.folder, f"/models/{done.name}/{done.version}"
    source = '"' + f"source={folder}".replace('"', '""') + '"'  # docker reads the value as a line of CSV
    mount = quote(f"type=bind,{source},target={inside},readonly")
    return f"docker run --rm -p 127.0.0.1:8501:8501 --mount {mount} -e MODEL_NAME={done.name} {SERVING_IMAGE}"


def _print_scores(done: Promotion) -> None:
    rows: list[list[Any]] = []
    if done.scores is not None:
        rows.append([f"this run (version {done.version})", str(done.scores.auc), str(done.scores.accuracy)])
    if done.comparison is not None:
        other = done.comparison
        rows.append(
            [f"champion before (version {done.replaced})", str(other.champion.auc), str(other.champion.accuracy)]
        )
        rows.append(["difference, paired", str(other.auc), str(other.accuracy)])
    num_tiles = len(done.candidate.store.rows("test"))
    table(f"{done.name}: {num_tiles} test tiles, 95% intervals", ["", "test AUC", "test accuracy"], rows, right=(1, 2))


def _as_json(done: Promotion) -> dict[str, Any]:
    scores, other = done.scores, done.comparison
    return {
        "task": done.name,
        "version": done.version,
        "run_id": done.candidate.run.info.run_id,
        "export": str(done.export.folder),
        "export_digest": done.export.digest,
        "previous": done.replaced,
        "unchanged": done.unchanged,
        "forced": done.forced,
        "not_served": done.candidate.store.report.not_served,
        "doubts": doubts([done.candidate.run]),
        "test_auc": _interval(scores.auc) if scores else None,
        "test_accuracy": _interval(scores.accuracy) if scores else None,
        "champion_test_auc": _interval(other.champion.auc) if other else None,
        "difference_auc": _interval(other.auc) if other else None,
        "serve": docker_line(done),
    }


def _interval(interval: Any) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
