"""Sampler that searches each backbone separately and keeps drawing from all of them.

A single model over all backbones gives nearly every draw to the backbone that leads early, and applies the settings
that are good for it to the others. So the backbone is chosen first. Each gets at least half of an equal share of the
draws; the rest is distributed in proportion to the backbones of the best tenth of the finished trials. The cheapest
backbone draws its startup trials before a more expensive one draws anything, so that a short sweep has scores early.
The other settings are drawn by an Optuna sampler that sees only the trials of this backbone.

A draw depends only on the recorded trials and its own trial number. So the sampler has no state to save, and workers
that draw at the same time use different seeds.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from satx.catalogue import BACKBONES
from satx.config import Configuration
from satx.search.space import BACKBONE, SweepConfig, distributions, suggest, value_of
from satx.storage import digest_of
from satx.study.outcomes import DONE, num_duplicates_in_a_row

# a failed trial counts as a draw: otherwise a backbone that always fails would be drawn forever
DRAWN = (*DONE, TrialState.RUNNING, TrialState.FAIL)
MAX_KNOWN_AGAIN = 5  # after this many repeats in a row, sample at random, so that a small space is covered


class BackboneSampler(BaseSampler):
    """Sampler with a separate Optuna study, and so a separate model, for each backbone."""

    def __init__(self, sweep: SweepConfig, defaults: Configuration) -> None:
        """Create an empty search for each backbone of the sweep."""
        self.sweep, self.defaults = sweep, defaults
        self.space = distributions(sweep)
        self.searches = {name: optuna.create_study(direction="maximize") for name in sweep.backbones}
        self.seen: set[int] = set()  # numbers of the trials that were added to the searches
        self.trials: list[FrozenTrial] = []  # the study's, as the last one began: reading takes milliseconds

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Read all trials of the study, including the new one."""
        self.trials = study.get_trials(deepcopy=False)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return every dimension that a configuration of any backbone may need."""
        return self.space

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw a whole configuration, under Optuna's parameter names."""
        trials = [other for other in self.trials if other.state in DRAWN]
        for other in trials:
            if other.state in DONE and other.number not in self.seen and "duplicate_of" not in other.user_attrs:
                self.seen.add(other.number)
                self.searches[str(value_of(self.sweep, other, BACKBONE))].add_trial(other)
        backbone = next_backbone(self.sweep, [other for other in trials if other.number != trial.number])
        search = self.searches[backbone]
        known_again = num_duplicates_in_a_row(study, self.trials) >= MAX_KNOWN_AGAIN
        search.sampler = self._sampler(trial.number, by_chance=known_again)
        search.enqueue_trial({BACKBONE: backbone})
        drawn = search.ask()
        suggest(drawn, self.sweep, self.defaults)
        search.tell(drawn, state=TrialState.FAIL)  # its result is added later, from the study
        return drawn.params

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a parameter at random if `sample_relative` did not, as with a `start` entry of another backbone."""
        chance = RandomSampler(seed=self._seed(trial.number, param_name))
        return chance.sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, number: int, *, by_chance: bool) -> BaseSampler:
        if by_chance or self.sweep.sampler.name == "random":
            return RandomSampler(seed=self._seed(number))
        with warnings.catch_warnings():  # `group` models the parameters that depend on a cut separately
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            startup = self.sweep.sampler.num_startup_trials
            return TPESampler(n_startup_trials=startup, seed=self._seed(number), group=True)

    def _seed(self, *parts: int | str) -> int:
        return int(digest_of([self.sweep.sampler.seed, *parts])[:8], 16)


def next_backbone(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> str:
    """Return the backbone to draw next: one with startup trials left, else the one furthest behind its share of draws.

    Args:
        sweep: The sweep, which names the backbones; the cheapest wins a tie.
        trials: Trials drawn so far, including running and failed ones; a trial and its retries count once.
    """
    trials = _once_each(trials)
    num_drawn = Counter(value_of(sweep, trial, BACKBONE) for trial in trials)
    if sweep.sampler.name == "tpe":
        num_first = min(sweep.sampler.num_startup_trials, math.ceil(sweep.trials / len(sweep.backbones)))
        for name in _cheapest_first(sweep):
            if num_drawn[name] < num_first:
                return name
    shares = shares_of_draws(sweep, trials)
    return max(shares, key=lambda name: shares[name] * (len(trials) + 1) - num_drawn[name])


def shares_of_draws(sweep: SweepConfig, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the share of all draws that each backbone should have, from the finished trials; the cheapest first."""
    equal = 1 / len(sweep.backbones)
    shares = dict.fromkeys(_cheapest_first(sweep), equal)
    finished = [
        trial for trial in trials if trial.state == TrialState.COMPLETE and "duplicate_of" not in trial.user_attrs
    ]
    best = sorted(finished, key=lambda trial: -trial.values[0])[: math.ceil(len(finished) / 10)]
    if sweep.sampler.name != "tpe" or not best:
        return shares
    leading = Counter(value_of(sweep, trial, BACKBONE) for trial in best)
    return {name: equal / 2 + leading[name] / len(best) / 2 for name in shares}


def _cheapest_first(sweep: SweepConfig) -> list[str]:
    return sorted(sweep.backbones, key=lambda name: BACKBONES[name].core_seconds_per_megapixel)


def _once_each(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the trials without those that were retried."""
    tried_again = {trial.user_attrs.get("retry_of") for trial in trials}
    return [trial for trial in trials if trial.number not in tried_again]
