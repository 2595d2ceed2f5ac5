"""Tests of promotion: the gate, forced promotions, the aliases `champion` and `previous`, and crashes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from guide import code_below
from inference.tiny import fitted_classifier, open_tiles, render_tiles, without_marker
from mlflow.entities import Run, RunData, RunInfo
from PIL import Image
from projects import with_databases

from satx.commands.promote import promote_command
from satx.commands.show import show_command
from satx.config import SessionConfig
from satx.errors import ConfigError, PromotionRefused, WeightsError
from satx.inference.manifest import verify_export
from satx.inference.predictor import ServedModel
from satx.models.classifier import Classifier, load_classifier, save_classifier
from satx.models.weights_file import Weights
from satx.registry.candidate import Candidate, golden_files
from satx.registry.champion import Promotion, promote
from satx.registry.gate import compare, model_name, score
from satx.registry.versions import aliases_of, export_folder, registered_tasks, versions_of
from satx.storage import file_digest
from satx.testing.changed_environment import changed_environment
from satx.tiles.store import TileStore
from satx.tracking.client import MlflowClient, experiment_id, open_tracker
from satx.tracking.provenance import inputs_tag
from satx.tracking.runs import log_files, start_run

NAME = "school-sample"


@pytest.fixture(scope="module", autouse=True)
def _load_each_classifier_once() -> Iterator[None]:
    """Keep loaded classifiers, since building a network and tracing its prediction take seconds."""
    loaded: dict[str, Classifier] = {}

    def load_once(folder: Path, *, weights_sha256: str | None = None) -> Classifier:
        digest = file_digest(folder / "classifier.json") + file_digest(folder / "model.weights.h5")
        digest += weights_sha256 or ""
        if digest not in loaded:
            loaded[digest] = load_classifier(folder, weights_sha256=weights_sha256)
        return loaded[digest]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("satx.registry.candidate.load_classifier", load_once)
        yield


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_tiles(tmp_path_factory.mktemp("tiles") / "sample")


@pytest.fixture(scope="module")
def store(tiles: Path) -> TileStore:
    return open_tiles(tiles, tiles.parent / "cache")


@pytest.fixture(scope="module")
def classifiers(store: TileStore) -> dict[str, Classifier]:
    return {"right": fitted_classifier(store), "wrong": fitted_classifier(store, sign=-1.0)}


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, store: TileStore, classifiers: dict[str, Classifier]
) -> tuple[Path, Promotion]:
    """Return a home in which the right classifier is champion, and its promotion."""
    folder = with_databases(tmp_path_factory.mktemp("home"), tmp_path_factory.getbasetemp())
    with changed_environment(SATX_HOME=str(folder), MLFLOW_TRACKING_URI=None):
        client = open_tracker()
        assert registered_tasks(client) == []
        return folder, promote(client, make_run(client, classifiers["right"], store), force=False)


@pytest.fixture
def client(home: tuple[Path, Promotion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    copied = shutil.copytree(home[0], tmp_path / "home")
    monkeypatch.setenv("SATX_HOME", str(copied))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return open_tracker()


def make_run(
    client: MlflowClient, classifier: Classifier, store: TileStore, *, status: str = "FINISHED", keep: bool = True
) -> str:
    """Log a run of a classifier as a training does; return its id."""
    session = SessionConfig(
        session="tiny-sample", task="school-sample", positive_class="school", data_dir="data", sweep="quick"
    )
    backbone = classifier.model.backbone
    weights = Weights(backbone, "x", "0" * 64, "random")
    tags = {"backbone": backbone, **inputs_tag(session, store.folder, {backbone: weights})}
    run = start_run(client, experiment_id(client, "tiny-sample"), name="tiny", tags=tags, params={}, parent=None)
    run_id = str(run.info.run_id)
    if keep:

        def write(path: Path) -> None:
            save_classifier(classifier, path)
            client.set_tag(run_id, "weights_sha256", file_digest(path / "model.weights.h5"))

        log_files(client, run, {"model": write})
    client.set_terminated(run_id, status=status)
    return run_id


def candidate_of(classifier: Classifier, store: TileStore) -> Candidate:
    session = SessionConfig(
        session="tiny-sample", task=classifier.task, positive_class="school", data_dir="data", sweep="quick"
    )
    run = Run(RunInfo("e" * 32, "0", "satx", "FINISHED", 0, 1, "active"), RunData())
    return Candidate(run, classifier, session, store)


def test_the_first_champion_is_registered_with_its_scores_and_its_run_is_tagged(
    client: MlflowClient, home: tuple[Path, Promotion]
) -> None:
    first = home[1]
    assert (first.name, first.version, first.replaced, first.forced) == (NAME, 1, None, None)
    assert aliases_of(client, NAME) == {"champion": 1}
    assert first.scores is not None
    run = client.get_run(first.candidate.run.info.run_id)
    assert run.data.tags["promoted"] == "1"
    assert run.data.metrics["test_auc"] == pytest.approx(first.scores.auc.value)
    assert client.get_model_version(NAME, "1").tags["test_auc"] == str(first.scores.auc)


def test_the_registered_model_and_its_version_are_described(client: MlflowClient, home: tuple[Path, Promotion]) -> None:
    first = home[1]
    model = client.get_registered_model(NAME).description
    assert "school" in model and "not-school" in model and f"models:/{NAME}@champion" in model
    version, classifier = client.get_model_version(NAME, "1").description, first.candidate.classifier
    assert classifier.model.backbone in version and f"{classifier.image_size_px} px" in version
    assert first.scores is not None and str(first.scores.auc) in version
    assert f"/runs/{first.candidate.run.info.run_id}" in version


def test_a_description_that_a_user_wrote_stays_and_a_missing_one_is_added(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    for text in ("Ours.", ""):
        client.update_registered_model(NAME, text)
        promote(client, make_run(client, classifiers["right"], store), force=False)
        assert (client.get_registered_model(NAME).description == text) == bool(text)


def test_a_worse_challenger_is_refused_unless_the_promotion_is_forced(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    wrong = make_run(client, classifiers["wrong"], store)
    with pytest.raises(PromotionRefused) as error:
        promote(client, wrong, force=False)
    assert wrong in str(error.value) and "version 1" in str(error.value) and "--force" in str(error.value)
    assert aliases_of(client, NAME) == {"champion": 1}
    assert len(versions_of(client, NAME)) == 1

    forced = promote(client, wrong, force=True)
    assert forced.comparison is not None and forced.comparison.auc.high < 0
    assert aliases_of(client, NAME) == {"champion": 2, "previous": 1}
    assert client.get_model_version(NAME, "2").tags["forced"] == "true"

    (task,) = registered_tasks(client)
    assert task.champion is not None and task.previous is not None
    assert (task.champion.version, task.champion.export_state, task.previous.version) == (2, "intact", 1)
    assert task.champion.forced == str(error.value) and task.previous.forced == ""


def test_a_champion_of_an_older_trainer_is_shown_with_a_warning(
    client: MlflowClient, home: tuple[Path, Promotion], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = home[1].candidate.run.info.run_id
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.doubt == ""
    client.log_param(run_id, "model.unfreeze", "block14")
    (task,) = registered_tasks(client)
    assert task.champion is not None and "mobilenetv2 from block14" in task.champion.doubt
    show_command(as_json=False)
    assert "may have trained fewer layers" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    promote_command(run_id, force=False, as_json=True)
    assert "fewer layers" in json.loads(capsys.readouterr().out)["doubts"][0]


def test_a_run_whose_recorded_digest_is_not_that_of_its_model_is_not_promoted(
    client: MlflowClient, classifiers: dict[str, Classifier], store: TileStore
) -> None:
    run_id = make_run(client, classifiers["right"], store)
    client.set_tag(run_id, "weights_sha256", "0" * 64)
    with pytest.raises(WeightsError, match="0" * 12):
        promote(client, run_id, force=True)
    assert len(versions_of(client, NAME)) == 1


def test_promoting_the_champion_again_only_repairs_its_export(
    client: MlflowClient, home: tuple[Path, Promotion]
) -> None:
    run_id = home[1].candidate.run.info.run_id
    again = promote(client, run_id, force=False)
    assert again.unchanged and again.version == 1 and again.export.digest == home[1].export.digest
    assert len(versions_of(client, NAME)) == 1

    (again.export.folder / "saved_model.pb").write_bytes(b"")
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.export_state == "damaged"
    assert promote(client, run_id, force=False).unchanged
    (task,) = registered_tasks(client)
    assert task.champion is not None and task.champion.export_state == "intact"


KILLED = """
import os, signal, sys
from satx.inference import export
from satx.registry.champion import promote
from satx.tracking.client import open_tracker
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
export.compare_with_network = kill
promote(open_tracker(), sys.argv[1], force=False)
"""


@pytest.mark.faults
@pytest.mark.slow
def test_a_kill_before_the_alias_is_moved_keeps_the_champion_and_the_same_call_continues(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    challenger = make_run(client, classifiers["right"], store)
    ended = subprocess.run([sys.executable, "-c", KILLED, challenger], capture_output=True, text=True, timeout=500)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert aliases_of(client, NAME) == {"champion": 1}
    (task,) = registered_tasks(client)
    assert [record.promoted_at == "" for record in task.history] == [True, False]
    exports = Path(task.history[0].export_folder).parent
    assert [path.name for path in exports.iterdir() if not path.name.startswith(".")] == ["1"]

    done = promote(client, challenger, force=False)
    assert (done.version, aliases_of(client, NAME)) == (2, {"champion": 2, "previous": 1})
    assert len(versions_of(client, NAME)) == 2


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred")  # by MLflow, of its own types
def test_the_champion_loads_as_an_mlflow_model_and_answers_as_its_export(
    client: MlflowClient,
    home: tuple[Path, Promotion],
    store: TileStore,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", client.tracking_uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    signature = loaded.metadata.signature
    assert (signature.inputs.input_names(), signature.outputs.input_names()) == (
        ["image_bytes"],
        ["not-school", "school"],
    )
    files = golden_files(replace(store, report=replace(store.report, root=Path("gone"))))  # PNGs of the model's size
    answers = loaded.predict(pd.DataFrame({"image_bytes": files}))
    assert list(answers.columns) == ["not-school", "school"]
    assert np.abs(answers.to_numpy() - ServedModel(home[1].export.folder).predict(files)).max() < 1e-4
    folder = tmp_path / "tiles"
    folder.mkdir()
    for number, data in enumerate(files):
        (folder / f"{number}.jpg").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    exec(
        code_below("Python", "python")[2]
        .replace("sqlite:///.satx/mlflow.db", client.tracking_uri)
        .replace("school@", f"{NAME}@"),
        {},
    )
    assert "tiles/0.jpg" in capsys.readouterr().out
    example = loaded.input_example
    assert len(example) == 1 and loaded.predict(example).shape == (1, 2)


def test_tiles_in_formats_that_the_export_does_not_decode_are_named_and_do_not_stop_a_promotion(
    client: MlflowClient,
    classifiers: dict[str, Classifier],
    tiles: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(tiles, tmp_path / "mixed")
    for number, path in enumerate(sorted((folder / "test").rglob("*.jpg"))[:7]):
        with Image.open(path) as image:
            image.load()
        image.save(path, *(("WEBP",) if number < 4 else ("TIFF",)))  # under the name of a JPEG
    run_id = make_run(client, classifiers["right"], open_tiles(folder, tmp_path / "cache"))
    promote_command(run_id, force=False, as_json=False)
    assert "3 TIFF, 4 WebP" in in_one_line(capsys.readouterr().out)
    version = client.get_model_version(NAME, "2")
    assert version.tags["not_served"] == "3 TIFF, 4 WebP" and "3 TIFF, 4 WebP" in version.description
    (task,) = registered_tasks(client)
    assert task.champion is not None
    assert (task.champion.version, task.champion.not_served) == (2, "3 TIFF, 4 WebP")
    assert verify_export(Path(task.champion.export_folder)).manifest["not_served"] == {"WebP": 4, "TIFF": 3}
    show_command(as_json=False)
    assert "not 3 TIFF, 4 WebP among the session's tiles" in in_one_line(capsys.readouterr().out)


def in_one_line(printed: str) -> str:
    """Return printed text without the borders of panels and tables."""
    return " ".join(printed.replace("│", " ").split())


@pytest.mark.slow
def test_a_champion_of_another_image_size_is_scored_on_the_same_tiles(
    store: TileStore, classifiers: dict[str, Classifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SATX_HOME", str(tmp_path))
    larger = fitted_classifier(open_tiles(store.report.root, tmp_path / "cache", size_px=48))
    wrong = classifiers["wrong"]
    comparison = compare(candidate_of(wrong, store), score(wrong, store, "school"), larger)
    assert comparison.champion.auc.value > 0.9 and comparison.surely_worse


def test_other_classes_than_the_champions_are_refused(store: TileStore, classifiers: dict[str, Classifier]) -> None:
    right = classifiers["right"]
    with pytest.raises(PromotionRefused, match=r"no, school.* not-school, school"):
        compare(candidate_of(right, store), score(right, store, "school"), replace(right, classes=("no", "school")))


def test_a_session_without_test_tiles_is_refused_without_force(
    client: MlflowClient, classifiers: dict[str, Classifier], tiles: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "untested"
    folder.mkdir()
    for name in ("train", "valid", "SATX_SAMPLE.json"):
        (folder / name).symlink_to(tiles / name)
    run_id = make_run(client, classifiers["right"], open_tiles(folder, tmp_path / "cache"))
    with pytest.raises(PromotionRefused, match=f"{run_id}.* test/"):
        promote(client, run_id, force=False)


def test_a_sample_never_gets_the_name_of_a_real_task(
    store: TileStore, classifiers: dict[str, Classifier], tmp_path: Path
) -> None:
    sample = classifiers["right"]
    assert model_name(candidate_of(replace(sample, task="school"), store)) == NAME
    real = open_tiles(without_marker(store.report.root, tmp_path / "real"), tmp_path / "cache")
    posing = replace(sample, task="school", sample=False)
    assert model_name(candidate_of(posing, real)) == "school"
    for classifier, tiles in ((sample, real), (posing, store), (replace(posing, task=NAME), real)):
        with pytest.raises(PromotionRefused) as error:
            model_name(candidate_of(classifier, tiles))
        assert f"sample={classifier.sample}" in str(error.value) and repr(classifier.task) in str(error.value)


def test_runs_that_cannot_be_promoted_say_what_to_do(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    right = classifiers["right"]
    killed = make_run(client, right, store, status="KILLED")
    unkept = make_run(client, right, store, keep=False)
    sweep = start_run(client, experiment_id(client, "tiny-sample"), name="sweep", tags={}, params={}, parent=None)
    plain = sweep.info.run_id
    client.set_terminated(plain)
    cases = {"0" * 32: "0" * 32, killed: "KILLED", unkept: f"`satx train --from-run {unkept}`", plain: "`satx sweep`"}
    for run_id, value in cases.items():
        with pytest.raises(ConfigError) as error:
            promote(client, run_id, force=True)
        assert run_id in str(error.value) and value in str(error.value)


def worse_by_chance(store: TileStore) -> Classifier:
    """Return a classifier that ranks one school of the test tiles last, and is right about all others.

    Its AUC is lower than the champion's, but not beyond chance.
    """
    classifier = fitted_classifier(store)
    network, rows = classifier.network, store.rows("test")
    features = np.asarray(network.features(network.encode(np.asarray(store.pixels())[rows])))
    wanted = np.where(store.labels()[rows] == store.classes.index("school"), 1.0, -1.0)
    wanted[np.argmax(wanted)] = -3.0
    kernel, *_ = np.linalg.lstsq(features, wanted)
    network.head.layers[-1].set_weights([np.stack([-kernel, kernel], axis=1), np.zeros(2)])
    return classifier


def without_room_for_exports(name: str) -> None:
    """Replace the folder of this model's exports by a file, so that no export can be written."""
    folder = export_folder(name, 1).parent
    shutil.rmtree(folder)
    folder.write_text("")


