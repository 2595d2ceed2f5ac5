"""Test of loading a run for promotion whose sweep was stopped before it wrote its models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from projects import TINY_SWEEP, furnish

from satx.execution.driver import open_sweep
from satx.execution.engine import keras_engine
from satx.execution.worker import run_worker
from satx.inference.predictor import predict_split
from satx.registry.candidate import load_candidate
from satx.search.space import SweepConfig

HEAD_ONLY: dict[str, Any] = {"start": [], "space": {"model.unfreeze": {"choices": ["none"]}}}


def test_a_run_whose_sweep_was_stopped_before_its_models_were_written_can_be_promoted(
    home: Path, tiny_tiles: Path
) -> None:
    prepared = furnish(home, tiny_tiles)
    sweep = open_sweep(prepared, SweepConfig.model_validate(TINY_SWEEP | HEAD_ONLY), 1, git_commit="0" * 40)
    run_worker(sweep.job.study_name, keras_engine(), stop=lambda: False)
    query = f"tags.study = '{sweep.job.study_name}' and tags.model = 'trained'"
    (run,) = sweep.client.search_runs([sweep.job.experiment_id], filter_string=query)
    candidate = load_candidate(sweep.client, run.info.run_id)
    assert candidate.run.data.tags["model"] == "kept"
    assert len(predict_split(candidate.classifier.network, candidate.store, "valid")) == len(
        candidate.store.rows("valid")
    )
    assert load_candidate(sweep.client, run.info.run_id).classifier.model == candidate.classifier.model
