"""Exchange of pooled features: one machine computes them, the others fetch them, and claims of dead machines expire."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from botocore.exceptions import ClientError

from satx.errors import Interrupted
from satx.execution import shared_features as module
from satx.execution.cache_fill import fill_trunk, trunk_of
from satx.execution.driver import Sweep
from satx.execution.job import read_job
from satx.execution.shared_features import Features, OnProgress, share_features
from satx.study.database import open_storage
from satx.training.trunk import TrunkSource, is_cached

BUCKET = "s3://satx-test/fleet"


class Machine:
    """A simulated machine with its own folder, which counts how often it computes the features."""

    def __init__(self, folder: Path, study: optuna.Study) -> None:
        folder.parent.mkdir()
        self.features = Features(study, "study/mobilenetv2-1a2b", BUCKET, folder, folder.parent)
        self.computed = 0

    def build(self, on_progress: OnProgress) -> None:
        self.computed += 1
        self.features.folder.mkdir(parents=True, exist_ok=True)
        for number in range(2):
            (self.features.folder / f"train-{number}.npy").write_bytes(bytes([number]) * 100)
            (self.features.folder / f"train-{number}.json").write_text(f'{{"pass": {time.time_ns()}}}')
            on_progress(number + 1, 2)

    def share(self, on_progress: OnProgress = lambda done, total: None) -> None:
        share_features(self.features, self.build, lambda: bool(self.has()), on_progress=on_progress, poll_seconds=0)

    def has(self) -> dict[str, bytes]:
        found = self.features.folder.glob("train-[0-9].*")
        return {path.name: path.read_bytes() for path in found}

    def note(self, value: dict[str, Any]) -> None:
        self.features.study.set_user_attr(self.features.attribute, value)


@pytest.fixture
def machine(home: Path, tmp_path: Path, bucket: Any) -> Callable[[str], Machine]:
    study = optuna.create_study(study_name="shared", storage=open_storage())
    return lambda name: Machine(tmp_path / name / "features", study)


def stopped(_done: int, _total: int) -> None:
    raise Interrupted("stopped")


def test_the_first_machine_computes_the_features_and_the_others_fetch_them(machine: Callable[[str], Machine]) -> None:
    first, second = machine("first"), machine("second")
    first.features.folder.mkdir()
    (first.features.folder / "half.npy").write_bytes(b"whose note is not written yet")
    first.share()
    second.features.folder.mkdir()
    (second.features.folder / "train-other.npy").write_bytes(b"of another recipe")
    second.share()
    assert (first.computed, second.computed) == (1, 0)
    assert second.has() == first.has() != {}
    assert (second.features.folder / "train-other.npy").exists()
    assert not (second.features.folder / "half.npy").exists()
    assert [path.name for path in second.features.scratch.iterdir()] == ["features"]
    first.share()
    assert first.computed == 1, "features on disk are not computed again"


def test_a_machine_waits_for_the_one_that_computes_and_can_be_stopped_meanwhile(
    machine: Callable[[str], Machine],
) -> None:
    first, second = machine("first"), machine("second")
    claim = {"token": "t", "host": "another", "claimed_at": time.time()}
    first.note(claim)
    with pytest.raises(Interrupted):
        second.share(stopped)
    assert first.features.on_record() == claim
    asked: list[int] = []

    def on_progress(_done: int, _total: int) -> None:
        asked.append(len(asked))
        if len(asked) == 3:
            first.note({})
            first.share()

    second.share(on_progress)
    assert len(asked) >= 3
    assert (second.computed, second.has()) == (0, first.has())


def test_workers_on_the_same_machine_compute_the_features_together(machine: Callable[[str], Machine]) -> None:
    first, beside = machine("first"), machine("beside")

    def on_progress(_done: int, _total: int) -> None:
        if not beside.computed:
            beside.share()

    first.share(on_progress)
    assert (first.computed, beside.computed) == (1, 1)


def test_an_expired_claim_is_taken_over_and_renewed_during_the_computation(
    machine: Callable[[str], Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", -1.0)
    first = machine("first")
    first.note({"token": "t", "host": "another", "claimed_at": time.time() - module.CLAIM_SECONDS - 1})
    claims: list[float] = []

    def on_progress(_done: int, _total: int) -> None:
        claims.append(first.features.on_record()["claimed_at"])

    first.share(on_progress)
    assert first.computed == 1
    assert len(set(claims)) == len(claims) > 1
    assert first.features.on_record()["uri"].startswith(f"{BUCKET}/features/study/mobilenetv2-1a2b/")


def test_a_slow_machine_whose_claim_expired_does_not_replace_what_another_uploaded(
    machine: Callable[[str], Machine], bucket: Any
) -> None:
    slow, quick, third = machine("slow"), machine("quick"), machine("third")

    def on_progress(_done: int, _total: int) -> None:
        if not quick.computed:  # the claim was not renewed for a minute, and another machine computed them
            quick.note({"token": "t", "host": "another", "claimed_at": 0.0})
            quick.share()

    slow.share(on_progress)
    assert (slow.computed, quick.computed) == (1, 1)
    third.share()
    assert (third.computed, third.has()) == (0, quick.has())


def test_a_stopped_machine_releases_its_claim_at_once(machine: Callable[[str], Machine]) -> None:
    first, second = machine("first"), machine("second")
    with pytest.raises(Interrupted):
        first.share(stopped)
    second.share()
    assert second.computed == 1


def test_features_changed_in_the_bucket_are_refused_and_computed_locally(
    machine: Callable[[str], Machine], bucket: Any
) -> None:
    first, second = machine("first"), machine("second")
    first.share()
    key = f"{first.features.on_record()['uri'].removeprefix('s3://satx-test/')}/train-0.npy"
    bucket.put_object(Bucket="satx-test", Key=key, Body=b"changed")
    second.share()
    assert (second.computed, set(second.has())) == (1, set(first.has()))


def test_features_are_computed_locally_if_the_bucket_refused_the_upload(
    machine: Callable[[str], Machine], bucket: Any
) -> None:
    first, second = machine("first"), machine("second")

    def refused(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    bucket.meta.events.register("before-send.s3.PutObject", refused)
    first.share()
    assert first.computed == 1
    bucket.meta.events.unregister("before-send.s3.PutObject", refused)
    second.share()
    assert second.computed == 1
    assert "uri" in second.features.on_record(), "the next machine uploads them"


def test_another_machine_reads_the_features_that_the_first_computed(
    elsewhere: Callable[[Sweep], Path],
    bucket: Any,
    open_tiny: Callable[..., Sweep],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only_heads = {"model.unfreeze": {"choices": ["none"]}, "train.batch_size": {"choices": [16, 32]}}
    sweep = open_tiny(trials=8, start=[], space=only_heads)
    fill_trunk(sweep.study, sweep.job, "mobilenetv2", on_progress=lambda done, total: None)
    elsewhere(sweep)
    job = read_job(sweep.study)

    def refused(*_: Any) -> None:
        raise AssertionError("it was to be fetched")

    monkeypatch.setattr(TrunkSource, "_build_shard", refused)
    assert trunk_of(job, "mobilenetv2").folder != trunk_of(sweep.job, "mobilenetv2").folder
    fill_trunk(sweep.study, job, "mobilenetv2", on_progress=lambda done, total: None)
    assert is_cached(trunk_of(job, "mobilenetv2"), "none")
