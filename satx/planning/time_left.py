"""Estimate of a sweep's remaining time from the durations of its trials so far.

The cheap backbone is searched first, and few trials train a whole backbone. The mean duration of the ended trials
therefore says little about the remaining ones. So each backbone and cut has its own estimate: the mean of its trials,
including pruned ones, shrunk towards the plan if there are few. Only the ratios of the plan's seconds matter: their
scale is taken from the trials. The first trials of a backbone are left out, since the pruner has too few scores to
compare theirs with, and lets them train longer.

The confirming trainings repeat the best configurations. So they are expected to last as long as the best trials so far.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from satx.execution.driver import Sweep
from satx.execution.worker import FILLED_SECONDS, FILLING
from satx.planning.plan import Kind, Plan
from satx.search.sampler import shares_of_draws
from satx.search.space import BACKBONE, UNFREEZE, SweepConfig, optuna_name, value_of
from satx.study.outcomes import counted_of

PLANNED_TRIALS = 1.0  # weight of the plan, in trials of a backbone and cut
RECENT_TRIALS = 12  # half-life of a draw's weight, in later draws of its backbone
FIRST_SHARE = 0.25  # share of a backbone's trials that are its first ones, which are left out
Ended = tuple[Kind, float]  # backbone and cut of a finished or pruned trial, and its seconds


@dataclass(frozen=True)
class Left:
    """The work that remains.

    Attributes:
        running: For each running trial, its kind and the share of a usual trial of that kind that is likely to follow.
        queued: Kinds of the queued trials.
        to_draw: By backbone, the number of trials still to draw.
        other_seconds: Planned seconds of work outside trials: filling caches, confirming, writing models.
        measured_seconds: Seconds of the confirming trainings whose durations are known from trials.
    """

    running: Sequence[tuple[Kind, float]]
    queued: Sequence[Kind]
    to_draw: Mapping[str, float]
    other_seconds: float
    measured_seconds: float = 0.0


def seconds_left(
    usual: Mapping[Kind, float],
    ended: Sequence[Ended],
    left: Left,
    *,
    filled: tuple[float, float] = (0.0, 0.0),
    num_workers: int = 1,
) -> float:
    """Estimate the seconds to the end of a sweep.

    Args:
        usual: Planned seconds of a trial, by backbone and cut.
        ended: The finished and pruned trials, in the order in which they were drawn.
        left: The work that remains.
        filled: Seconds of the caches filled so far, planned and measured.
        num_workers: Number of trials that run in parallel, which makes each of them slower.
    """
    ended = _without_first(ended)
    pace = _pace(usual, ended, filled)
    paces = _paces(usual, ended, pace)
    taken: dict[Kind, list[float]] = defaultdict(list)
    for kind, seconds in ended:
        taken[kind].append(seconds)
    expected = {
        kind: (sum(taken[kind]) + PLANNED_TRIALS * planned * paces[kind[0]]) / (len(taken[kind]) + PLANNED_TRIALS)
        for kind, planned in usual.items()
    }
    trials = sum(expected[kind] * share for kind, share in left.running)
    trials += sum(expected[kind] for kind in left.queued)
    for backbone, num in left.to_draw.items():
        mix = _mix([kind for kind in usual if kind[0] == backbone], [kind for kind, _ in ended])
        trials += num * sum(expected[kind] * share for kind, share in mix.items())
    return (trials + left.other_seconds * pace + left.measured_seconds) / num_workers


def _without_first(ended: Sequence[Ended]) -> list[Ended]:
    """Return the trials without the first ones of each backbone."""
    nums = Counter(backbone for (backbone, _), _ in ended)
    seen: Counter[str] = Counter()
    kept = []
    for (backbone, cut), seconds in ended:
        if seen[backbone] >= int(FIRST_SHARE * nums[backbone]):
            kept.append(((backbone, cut), seconds))
        seen[backbone] += 1
    return kept


def _paces(usual: Mapping[Kind, float], ended: Sequence[Ended], overall: float) -> dict[str, float]:
    """Return measured over planned seconds by backbone, shrunk towards `overall` if a backbone has few trials."""
    paces = {}
    for backbone in {name for name, _ in usual}:
        planned = sum(usual[kind] for kind, _ in ended if kind[0] == backbone)
        measured = sum(seconds for kind, seconds in ended if kind[0] == backbone)
        weight = PLANNED_TRIALS * _mean([seconds for kind, seconds in usual.items() if kind[0] == backbone])
        paces[backbone] = (measured + weight * overall) / (planned + weight)
    return paces


def _pace(usual: Mapping[Kind, float], ended: Sequence[Ended], filled: tuple[float, float]) -> float:
    """Return measured over planned seconds of all backbones and caches together; 1 before the first is done."""
    weight = PLANNED_TRIALS * _mean(list(usual.values()))
    planned = sum(usual[kind] for kind, _ in ended) + filled[0]
    measured = sum(seconds for _, seconds in ended) + filled[1]
    return (measured + weight) / (planned + weight)


def _mix(kinds: Sequence[Kind], drawn: Sequence[Kind]) -> dict[Kind, float]:
    """Return the expected shares of a backbone's cuts in its next draws: as in recent ones, equal if there are few."""
    own = [kind for kind in drawn if kind in kinds]
    weights = dict.fromkeys(kinds, 0.5 / len(kinds))
    for age, kind in enumerate(reversed(own)):
        weights[kind] += 0.5 ** (age / RECENT_TRIALS)
    total = sum(weights.values())
    return {kind: weight / total for kind, weight in weights.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def sweep_seconds_left(sweep: Sweep, plan: Plan, trials: list[FrozenTrial]) -> float:
    """Estimate the seconds to the end of a running sweep.

    Args:
        sweep: The sweep.
        plan: The plan made before it began.
        trials: All trials of its study.
    """
    config, usual = sweep.job.sweep, {(one.backbone, one.unfreeze): one.usual_seconds for one in plan.trainings}
    by_number = sorted(counted_of(trials), key=lambda trial: trial.number)
    ended = [(kind, _own_seconds(trial)) for trial in by_number if (kind := kind_of(config, trial)) in usual]
    under_way = [trial for trial in trials if trial.state == TrialState.RUNNING]
    running = [
        (kind, _share_left(plan, kind, trial)) for trial in under_way if (kind := kind_of(config, trial)) in usual
    ]
    num_left = max(0, sweep.job.trials - len(ended) - len(under_way))
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
    queued = [kind for trial in waiting[:num_left] if (kind := kind_of(config, trial)) in usual]
    planned, measured = _confirming(sweep, plan, by_number)
    left = Left(
        running=running,
        queued=queued,
        to_draw=_to_draw(config, trials, sweep.job.trials, num_left - len(queued)),
        other_seconds=_filling_left(plan, config, trials) + planned + plan.closing_seconds,
        measured_seconds=measured,
    )
    num_workers = max(1, len(sweep.workers) or len(under_way))
    filled = _filled(plan, config, trials) if num_workers == 1 else (0.0, 0.0)  # several workers fill a cache together
    return seconds_left(usual, ended, left, filled=filled, num_workers=num_workers)


def _confirming(sweep: Sweep, plan: Plan, counted: Sequence[FrozenTrial]) -> tuple[float, float]:
    """Return planned and measured seconds of the confirming trainings.

    The weight of the best trials' durations grows until half of the trials are done: the best of few trials are seldom
    the best in the end.
    """
    confirm, planned = sweep.job.sweep.confirm, plan.confirming_hours * 3600
    finished = [trial for trial in counted if trial.state == TrialState.COMPLETE]
    best = sorted(finished, key=lambda trial: -(trial.value or 0.0))[: confirm.num_configurations]
    if not best:
        return planned, 0.0
    weight = min(1.0, 2 * len(counted) / sweep.job.trials)
    measured = confirm.num_seeds * sum(_own_seconds(trial) for trial in best)
    return planned * (1 - weight * len(best) / confirm.num_configurations), weight * measured


def kind_of(config: SweepConfig, trial: FrozenTrial) -> Kind:
    """Return backbone and cut of a trial; for a waiting trial, as far as its queue entry gives them."""
    if trial.state != TrialState.WAITING:
        return str(value_of(config, trial, BACKBONE)), str(value_of(config, trial, UNFREEZE))
    fixed = trial.system_attrs.get("fixed_params", {})
    backbone = str(fixed.get(BACKBONE, config.set.get(BACKBONE)))
    name = optuna_name(config, UNFREEZE, backbone) if UNFREEZE in config.space else UNFREEZE
    return backbone, str(fixed.get(name, config.set.get(UNFREEZE)))


def _own_seconds(trial: FrozenTrial) -> float:
    """Return a trial's seconds from draw to end, without the filling of a cache that other trials read too."""
    seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
    return max(0.0, seconds - float(trial.user_attrs.get(FILLED_SECONDS, 0.0)))


def _share_left(plan: Plan, kind: Kind, trial: FrozenTrial) -> float:
    training = next(one for one in plan.trainings if (one.backbone, one.unfreeze) == kind)
    return training.seconds_after(trial.last_step or 0) / training.usual_seconds


def _to_draw(config: SweepConfig, trials: list[FrozenTrial], wanted: int, num_left: int) -> dict[str, float]:
    """Split the draws that are left so that each backbone reaches its share of all draws."""
    there = [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.WAITING)]
    num_drawn = Counter(kind_of(config, trial)[0] for trial in [*counted_of(trials), *there])
    shares = shares_of_draws(config, trials)
    behind = {name: max(0.0, share * wanted - num_drawn[name]) for name, share in shares.items()}
    total = sum(behind.values())
    return {name: num_left * num / total if total else num_left / len(behind) for name, num in behind.items()}


