"""`satx promote`: evaluate a run on the test tiles, ask the gate, export it, move the alias."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

from satx.commands.console import banner, next_commands, out, print_json, table
from satx.commands.show import print_verdicts
from satx.evaluation.assessment import Assessment
from satx.evaluation.intervals import Interval
from satx.inference.serving_files import BATCHING_NAME
from satx.registry.gate import load_gate
from satx.registry.judged import Evaluation, outcome_of
from satx.registry.promotion import Judgement, Promotion, promote
from satx.registry.records import refusal_of
from satx.registry.served import models_config
from satx.registry.versions import card_path
from satx.reports.doubts import doubts
from satx.tiles.formats import SERVED_FORMATS
from satx.tiles.report import named_counts
from satx.tracking.client import open_tracker
from satx.tracking.provenance import INPUTS
from satx.tracking.runs import get_run

SERVING_IMAGE = "tensorflow/serving:2.19.1"
DIGEST_LINE = (
    f"export SERVING_DIGEST=$(docker buildx imagetools inspect --format '{{{{.Manifest.Digest}}}}' {SERVING_IMAGE})"
)
SHOWN_SCORES = (
    "auc",
    "accuracy",
    "average_precision",
    "recall",
    "false_positive_rate",
    "brier",
    "loss",
    "calibration_gap",
)
NUM_WORST_SLICES = 5


def promote_command(run_id: str, *, gate: Path | None, force: str | None, as_json: bool) -> None:
    """Promote a run and print the result; what the gate saw is printed before it decides."""
    rules = load_gate(gate)
    client = open_tracker()
    run = get_run(client, run_id)
    if INPUTS not in run.data.tags:  # a run of version 0.1: the study records its inputs
        from satx.study.run_recovery import record_inputs

        record_inputs(client, run)
    if as_json:
        print_json(_as_json(promote(client, run_id, gate=rules, force=force)))
        return
    done = promote(client, run_id, gate=rules, force=force, on_judged=print_judgement)
    for doubt in doubts([done.candidate.run]):
        banner(doubt)
    _print_outcome(done)
    if not_served := done.candidate.store.report.not_served:
        banner(
            f"TensorFlow Serving decodes {', '.join(SERVED_FORMATS)}. The session also has tiles in other formats: "
            f"{named_counts(not_served)}. Convert such tiles before you send them to it; `satx serve` decodes them."
        )
    print(f"Export: {done.export.folder}")
    commands = {
        "satx serve": "serve the champion on 127.0.0.1:8501",
        "satx show": "champion, model card, export and history",
    }
    if done.replaced is not None:
        commands["satx rollback"] = "make the version before champion again"
    next_commands(commands)
    print("  # serve it with TensorFlow Serving; the first line looks up the digest of its image")
    print(f"  {DIGEST_LINE}\n  {docker_line()}")


def docker_line() -> str:
    """Return the command that serves the champions with TensorFlow Serving, reachable from this machine only.

    The shell must have the variable that `DIGEST_LINE` sets.
    """
    config = models_config()
    source = '"' + f"source={config.parent}".replace('"', '""') + '"'  # docker reads the value as a line of CSV
    target = '"' + f"target={config.parent}".replace('"', '""') + '"'  # the file names the folder by its absolute path
    mount = quote(f"type=bind,{source},{target},readonly")
    options = [
        f"--model_config_file={config}",
        "--model_config_file_poll_wait_seconds=5",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_batching=true",
        f"--batching_parameters_file={config.with_name(BATCHING_NAME)}",
    ]
    image = f'"{SERVING_IMAGE}@$SERVING_DIGEST"'
    return f"docker run --rm -p 127.0.0.1:8501:8501 --mount {mount} {image} {' '.join(map(quote, options))}"


def print_judgement(judgement: Judgement) -> None:
    """Print the scores of a run before and after calibration, its worst slices, and the verdict of each rule."""
    evaluation, positive = judgement.evaluation, judgement.candidate.classifier.positive_class
    if len(evaluation.labels):
        _print_scores(judgement.name, evaluation)
        _print_worst_slices(evaluation)
        out.print(
            "Accuracy is that of the most probable class; recall and false-positive rate are those at the threshold, which was "
            "chosen on the validation tiles."
        )
    used = f"Probabilities are {evaluation.temperature_effect}" if evaluation.temperature != 1 else "No temperature"
    out.print(
        f"{used}: log loss of the validation tiles {evaluation.valid_loss_before:.4f} before, "
        f"{evaluation.valid_loss_after:.4f} after. Threshold of {positive}: {evaluation.threshold:.4f} "
        f"({evaluation.threshold_rule})."
    )
    for sentence in judgement.champion.text if judgement.champion else ():
        out.print(sentence)
    print_verdicts(f"{judgement.name}: the gate", judgement.verdicts)
    out.print(f"{outcome_of(judgement.verdicts, judgement.gate)}.")


def _print_outcome(done: Promotion) -> None:
    run_id = done.candidate.run.info.run_id
    if done.completed is not None:
        out.print(f"Completed the stopped {done.completed.kind} to version {done.completed.champion}.")
    if done.forced is not None:
        banner(
            f"{refusal_of(done.verdicts)}\n\nPromoted anyway by {done.forced.by}: {done.forced.reason}\nThis is recorded on "
            f"version {done.version}.",
            title="Forced",
        )
    if done.judgement is None:
        out.print(f"Run {run_id} is already the champion of {done.name}, as version {done.version}.")
        return
    before = f"; version {done.replaced} is kept as `previous`" if done.replaced is not None else ""
    out.print(f"Version {done.version} is now the champion of {done.name}{before}.")
    out.print(f"Its model card is the artifact {card_path(done.version)} of run {run_id}; `satx show` prints its path.")


def _print_scores(name: str, evaluation: Evaluation) -> None:
    before, after = evaluation.before, evaluation.after
    known = [metric for metric in SHOWN_SCORES if (after.table["metric"] == metric).any()]
    rows = [[metric.replace("_", " "), str(before.interval(metric)), str(after.interval(metric))] for metric in known]
    title = f"{name}: {len(evaluation.labels)} test tiles, 95% intervals"
    table(title, ["", "before calibration", "after calibration"], rows, right=(1, 2))


def _print_worst_slices(evaluation: Evaluation) -> None:
    scores = evaluation.after.table
    slices = scores[(scores["scope"] == "slice") & (scores["metric"] == "accuracy")]
    rows = []
    for name, num_tiles in slices.nsmallest(NUM_WORST_SLICES, "value")[["name", "num_tiles"]].itertuples(index=False):
        cells = [
            _shown(evaluation.after.interval(metric, scope="slice", name=name))
            for metric in ("accuracy", "recall", "false_positive_rate")
        ]
        rows.append([name, num_tiles, *cells])
    columns = ["slice", "tiles", "accuracy", "recall", "false-positive rate"]
    table("Worst slices by accuracy", columns, rows, right=(1, 2, 3, 4))


def _shown(score: Interval) -> str:
    return "undefined" if math.isnan(score.value) else str(score)


def _as_json(done: Promotion) -> dict[str, Any]:
    judgement = done.judgement
    evaluation = judgement.evaluation if judgement else None
    return {
        "task": done.name,
        "version": done.version,
        "run_id": done.candidate.run.info.run_id,
        "export": str(done.export.folder),
        "export_digest": done.export.digest,
        "previous": done.replaced,
        "unchanged": judgement is None,
        "forced": asdict(done.forced) if done.forced else None,
        "completed": asdict(done.completed) if done.completed else None,
        "gate": asdict(judgement.gate) if judgement and judgement.gate else None,
        "verdicts": [asdict(verdict) for verdict in done.verdicts],
        "temperature": done.export.manifest.get("temperature"),
        "threshold": done.export.manifest.get("threshold"),
        "threshold_rule": done.export.manifest.get("threshold_rule"),
        "champion": list(judgement.champion.text) if judgement and judgement.champion else [],
        "scores_before": _scores(evaluation.before) if evaluation else {},
        "scores": _scores(evaluation.after) if evaluation else {},
        "card": card_path(done.version),
        "not_served": done.candidate.store.report.not_served,
        "doubts": doubts([done.candidate.run]),
        "serve": [DIGEST_LINE, docker_line()],
    }


def _scores(assessment: Assessment) -> dict[str, dict[str, float | None]]:
    """Return the scores on all tiles; None instead of NaN, which JSON lacks."""
    metrics = assessment.table.loc[assessment.table["scope"] == "all", "metric"]
    return {metric: _interval(assessment.interval(metric)) for metric in metrics}


def _interval(interval: Interval) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in asdict(interval).items()}
