"""Kinds of HyperModels as KerasTuner's guides have them, each swept by `satx tune` in this process."""

from __future__ import annotations

import math
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from logged_runs import curves_of
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from projects import make_project, with_databases

from satx.commands.tune import tune_command
from satx.errors import ConfigError, Interrupted, SweepStopped
from satx.sessions.prepare import SessionRequest
from satx.study.database import open_storage, open_study
from satx.tracking.client import open_tracker

FOLDER = Path(__file__).parent / "hypermodels"
SIZE_PX = 32

HEAD = """
import keras, keras_tuner
class Own(keras_tuner.HyperModel):
    def __init__(self, image_size_px, num_classes):
        super().__init__()
        self.shape, self.num_classes = (image_size_px, image_size_px, 3), num_classes
    def network(self, units=4):
        layers = [keras.Input(self.shape), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(units)]
        model = keras.Sequential([*layers, keras.layers.Dense(self.num_classes, activation="softmax")])
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model
"""


@pytest.fixture(scope="session")
def prepared_home(tiny_tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with databases and the tiles' store."""
    from satx.tiles.layout import read_layout
    from satx.tiles.store import build_store

    home = with_databases(tmp_path_factory.mktemp("tuned") / "home", tiny_tiles.parents[1])
    build_store(read_layout(tiny_tiles), image_size_px=SIZE_PX, cache_dir=home / "cache")
    return home


class Tuned:
    """Calls `satx tune` and reads what it left."""

    def __init__(self, tiles: Path, folder: Path, capsys: Any) -> None:
        self.tiles, self.folder, self.capsys, self.name = tiles, folder, capsys, ""
        self.num_train = len([*tiles.glob("train/*/*")])

    def __call__(self, source: str | Path, *, trials: int = 1, epochs: int = 1, batch_size: int = 32) -> str:
        """Tune a file, or the class `Own` whose methods are given; return what was printed."""
        path = source if isinstance(source, Path) else self.folder / "own.py"
        if isinstance(source, str):
            path.write_text(HEAD + source)
        request = SessionRequest("2", self.tiles, None, SIZE_PX)
        try:
            tune_command(path, request, trials=trials, epochs=epochs, batch_size=batch_size)
        finally:
            said = self.capsys.readouterr().out
            names = optuna.get_all_study_names(storage=open_storage())
            self.name = next((name for name in names if f"-{path.stem}-" in name), "")
        return str(said)

    def trials(self) -> list[FrozenTrial]:
        return open_study(open_storage(), self.name).get_trials()

    def runs(self) -> dict[int, Run]:
        """Return the runs by the number of their first trial."""
        client = open_tracker()
        (experiment,) = client.search_experiments(filter_string="name = 'session2-sample'")
        query = f"tags.study = '{self.name}' and tags.configuration LIKE '%'"
        runs = client.search_runs([experiment.experiment_id], filter_string=query)
        return {int(run.data.tags["trial_numbers"].split(",")[0]): run for run in runs}

    def curves(self, number: int) -> Any:
        return curves_of(open_tracker(), self.runs()[number].info.run_id)


@pytest.fixture
def tuned(
    tiny_tiles: Path, prepared_home: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Tuned:
    shutil.copytree(prepared_home, home, dirs_exist_ok=True)
    monkeypatch.chdir(make_project(tmp_path / "project"))
    # KerasTuner's oracle calls both, which warn. A filter would not do: another thread may exchange all filters meanwhile.
    monkeypatch.setattr(threading, "currentThread", threading.current_thread)
    monkeypatch.setattr(threading.Thread, "getName", lambda thread: thread.name)
    return Tuned(tiny_tiles, tmp_path, capsys)


def module_of(path: Path) -> Any:
    return sys.modules[f"hypermodel_{path.stem}"]


def test_a_dense_network_with_one_hot_labels_has_all_its_values_as_params(tuned: Tuned, home: Path) -> None:
    assert "Best of 2: validation AUC" in tuned(FOLDER / "dense.py", trials=2, epochs=2, batch_size=16)
    for number, run in tuned.runs().items():
        values = tuned.trials()[number].user_attrs["hyperparameters"]
        assert {"num_layers", "units[0]", "activation", "dropout", "lr"} <= set(values)
        params = dict(run.data.params)
        assert int(params.pop("trainable_parameters")) == int(params.pop("total_parameters")) > 0
        assert sorted(params.values()) == sorted(map(str, values.values()))
        assert params["lr"] == str(values["lr"])
        refused = [name for name in params if name.startswith("units_0_-")]
        assert params[refused[0]] == str(values["units[0]"]), "a name that MLflow refuses is written in another way"
        curves = tuned.curves(number)
        assert list(curves["step"]) == [1, 2] and curves.notna().all(axis=None)
        assert run.data.metrics["best_val_auc"] == tuned.trials()[number].value
    assert not list((home / "cache").rglob("*.weights.h5")) and not list(Path.cwd().rglob("*.json"))


def test_one_sigmoid_output_and_an_accuracy_by_another_name_are_scored(tuned: Tuned) -> None:
    tuned(FOLDER / "convolution.py", epochs=2)
    curves = tuned.curves(0)
    assert curves.notna().all(axis=None) and curves["accuracy"].between(0, 1).all()
    assert tuned.runs()[0].data.params["filters"] in ("2", "4")


@pytest.mark.slow
def test_an_application_of_keras_tuner_is_swept(tuned: Tuned) -> None:
    tuned(FOLDER / "xception.py", epochs=1)
    params = tuned.runs()[0].data.params
    assert params["num_residual_blocks"] == "2" and {"pooling", "dropout_rate", "learning_rate"} <= set(params)
    assert tuned.curves(0).notna().all(axis=None)


def test_a_fit_that_sets_epochs_and_batch_size_and_adds_callbacks_is_obeyed(tuned: Tuned) -> None:
    path = FOLDER / "own_fit.py"
    tuned(path, trials=2, epochs=3, batch_size=4)
    counted = module_of(path).COUNTED
    assert len(counted) == 2, "each trial trains once, although `fit` and satx both set the epochs"
    for number, trained in enumerate(counted):
        params = tuned.runs()[number].data.params
        assert params["epochs"] in ("6", "7") and params["batch_size"] in ("8", "16")
        assert trained["epochs"] == 4, "EarlyStopping, which monitors val_loss, ends before the 6 epochs"
        assert trained["steps"] == 4 * math.ceil(tuned.num_train / int(params["batch_size"]))
        assert trained["reductions"] > 0, "ReduceLROnPlateau, which monitors val_loss, reduces the rate"
        curves = tuned.curves(number)
        assert len(curves) == 4 and curves["accuracy"].notna().all(), "sparse_categorical_accuracy is the accuracy"
        assert curves["learning_rate"].is_monotonic_decreasing


def test_the_training_loop_of_the_guide_is_served_with_arrays_and_its_metrics_are_tracked(tuned: Tuned) -> None:
    path = FOLDER / "own_loop.py"
    tuned(path, epochs=3)
    module, run = module_of(path), tuned.runs()[0]
    assert set(run.data.params) == {"units", "batch_size", "learning_rate", "trainable_parameters", "total_parameters"}
    steps = 3 * math.ceil(tuned.num_train / int(run.data.params["batch_size"]))
    assert [steps] == module.STEPS
    curves = tuned.curves(0)
    assert len(curves) == 3 and curves["val_auc"].between(0, 1).all() and curves["val_loss"].notna().all()
    assert run.data.metrics["fit.my_metric"] == 1.0
    assert [value for name, value in run.data.metrics.items() if name.startswith("fit.my_metric_2-")] == [2.0]
    assert run.info.status == "FINISHED" and tuned.trials()[0].value == run.data.metrics["best_val_auc"]


def test_choices_that_depend_on_others_are_drawn_and_alike_draws_are_not_trained(tuned: Tuned) -> None:
    tuned(FOLDER / "conditional.py", trials=4)
    trials, runs = tuned.trials(), tuned.runs()
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    alike = [trial for trial in done if "duplicate_of" in trial.user_attrs]
    drawn = [trial.user_attrs["hyperparameters"] for trial in done if trial not in alike]
    assert len(drawn) == 4 and all(drawn.count(values) == 1 for values in drawn)
    assert alike and all(trial.value == trials[trial.user_attrs["duplicate_of"]].value for trial in alike)
    assert not {trial.number for trial in alike} & set(runs), "an alike draw has no run"
    for values in drawn:
        dense = values["kind"] == "dense"
        assert ("dropout, if any" in values) == dense and values["units"] in ((2, 4) if dense else (16,))
    (failed,) = [trial for trial in trials if trial.user_attrs.get("outcome") == "failed"]
    assert failed.user_attrs["reason"] == "FailedTrialError: 32 units are too many (conditional.py, line 25)"
    assert runs[failed.number].info.status == "FAILED"
    assert runs[failed.number].data.tags["reason"] == failed.user_attrs["reason"]


FAILING = """
    def build(self, hp):
        if hp.Int("number", 1, 1000) > 0:
            {failure}
        return self.network()
"""


def test_three_failures_in_a_row_stop_the_sweep_with_the_reason_and_its_line(tuned: Tuned) -> None:
    with pytest.raises(SweepStopped, match=r"3 trials failed in a row.*ValueError: no such units \(own.py, line 15\)"):
        tuned(FAILING.format(failure="raise ValueError('no such units')"), trials=9)
    assert [trial.state for trial in tuned.trials()] == [TrialState.FAIL] * 3
    runs = tuned.runs().values()
    assert {run.info.status for run in runs} == {"FAILED"} and len(runs) == 3
    assert {run.data.tags["reason"] for run in runs} == {"ValueError: no such units (own.py, line 15)"}
    client = open_tracker()
    assert all(client.list_artifacts(run.info.run_id)[0].path == "traceback.txt" for run in runs)


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("raise keras_tuner.errors.FatalValueError('stop here')", "FatalValueError: stop here"),
        ("return 'no model'", "FatalTypeError: Expected the model-building function"),
    ],
)
def test_a_fatal_error_of_keras_tuner_ends_the_sweep_at_once(tuned: Tuned, failure: str, message: str) -> None:
    with pytest.raises(SweepStopped, match=message):
        tuned(FAILING.format(failure=failure), trials=9)
    (trial,) = tuned.trials()
    assert trial.user_attrs["outcome"] == "failed" and tuned.runs()[0].info.status == "FAILED"


