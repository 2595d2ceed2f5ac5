"""The plan of a sweep, printed before it begins: tiles, backbones, configurations, time and disk."""

from __future__ import annotations

from satx.catalogue import part_label
from satx.commands.console import lasting, table
from satx.planning.plan import Plan
from satx.search.space import SweepConfig
from satx.sessions.prepare import PreparedSession
from satx.tiles.report import CheckReport, Problem, named_counts

MAX_NAMED = 3  # problems of tiles, if no command lists them


def print_plan(
    name: str, prepared: PreparedSession, config: SweepConfig, plan: Plan, done: int, minutes: float | None
) -> None:
    """Print what a sweep will train, for how long, and on which tiles.

    Args:
        name: Name of its study.
        prepared: The session's tiles and weights.
        config: The sweep.
        plan: Estimates of the trainings that are left.
        done: Number of configurations that were trained before.
        minutes: The time limit, if there is one.
    """
    store = prepared.store
    counts = ", ".join(f"{split} {len(store.rows(split))}" for split in ("train", "valid", "test"))
    rows = [
        ["study", name],
        ["tiles", f"{len(store.index)} of {store.image_size_px} px ({counts}); classes {', '.join(store.classes)}"],
        ["backbones", ", ".join(f"{name} ({weights.source} weights)" for name, weights in prepared.weights.items())],
        ["configurations", f"{plan.num_configurations} to train" + (f", {done} done before" if done else "")],
        ["time", _time_of(plan, minutes)],
        [
            "disk",
            f"about {plan.cache_gb:.1f} GB of caches, which are kept, and {plan.model_gb:.1f} GB of models at most; "
            f"{plan.free_gb:.0f} GB free",
        ],
    ]
    problems = [problem for problem in store.report.problems if problem.severity != "note"]
    if problems:
        rows.append(["tile problems", f"{len(problems)}; {_where_they_are(store.report, problems)}"])
    if store.report.unused:
        rows.append(["files not used", named_counts(store.report.num_unused)])
    table("Plan", ["", ""], rows)
    if plan.num_configurations:
        _print_trainings(plan)


def _where_they_are(report: CheckReport, problems: list[Problem]) -> str:
    """Return the command that lists the problems, or the first ones if no command can."""
    if report.check_command is not None:
        return f"list them with `{report.check_command}`"
    return "; ".join(
        [f"{one.relative} ({one.detail})" for one in problems[:MAX_NAMED]] + ["…"] * (len(problems) > MAX_NAMED)
    )


def _time_of(plan: Plan, minutes: float | None) -> str:
    """Format the planned time of the whole sweep and of its parts."""
    parts = [f"{lasting(plan.hours * 3600)} of search"]
    if plan.num_confirming:
        confirming = f"{plan.num_confirming} trainings of the best with other seeds"
        parts.append(f"{lasting(plan.confirming_hours * 3600)} of confirming ({confirming})")
    limit = f"; stops after {minutes:g} minutes" if minutes else ""
    return f"about {lasting(plan.total_seconds)}, within a factor of two: {', '.join(parts)}{limit}"


def _print_trainings(plan: Plan) -> None:
    """Print what is trained at each cut, and how long it takes."""
    titles = ["backbone", "trained", "parameters", "cached", "full", "expected", "trials"]
    rows = [
        [
            one.backbone,
            part_label(one.unfreeze),
            f"{one.trainable_parameters:,}",
            {True: "yes", False: "no"}[one.cached],
            lasting(one.full_seconds),
            lasting(one.usual_seconds),
            f"{one.num_expected:.1f}",
        ]
        for one in plan.trainings
    ]
    table("Trainings: parameters of the tail; time with all epochs, and with pruning", titles, rows, right=(2, 4, 5, 6))
