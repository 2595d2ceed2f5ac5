"""KerasTuner's oracle on an Optuna study: asks the study for trials, and tells it their results."""

from __future__ import annotations

import contextlib
from typing import Any

import keras_tuner
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from satx.errors import SweepStopped, TrialFailed
from satx.search.keras_tuner_space import TrialHyperParameters, outages_are_fatal
from satx.storage import digest_of
from satx.study.admission import known_value
from satx.study.outcomes import (
    DONE,
    FAILED_FOR_GOOD,
    Outcome,
    counted_of,
    num_duplicates_in_a_row,
    num_failures_in_a_row,
)
from satx.study.owner import owner_of_this_process

OBJECTIVE = "satx_val_auc"  # satx's own score among the logs of an epoch; a model may have a metric `auc` of its own
HYPERPARAMETERS = "hyperparameters"  # trial attribute: values by KerasTuner's names, which can differ from Optuna's
KNOWN_AGAIN = 5  # known draws in a row after which draws are made at random
EXHAUSTED = 25  # known draws in a row after which the space counts as exhausted


class KnownDraw(Exception):
    """A trial drew the values of an earlier one; `configuration` is that of the earlier one."""

    def __init__(self, configuration: str) -> None:
        """Name the earlier configuration."""
        super().__init__(f"the same values as in configuration {configuration}")
        self.configuration = configuration


class StudyOracle(keras_tuner.Oracle):
    """Asks an Optuna study for the values of each trial, and tells it the result.

    Values are drawn when the user's code asks for them, so the oracle needs no space in advance.

    Attributes:
        study: The study.
        asked: The trial under way, or the last one.
        is_open: Whether the study has not been told yet how `asked` ended.
        was_pruned: Whether the trial under way was pruned; KerasTuner has no such status.
    """

    def __init__(self, study: optuna.Study, *, trials: int, seed: int) -> None:
        """Run until `trials` configurations are finished or pruned; the seed is that of the draws."""
        super().__init__(objective=keras_tuner.Objective(OBJECTIVE, "max"))
        self.study, self.num_wanted, self.draw_seed = study, trials, seed
        self.verbose = 0
        self.asked: optuna.Trial
        self.is_open = self.was_pruned = False
        self._settled: list[FrozenTrial] = []

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Ask the study for a trial, unless enough are done or its space has no more of them."""
        trials = self.study.get_trials(deepcopy=False)
        num_known = num_duplicates_in_a_row(self.study, trials)
        if len(counted_of(trials)) >= self.num_wanted or num_known >= EXHAUSTED:
            return {"status": "STOPPED"}
        # a seed per draw, so that a later call does not repeat the draws of an earlier one
        seed = int(digest_of([self.draw_seed, len(trials)])[:8], 16)
        by_chance = num_known >= KNOWN_AGAIN
        self.study.sampler = (optuna.samplers.RandomSampler if by_chance else optuna.samplers.TPESampler)(seed=seed)
        self.asked, self.is_open, self.was_pruned = self.study.ask(), True, False
        self.asked.set_user_attr("owner", owner_of_this_process())
        if "configuration" not in self.asked.user_attrs:  # otherwise a retry of an interrupted trial
            self.asked.set_user_attr("configuration", f"{self.study.study_name}-{self.asked.number}")
        self._settled = [
            trial
            for trial in trials
            if HYPERPARAMETERS in trial.user_attrs
            and (trial.state in DONE or trial.user_attrs.get("outcome") in FAILED_FOR_GOOD)
        ]
        return {"status": "RUNNING", "values": {}}

    def create_trial(self, tuner_id: str) -> Any:
        """Create KerasTuner's trial, whose values the study's trial draws."""
        trial = super().create_trial(tuner_id)
        if trial.status == "RUNNING":
            trial.hyperparameters = TrialHyperParameters(self.asked, self.refuse_known)
        return trial

    def update_space(self, hyperparameters: keras_tuner.HyperParameters) -> None:
        """Do nothing: a later trial draws what its own code asks for."""

    def refuse_known(self, values: dict[str, Any]) -> None:
        """End a trial that has drawn exactly the values of one that has ended, before it trains.

        Raises:
            KnownDraw: These are all values of an earlier trial.
        """
        for trial in self._settled:
            if trial.user_attrs[HYPERPARAMETERS] == values:
                raise KnownDraw(trial.user_attrs["configuration"])

    def record_values(self, values: dict[str, Any]) -> None:
        """Record the values drawn so far, so that they are not drawn again once the trial has ended."""
        self._settled = []
        self.asked.set_user_attr(HYPERPARAMETERS, dict(values))

    def known_result(self, draw: KnownDraw, values: dict[str, Any]) -> float:
        """Return the value of the earlier trial with the same values.

        Raises:
            TrialPruned: The earlier trial was pruned.
            TrialFailed: The earlier trial failed.
        """
        self.asked.set_user_attr(HYPERPARAMETERS, dict(values))
        self.asked.set_user_attr("configuration", draw.configuration)
        value = known_value(self.study.get_trials(deepcopy=False), self.asked, draw.configuration)
        if value is None:
            raise TrialFailed(f"Expected a result of configuration {draw.configuration}, found none any more.")
        return value

    def report(self, value: float, step: int) -> None:
        """Report an epoch's score.

        Raises:
            TrialPruned: The trial is worse than the median of the others.
        """
        with outages_are_fatal():
            self.asked.report(value, step)
            if self.asked.should_prune():
                raise optuna.TrialPruned(f"after epoch {step}")

    def record_failure(self, reason: str) -> None:
        """Record why the trial failed."""
        self.asked.set_user_attr("outcome", Outcome.FAILED)
        self.asked.set_user_attr("reason", reason)

    def give_back(self) -> None:
        """End a trial that has not ended as interrupted, so that the next call starts it again."""
        if self.is_open:
            self.asked.set_user_attr("outcome", Outcome.INTERRUPTED)
            self.tell(state=TrialState.FAIL)

    def tell(self, value: float | None = None, state: TrialState | None = None) -> None:
        """Tell the study how the trial ended, unless another process has ended it, as after a lost connection."""
        self.study.tell(self.asked, value, state=state, skip_if_finished=True)
        self.is_open = False

    def end_trial(self, trial: Any) -> None:
        """Tell the study that a trial failed, if it has not been told yet.

        Raises:
            SweepStopped: Too many trials failed in a row.
        """
        if self.is_open:
            if "outcome" not in self.asked.user_attrs:  # an error of satx's own
                with contextlib.suppress(UpdateFinishedTrialError):  # another process has ended the trial
                    self.record_failure((str(trial.message).strip().splitlines() or ["unknown"])[-1])
            self.tell(state=TrialState.FAIL)
        super().end_trial(trial)

    def save(self) -> None:
        """Do nothing: the study is what is kept."""

    def _save_trial(self, trial: Any) -> None:
        """Do nothing, as in `save`."""

    def _check_consecutive_failures(self) -> None:
        """Replace KerasTuner's count of failures in a row, which would also count refused draws."""
        trials = self.study.get_trials(deepcopy=False)
        if num_failures_in_a_row(self.study, trials) >= self.max_consecutive_failed_trials:
            reasons = [trial.user_attrs["reason"] for trial in trials if "reason" in trial.user_attrs]
            raise SweepStopped(
                f"{self.max_consecutive_failed_trials} trials failed in a row; fix what they share and run the same command. "
                f"{reasons[-1] if reasons else 'Their processes died.'}"
            )