@pytest.mark.parametrize("failure", ["import sys; sys.exit(3)", "open('/no/such/file')"])
def test_whatever_user_code_raises_fails_the_trial_and_not_satx(tuned: Tuned, failure: str) -> None:
    with pytest.raises(SweepStopped, match=r"\(own.py, line 15\)"):
        tuned(FAILING.format(failure=failure), trials=9)


SILENT = """
    def build(self, hp):
        hp.Float("rate", 0.1, 0.9)
        return self.network()
    def fit(self, hp, model, *data, **settings):
        pass  # trains nothing, and tells nobody
"""


def test_a_fit_that_trains_nothing_fails_its_trials(tuned: Tuned) -> None:
    with pytest.raises(SweepStopped, match="train an epoch with the callbacks it is given"):
        tuned(SILENT, trials=9)
    assert {run.info.status for run in tuned.runs().values()} == {"FAILED"}


INTERRUPTED = """
    def build(self, hp):
        return self.network(hp.Int("units", 1, 100))
    def fit(self, hp, model, train, epochs, callbacks, validation_data):
        assert len(train) > 1 and type(train) is type(validation_data)
        first = model.fit(train, epochs=1, callbacks=callbacks, verbose=0)
        hp.Boolean("late")
        path = __import__("pathlib").Path(__file__).with_name("interrupted")
        if not path.exists():
            path.touch()
            __import__("signal").raise_signal(2)
        return model.fit(train, epochs=epochs, callbacks=callbacks, verbose=0)
"""