def _filled(plan: Plan, config: SweepConfig, trials: list[FrozenTrial]) -> tuple[float, float]:
    """Return planned and measured seconds of the caches that trials filled since the plan was made."""
    measured = {
        backbone: float(trial.user_attrs[FILLED_SECONDS])
        for trial in trials
        if FILLED_SECONDS in trial.user_attrs and plan.filling_seconds.get(backbone := kind_of(config, trial)[0])
    }
    return sum(plan.filling_seconds[backbone] for backbone in measured), sum(measured.values())


def views_filled(trial: FrozenTrial) -> tuple[int, int]:
    """Return tile views filled and in all of the cache that a trial fills; it has the attribute `FILLING`."""
    done, _, total = str(trial.user_attrs[FILLING]).rpartition(" ")[2].partition("/")
    return int(done), int(total)


def _filling_left(plan: Plan, config: SweepConfig, trials: list[FrozenTrial]) -> float:
    """Return the planned seconds of the caches, or parts of caches, that are not filled yet."""
    left = dict(plan.filling_seconds)
    for trial in trials:
        backbone = kind_of(config, trial)[0]
        if FILLED_SECONDS in trial.user_attrs:
            left[backbone] = 0.0
        elif FILLING in trial.user_attrs and left.get(backbone):
            done, total = views_filled(trial)
            left[backbone] = min(left[backbone], plan.filling_seconds[backbone] * (1 - done / total))
    return sum(left.values())
