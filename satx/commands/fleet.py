"""`satx fleet status` and `down`: show a sweep's machines, what they have done and cost; terminate them."""

from __future__ import annotations

import datetime
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import TrialState

from satx.commands.console import banner, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.errors import ConfigError, SatxError
from satx.fleet.gpu import gpu_percents
from satx.fleet.machines import LIVING, Machine, all_machines_of, end, machines_of, remove_templates
from satx.fleet.plan import Amazon, clients_of
from satx.fleet.settings import load_fleet, shared_databases
from satx.fleet.spending import Ledger, ledger, note_taken_down, note_watched
from satx.study.database import open_storage, open_study
from satx.study.outages import BREAKS
from satx.study.outcomes import counted_of


def fleet_status_command(study_name: str | None, *, as_json: bool) -> None:
    """Print a study's machines, trials and costs."""
    if as_json:
        talk_on_stderr()
    config, now = load_fleet(), datetime.datetime.now(datetime.UTC)
    amazon = clients_of(config)
    name = study_name or _only_study(amazon)
    everything = all_machines_of(amazon.ec2, name)
    machines = [machine for machine in everything if machine.state in LIVING]
    shared_databases()
    study = open_study(open_storage(), name)
    note_watched(study, everything, now=now)
    report, busy = _report(study, machines, ledger(study), now), gpu_percents(study)
    if as_json:
        listed = [asdict(machine) | {"gpu_percent": busy.get(machine.instance_id)} for machine in machines]
        print_json({"study": name, "machines": listed, **report})
        return
    rows = [
        [
            machine.instance_id,
            machine.instance_type,
            "spot" if machine.spot else "on demand",
            machine.zone,
            machine.state,
            f"{machine.hours(now):.1f}",
            f"{busy[machine.instance_id]:.0f}%" if machine.instance_id in busy else "",
            _lease(machine, now),
        ]
        for machine in machines
    ]
    titles = ["machine", "type", "", "zone", "state", "hours", "GPU use", "lease"]
    table(f"Machines of {name}", titles, rows, right=(5, 6))
    table("Progress and cost", ["", ""], [[key.replace("_", " "), _shown(value)] for key, value in report.items()])


def fleet_down_command(study_name: str | None, *, keep: int) -> None:
    """Terminate a study's newest machines, all but `keep`; if `keep` is 0, also delete its launch templates.

    If `keep` is 0, the study records the call, so that a process that watches the fleet launches no more machines. A
    banner warns if the study cannot be reached.
    """
    config = load_fleet()
    amazon = clients_of(config)
    name = study_name or _only_study(amazon)
    machines = machines_of(amazon.ec2, name)
    if not keep:
        _record_takedown(name)
    with progress_bars() as on_progress:
        end(
            amazon.ec2,
            machines[keep:],
            on_progress=lambda done, total: on_progress("terminating machines", done, total),
        )
    if not keep:
        remove_templates(amazon.ec2, name)
    out.print(f"{len(machines[keep:])} machines of {name} terminated, {len(machines[:keep])} kept.", highlight=False)


def _record_takedown(name: str) -> None:
    try:
        shared_databases()
        note_taken_down(open_study(open_storage(), name), now=datetime.datetime.now(datetime.UTC))
    except (SatxError, *BREAKS, RuntimeError) as error:  # RuntimeError: the study is of another Optuna version
        banner(
            f"The study does not record that its fleet was taken down: {error} Stop `satx sweep --fleet` if it is still "
            f"running, since it would launch machines again."
        )


def _only_study(amazon: Amazon) -> str:
    names = sorted({machine.study for machine in machines_of(amazon.ec2)})
    if len(names) != 1:
        raise ConfigError(
            f"--study: expected the name of a study, since not exactly one has machines: {', '.join(names) or 'none'}. Give one."
        )
    return names[0]


def _report(study: optuna.Study, machines: list[Machine], money: Ledger, now: datetime.datetime) -> dict[str, Any]:
    trials = study.get_trials(deepcopy=False)
    done, wanted = len(counted_of(trials)), int(study.user_attrs["trials"])
    per_trial = money.total_usd / done if done else None
    return {
        "done": done,
        "wanted": wanted,
        "running": sum(trial.state == TrialState.RUNNING for trial in trials),
        "machines_that_run": len(machines),
        "leases_run_out": sum(machine.expires_at is not None and machine.expires_at < now for machine in machines),
        "spent_usd": money.total_usd,
        "budget_usd": money.budget_usd,
        "usd_per_trial": per_trial,
        "forecast_usd": per_trial * wanted if per_trial is not None else None,
    }


def _lease(machine: Machine, now: datetime.datetime) -> str:
    if machine.expires_at is None:
        return "none"
    minutes = (machine.expires_at - now).total_seconds() / 60
    return f"{minutes:.0f} minutes left" if minutes > 0 else f"EXPIRED {-minutes:.0f} minutes ago"


def _shown(value: Any) -> str:
    if value is None:
        return "not known yet"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