def test_a_challenger_that_may_be_worse_only_by_chance_is_accepted(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    worse = worse_by_chance(store)
    scores = score(worse, store, "school")
    difference = compare(candidate_of(worse, store), scores, classifiers["right"]).auc
    assert difference.value < 0 <= difference.high
    without_room_for_exports(NAME)  # exporting takes long, and comes after the gate
    with pytest.raises(FileExistsError):
        promote(client, make_run(client, worse, store), force=False)
    assert client.get_model_version(NAME, "2").tags["forced"] == "false"


def test_an_export_that_cannot_be_written_moves_no_alias(
    client: MlflowClient, store: TileStore, classifiers: dict[str, Classifier]
) -> None:
    challenger = make_run(client, classifiers["right"], store)
    without_room_for_exports(NAME)
    with pytest.raises(FileExistsError):
        promote(client, challenger, force=False)
    assert aliases_of(client, NAME) == {"champion": 1}
    assert "promoted_at" not in client.get_model_version(NAME, "2").tags


def test_promotion_export_and_history_need_no_optuna(
    client: MlflowClient, classifiers: dict[str, Classifier], store: TileStore, home: tuple[Path, Promotion]
) -> None:
    run_id = make_run(client, classifiers["right"], store)
    program = (
        "import sys\nsys.modules['optuna'] = None\n"  # importing it raises ModuleNotFoundError
        "from satx.commands.promote import promote_command\nfrom satx.commands.show import show_command\n"
        f"promote_command({run_id!r}, force=True, as_json=True)\nshow_command(as_json=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    promoted, _, shown = done.stdout.partition("\n[")
    assert json.loads(promoted)["run_id"] == run_id
    assert json.loads(f"[{shown}")[0]["champion"]["run_id"] == run_id
    assert verify_export(Path(json.loads(promoted)["export"])).digest == json.loads(promoted)["export_digest"]