def test_an_interrupted_trial_starts_again_with_its_values_in_the_same_run(tuned: Tuned) -> None:
    with pytest.raises(Interrupted):
        tuned(INTERRUPTED, epochs=2, batch_size=8)
    (waiting,) = tuned.runs().values()
    assert waiting.info.status == "SCHEDULED"
    tuned(INTERRUPTED, epochs=2, batch_size=8)
    first, second = tuned.trials()
    assert first.user_attrs["outcome"] == "interrupted" and second.params == first.params
    (run,) = tuned.runs().values()
    assert run.info.run_id == waiting.info.run_id and run.info.status == "FINISHED"
    assert run.data.tags["trial_numbers"] == "0,1"
    assert {"units", "late", "total_parameters"} <= set(run.data.params)
    assert list(tuned.curves(0)["step"]) == [1, 2, 3], "two phases of one and two epochs"


EXHAUSTED = """
    def build(self, hp):
        return self.network()
    def fit(self, hp, model, data, **kwargs):
        assert hp.Choice("name#1", ["a", "b"])
        return model.fit(data, **kwargs)
"""


def test_a_space_that_is_exhausted_ends_the_sweep_with_a_sentence(tuned: Tuned) -> None:
    said = " ".join(tuned(EXHAUSTED, trials=5).split())
    assert "finished with 2 of 5 configurations: " in said
    assert len(tuned.runs()) == 2, "draws that `fit` makes count as well"
    assert "Best of 2" in said


