"""`satx show`: the champion of every task, its model card and export, and the history of promotions and rollbacks."""

from __future__ import annotations

from dataclasses import asdict

from satx.commands.console import banner, next_commands, out, print_json, table
from satx.registry.judged import Verdict, outcome_of
from satx.registry.records import TaskRecord, VersionRecord, registered_tasks
from satx.registry.versions import CHAMPION
from satx.tiles.formats import SERVED_FORMATS
from satx.tracking.client import open_tracker


def show_command(*, as_json: bool) -> None:
    """Print every task's champion, previous champion and history."""
    tasks = registered_tasks(open_tracker())
    if as_json:
        print_json([asdict(task) for task in tasks])
        return
    if not tasks:
        out.print("There is no champion yet. Promote the best run of a sweep.")
        next_commands({"make sweep SESSION=2": "train", "satx promote --run-id RUN": "make a run the champion"})
    for task in tasks:
        _print_task(task)


def _print_task(task: TaskRecord) -> None:
    if task.champion is None:
        out.print(f"{task.name}: no champion yet; a promotion was not completed. Repeat the same `satx promote`.")
    else:
        kept = [("champion", task.champion), *([("previous", task.previous)] if task.previous else [])]
        for alias, record in kept:
            table(f"{task.name}: {alias}", ["", ""], _rows(record))
            if record.doubt:
                banner(record.doubt)
        if task.champion.verdicts:
            print_verdicts(
                f"{task.name}: verdict of the gate on version {task.champion.version}", task.champion.verdicts
            )
    for sentence in _unfinished(task):
        banner(sentence)
    _print_events(task)
    _print_versions(task)


def _unfinished(task: TaskRecord) -> list[str]:
    """Return what a promotion or rollback has left to do, and how this machine's servers lag behind."""
    by_version = {record.version: record for record in task.history}
    if task.pending is not None and task.in_progress:
        return [
            f"A {task.pending.kind} to version {task.pending.champion} by {task.pending.by} is in progress, since "
            f"{_time(task.pending.at)} UTC."
        ]
    if task.pending is not None:
        if task.pending.champion not in by_version:
            return [
                f"A {task.pending.kind} to version {task.pending.champion} was stopped, and that version was deleted since. The "
                f"next promotion or rollback drops it."
            ]
        run_id = by_version[task.pending.champion].run_id
        again = "satx rollback" if task.pending.kind == "rollback" else f"satx promote --run-id {run_id}"
        return [
            f"A {task.pending.kind} to version {task.pending.champion} was stopped before it was complete. Complete it: `{again}`"
        ]
    if task.champion and task.served not in (None, task.champion.version):
        return [
            f"Servers on this machine answer with version {task.served}; version {task.champion.version} became champion "
            f"elsewhere. Repeat `satx promote --run-id {task.champion.run_id}` here."
        ]
    return []


def _rows(record: VersionRecord) -> list[list[str]]:
    if record.export_state == "intact":
        remedy = ""
    elif record.serves == CHAMPION:
        remedy = f"; write it again: satx promote --run-id {record.run_id}"
    else:
        remedy = "; satx rollback writes it again before this version becomes champion"
    return [
        ["version", str(record.version)],
        ["run", record.run_id],
        ["backbone", record.backbone],
        ["test AUC", record.test_auc or "not measured: no test split"],
        ["since (UTC)", _time(record.restored_at or record.promoted_at)],
        ["gate", _gate(record)],
        ["temperature", record.temperature or "not recorded"],
        ["threshold", record.threshold or "not recorded"],
        ["model card", record.card or "none: promoted by an older satx"],
        ["export", record.export_folder],
        [
            "TensorFlow Serving decodes",
            ", ".join(SERVED_FORMATS)
            + (f"; not {record.not_served} among the session's tiles" if record.not_served else ""),
        ],
        ["export is", record.export_state + remedy],
    ]


def _gate(record: VersionRecord) -> str:
    outcome = outcome_of(record.verdicts, record.gate) if record.verdicts else "not recorded"
    if record.forced is None:
        return outcome
    who = f" by {record.forced.by} at {_time(record.forced.at)}" if record.forced.by else ""
    reason = f": {record.forced.reason}" if record.forced.reason else ""
    return f"{outcome}. Promoted with --force{who}{reason}. {record.refusal}"


def print_verdicts(title: str, verdicts: tuple[Verdict, ...]) -> None:
    """Print what each rule of the gate asked and saw."""
    rows = [
        [verdict.rule, verdict.result, verdict.asked, verdict.seen if verdict.asked else ""] for verdict in verdicts
    ]
    table(title, ["rule", "result", "asked", "seen"], rows)


def _print_events(task: TaskRecord) -> None:
    if not task.events:
        return
    rows = [
        [_time(event.at), event.kind, event.champion, event.before or "none", event.by, event.reason]
        for event in task.events
    ]
    table(
        f"{task.name}: changes of the champion", ["UTC", "", "champion", "before", "by", "reason"], rows, right=(2, 3)
    )


def _print_versions(task: TaskRecord) -> None:
    columns = ["version", "run", "backbone", "test AUC", "promoted (UTC)", ""]
    rows = [
        [
            record.version,
            record.run_id,
            record.backbone,
            record.test_auc or "not measured",
            _time(record.promoted_at) or "never: not completed",
            ", ".join(_notes(record)),
        ]
        for record in task.history
    ]
    table(f"{task.name}: versions", columns, rows, right=(0,), whole=(1,))


def _notes(record: VersionRecord) -> list[str]:
    became_champion = max(record.promoted_at, record.restored_at)
    is_rolled_back = record.serves != CHAMPION and record.rolled_back_at and record.rolled_back_at >= became_champion
    notes = [record.serves, "forced" if record.forced else "", "rolled back" if is_rolled_back else ""]
    return [note for note in notes if note]


def _time(utc: str) -> str:
    return utc.removesuffix("+00:00").replace("T", " ")
