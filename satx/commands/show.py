"""`satx show`: the champion of every task, its export, and the history of promotions."""

from __future__ import annotations

from dataclasses import asdict

from satx.commands.console import banner, next_commands, out, print_json, table
from satx.registry.versions import TaskRecord, VersionRecord, registered_tasks
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
    columns = ["version", "run", "backbone", "test AUC", "champion since (UTC)", ""]
    rows = [
        [
            record.version,
            record.run_id,
            record.backbone,
            record.test_auc or "not measured",
            _time(record) or "never: not completed",
            ", ".join(word for word in (record.serves, "forced" if record.forced else "") if word),
        ]
        for record in task.history
    ]
    table(f"{task.name}: history", columns, rows, right=(0,), whole=(1,))


def _rows(record: VersionRecord) -> list[list[str]]:
    purpose = "write it again" if record.serves == "champion" else "make this version champion again, with a new export"
    remedy = "" if record.export_state == "intact" else f"; {purpose}: satx promote --run-id {record.run_id}"
    return [
        ["version", str(record.version)],
        ["run", record.run_id],
        ["backbone", record.backbone],
        ["test AUC", record.test_auc or "not measured: no test split"],
        ["since (UTC)", _time(record)],
        ["gate", f"failed, promoted with --force: {record.forced}" if record.forced else "passed"],
        ["export", record.export_folder],
        [
            "export decodes",
            ", ".join(SERVED_FORMATS)
            + (f"; not {record.not_served} among the session's tiles" if record.not_served else ""),
        ],
        ["export is", record.export_state + remedy],
    ]


def _time(record: VersionRecord) -> str:
    return record.promoted_at.removesuffix("+00:00").replace("T", " ")