PRUNED = """
    def build(self, hp):
        hp.Int("number", 1, 10**6)
        return self.network()
    def fit(self, hp, model, x, y, validation_data, callbacks, epochs=1):
        name = __import__("pathlib").Path(__file__).with_name("count")
        count = len(name.read_text()) if name.exists() else 0
        name.write_text("." * (count + 1))
        x, y = (part.repeat(10, axis=0) for part in validation_data)
        y = 1 - y if count == 5 else y  # the sixth trial learns the opposite
        model.fit(x, y, epochs=epochs, callbacks=callbacks, verbose=0)
"""


@pytest.mark.slow
def test_the_median_pruner_prunes_a_trial(tuned: Tuned) -> None:
    tuned(PRUNED, trials=6, epochs=3)
    (pruned,) = [trial for trial in tuned.trials() if trial.state == TrialState.PRUNED]
    run = tuned.runs()[pruned.number]
    assert pruned.number == 5 and run.info.status == "KILLED" and run.data.tags["pruned"] == "true"
    assert len(tuned.curves(5)) == 2 and len(tuned.curves(0)) == 3


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("keras.Model.save_weights", OSError(28, "No space left on device")),
        ("satx.tracking.curves.CurveLogger.add", MlflowException("away")),
        ("optuna.trial.Trial.should_prune", StorageInternalError("away")),
    ],
    ids=["disk full", "MLflow away", "study database away"],
)
def test_an_error_of_the_environment_is_no_failure_of_the_trial(
    tuned: Tuned, monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    source = "\n    def build(self, hp):\n        return self.network(hp.Int('units', 1, 100))\n"
    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(where, fail)
        tuned(source)
    (trial,) = tuned.trials()
    assert trial.user_attrs["outcome"] == "interrupted" and "reason" not in trial.user_attrs
    assert [run.info.status for run in tuned.runs().values()] == ["SCHEDULED"]
    tuned(source)
    assert [run.info.status for run in tuned.runs().values()] == ["FINISHED"]
    assert len({tuple(trial.params.items()) for trial in tuned.trials()}) == 1


def test_a_file_or_constructor_that_raises_is_refused_with_its_line(tuned: Tuned, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"NameError: name 'unknown' is not defined \(own.py, line 13\)"):
        tuned("\nunknown\n")
    with pytest.raises(ConfigError, match=r"can be constructed, got KeyError: 'a' \(own.py, line 14\)"):
        tuned("\n    def __init__(self, image_size_px, num_classes):\n        {}['a']\n")
    with pytest.raises(ConfigError, match=r"own.py: expected fit\(hp, model, x, y"):
        tuned("\n    def fit(self, hp, model, x, y, weights, more): pass\n")
