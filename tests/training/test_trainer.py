from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from satx.config import Configuration
from satx.errors import Interrupted, OutOfMemory, TrialFailed
from satx.evaluation.metrics import accuracy, log_loss, roc_auc
from satx.inference.predictor import predict_split
from satx.models.backbones import build_backbone
from satx.models.classifier import Classifier, load_classifier, save_classifier
from satx.tiles.store import open_store
from satx.training import trainer
from satx.training.checkpoint import Epoch, load_checkpoint
from satx.training.contract import TrainingData, TrainingResult
from satx.training.inputs import Inputs
from satx.training.trainer import train

Short = Callable[..., Configuration]
TWO_PHASES = {"model__unfreeze": "block16", "train__schedule": "cosine", "train__optimizer": "adamw"}


def curve(history: tuple[Epoch, ...] | list[Epoch]) -> list[dict[str, Any]]:
    """Return a history without its durations."""
    return [{name: value for name, value in asdict(epoch).items() if name != "epoch_seconds"} for epoch in history]


def inputs_of(configuration: Configuration, data: TrainingData) -> Inputs:
    return Inputs(configuration, data.store, data.weights, data.cache_dir)


def values(variables: list[Any]) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(variable)) for variable in variables]


def test_both_phases_share_one_step_axis(two_phases: Any) -> None:
    result, reported, _ = two_phases
    assert [epoch.step for epoch in result.history] == [1, 2, 3, 4, 5]
    assert [epoch.phase for epoch in result.history] == ["head"] * 3 + ["tail"] * 2
    assert reported == [(epoch, True) for epoch in result.history]


def test_the_rate_follows_the_schedule_of_each_phase(two_phases: Any) -> None:
    rates = [epoch.learning_rate for epoch in two_phases[0].history]
    assert rates == pytest.approx([1e-3, 0.75e-3, 0.25e-3, 1e-4, 0.5e-4])


def test_the_best_epoch_is_that_of_the_highest_validation_auc(two_phases: Any) -> None:
    result = two_phases[0]
    assert result.best == max(result.history, key=lambda epoch: (epoch.val_auc, -epoch.val_loss))


def test_the_returned_network_is_that_of_the_best_epoch(two_phases: Any, training_data: TrainingData) -> None:
    result = two_phases[0]
    truth = training_data.store.labels()[training_data.store.rows("valid")]
    found = predict_split(result.network, training_data.store, "valid")
    noise = (
        1e-3 if keras.backend.backend() == "jax" else 1e-5
    )  # XLA fuses whole programs, and float16 at the cut amplifies the differences
    assert np.allclose(found, result.val_probabilities, atol=noise)
    assert log_loss(truth, found) == pytest.approx(result.best.val_loss, abs=2e-3)
    assert accuracy(truth, found) == pytest.approx(result.best.val_accuracy, abs=0.051)
    assert roc_auc(truth, found, positive_index=training_data.positive_index) == pytest.approx(
        result.best.val_auc, abs=0.01
    )


def test_the_trunk_and_all_statistics_are_those_of_the_weights_file(
    two_phases: Any, training_data: TrainingData
) -> None:
    network = two_phases[0].network
    fresh = build_backbone("mobilenetv2", 32, Path(training_data.weights.file))
    compared = moved = 0
    for part, frozen in ((network.trunk, True), (network.tail, False)):
        for layer in part.layers:
            theirs = fresh.get_layer(layer.name).variables if layer.variables else []
            for ours, original in zip(layer.variables, theirs, strict=True):
                same = np.array_equal(*values([ours, original]))
                if frozen or "moving" in ours.path:
                    assert same, ours.path
                    compared += 1
                else:
                    moved += not same
    assert compared > 200
    found = load_checkpoint(two_phases[2])
    assert found is not None
    now, before = found[1]["current"], network.tail.variables
    originals = {variable.path: variable for layer in fresh.layers for variable in layer.variables}
    assert any(
        not np.array_equal(value, *values([originals[variable.path]]))
        for value, variable in zip(now, before, strict=False)
    ), "the tail was trained"
    assert moved > 0 or two_phases[0].best.phase == "head"


@pytest.mark.slow
def test_a_tail_from_random_weights_learns_its_statistics_and_the_trunk_still_does_not(
    short: Short, training_data: TrainingData, tmp_path: Path
) -> None:
    data = replace(training_data, weights=replace(training_data.weights, source="random"))
    configuration = short(model__unfreeze="block16", train__head_epochs=1, train__finetune_epochs=4)
    with pytest.raises(Interrupted):
        train(configuration, data, checkpoint_dir=tmp_path, stop=lambda: len(list(tmp_path.glob("current-2.npz"))) > 0)
    result = train(configuration, data, checkpoint_dir=tmp_path)
    whole = train(configuration, data, checkpoint_dir=tmp_path / "whole")
    assert curve(result.history) == curve(whole.history)
    found = load_checkpoint(tmp_path)
    assert found is not None
    fresh = build_backbone("mobilenetv2", 32, Path(data.weights.file))
    originals = {variable.path: variable for layer in fresh.layers for variable in layer.variables}
    in_the_end = dict(zip([v.path for v in result.network.tail.variables], found[1]["current"], strict=False))
    moved = [
        not np.array_equal(value, *values([originals[path]])) for path, value in in_the_end.items() if "moving" in path
    ]
    assert moved
    assert all(moved)
    for layer in result.network.trunk.layers:
        for ours, original in zip(
            layer.variables, fresh.get_layer(layer.name).variables if layer.variables else [], strict=True
        ):
            assert np.array_equal(*values([ours, original])), ours.path


def test_the_checkpoint_holds_the_trained_variables_and_none_of_the_trunk(two_phases: Any) -> None:
    result, _, folder = two_phases
    found = load_checkpoint(folder)
    assert found is not None
    progress, arrays = found
    assert progress.history == list(result.history)
    network = result.network
    head = [variable for variable in network.head.variables if "seed" not in variable.path]
    assert [value.shape for value in arrays["current"]] == [v.shape for v in [*network.tail.variables, *head]]


def test_a_trained_network_is_saved_without_the_optimizer(two_phases: Any, tmp_path: Path) -> None:
    result = two_phases[0]
    model = Configuration().with_values(
        {"model.backbone": "mobilenetv2", "model.unfreeze": "block16", "model.dense_units": 16}, source="test"
    )
    classifier = Classifier(result.network, model.model, 32, ("not-school", "school"), "school", "school", True)
    save_classifier(classifier, tmp_path / "model")
    variables = sum(value.nbytes for value in values(result.network.weights))
    assert (tmp_path / "model" / "model.weights.h5").stat().st_size < 1.1 * variables + 500_000
    tiles = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    loaded = load_classifier(tmp_path / "model").network
    assert np.array_equal(*[keras.ops.convert_to_numpy(one(tiles)) for one in (result.network, loaded)])


STILL = {"train__optimizer": "sgd", "train__head_learning_rate": 1e-12, "model__dropout": 0.0}  # no variable changes


def test_a_head_that_does_not_improve_lowers_its_rate_and_stops_early(
    short: Short, training_data: TrainingData, tmp_path: Path
) -> None:
    configuration = short(
        **STILL,
        train__head_epochs=20,
        train__early_stopping_patience_epochs=4,
        train__plateau_patience_epochs=2,
        train__plateau_factor=0.5,
    )
    result = train(configuration, training_data, checkpoint_dir=tmp_path)
    assert [epoch.learning_rate / 1e-12 for epoch in result.history] == pytest.approx([1, 1, 1, 0.5, 0.5])
    assert result.best.step == 1
    assert len({epoch.val_loss for epoch in result.history}) == 1


def test_an_epochs_loss_is_that_of_all_tiles_with_class_weights_and_label_smoothing(
    short: Short, training_data: TrainingData, tmp_path: Path
) -> None:
    store = training_data.store
    index = store.index.copy()
    train_rows = store.rows("train")
    school = train_rows[store.labels()[train_rows] == training_data.positive_index]
    index.loc[school[10:], "split"] = "unused"
    uneven = replace(training_data, store=replace(store, index=index), cache_dir=tmp_path / "cache")
    configuration = short(
        **STILL, train__head_epochs=1, train__label_smoothing=0.2, augmentation__num_flips=1, train__batch_size=16
    )
    result = train(configuration, uneven, checkpoint_dir=tmp_path / "trial")

    counts = np.bincount(store.labels()[uneven.store.rows("train")])
    assert counts.min() == 10 < counts.max()
    places = inputs_of(configuration, uneven).order(step=1).ravel()  # with the tiles that fill up the last batch
    labels = store.labels()[uneven.store.rows("train")][places]
    probabilities = predict_split(result.network, uneven.store, "train").astype(np.float64)[places]
    targets = np.eye(2)[labels] * 0.8 + 0.1
    weights = (counts.sum() / (2 * counts))[labels]
    expected = float((-(targets * np.log(probabilities)).sum(axis=1) * weights).mean())
    assert result.history[0].loss == pytest.approx(expected, rel=2e-3)
    assert result.history[0].accuracy == pytest.approx(accuracy(labels, probabilities), abs=1.5 / len(labels))
    plain = float((-(targets * np.log(probabilities)).sum(axis=1)).mean())
    assert abs(plain - expected) > 4e-3 * expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_trains_with_and_without_weight_decay(
    short: Short, training_data: TrainingData, tmp_path: Path, name: str
) -> None:
    norms = []
    for decay in (0.0, 1.0):
        configuration = short(
            train__optimizer=name,
            train__head_epochs=1,
            train__head_learning_rate=0.01,
            train__weight_decay=decay,
            augmentation__num_flips=1,
        )
        result = train(configuration, training_data, checkpoint_dir=tmp_path / str(decay))
        norms.append(np.linalg.norm(values(result.network.head.trainable_variables)[0]))
    assert norms[1] < 0.99 * norms[0]


def diverging(configuration: Configuration) -> Configuration:
    """Return a configuration with a learning rate far beyond the bounds that settings are checked against."""
    hot = configuration.train.model_copy(update={"head_learning_rate": 1e30, "optimizer": "sgd"})
    return configuration.model_copy(update={"train": hot})


@pytest.mark.parametrize("batch_size", [16, 512])
def test_a_loss_that_is_not_finite_fails_the_trial(
    short: Short, training_data: TrainingData, tmp_path: Path, batch_size: int
) -> None:
    configuration = diverging(short(train__batch_size=batch_size, train__precision="mixed_bfloat16"))
    with pytest.raises(TrialFailed, match=r"1e\+30"):
        train(configuration, training_data, checkpoint_dir=tmp_path)
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.slow
def test_mixed_precision_trains_resumes_and_restores_the_dtype_policy(
    short: Short, training_data: TrainingData, tmp_path: Path
) -> None:
    configuration = short(model__unfreeze="block16", train__precision="mixed_bfloat16", train__head_epochs=1)
    whole = train(configuration, training_data, checkpoint_dir=tmp_path / "whole")
    assert keras.config.dtype_policy().name == "float32"
    assert whole.network.tail.layers[1].compute_dtype == "bfloat16"
    computing = [layer for layer in whole.network.head.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert {layer.compute_dtype for layer in computing} == {"float32"}
    assert whole.val_probabilities.dtype == np.float32
    assert whole.network.tail.weights[0].dtype == "float32"

    def die(epoch: Epoch, new: bool) -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        train(configuration, training_data, checkpoint_dir=tmp_path / "cut", on_epoch=die)
    assert keras.config.dtype_policy().name == "float32"
    resumed = train(configuration, training_data, checkpoint_dir=tmp_path / "cut")
    assert curve(resumed.history) == curve(whole.history)


@pytest.mark.slow
def test_running_out_of_memory_in_an_epoch_fails_the_trial(
    short: Short, training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hungry(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "save_checkpoint", hungry)
        with pytest.raises(OutOfMemory):
            train(short(), training_data, checkpoint_dir=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "head_steps", hungry)
        with pytest.raises(TrialFailed) as caught:
            train(short(), training_data, checkpoint_dir=tmp_path)
        assert not isinstance(caught.value, OutOfMemory), "compiling does not depend on the batch size"
    with pytest.raises(MemoryError):  # raised by the callback, not by the training
        train(short(), training_data, checkpoint_dir=tmp_path, on_epoch=hungry)


@pytest.mark.slow
def test_a_training_with_random_augmentations_runs(short: Short, training_data: TrainingData, tmp_path: Path) -> None:
    configuration = short(
        augmentation__mode="random",
        augmentation__rotation_degrees=20,
        augmentation__brightness=0.2,
        train__head_epochs=2,
    )
    result = train(configuration, training_data, checkpoint_dir=tmp_path)
    assert [epoch.phase for epoch in result.history] == ["head", "head"]
    assert result.history[0].loss != result.history[1].loss
    assert np.allclose(predict_split(result.network, training_data.store, "valid"), result.val_probabilities, atol=1e-4)


def test_the_test_split_is_never_read(
    short: Short, training_data: TrainingData, one_phase: TrainingResult, tmp_path: Path
) -> None:
    original = training_data.store
    folder = Path(shutil.copytree(original.folder, tmp_path / original.folder.name))
    pixels = np.load(folder / "pixels.npy", mmap_mode="r+", allow_pickle=False)
    pixels[original.rows("test")] = np.random.default_rng(0).integers(0, 256, pixels[original.rows("test")].shape)
    pixels.flush()
    scrambled = replace(training_data, store=open_store(folder), cache_dir=tmp_path / "cache")
    found = train(short(), scrambled, checkpoint_dir=tmp_path / "trial")
    assert curve(found.history) == curve(one_phase.history)
    assert np.array_equal(found.val_probabilities, one_phase.val_probabilities)


def test_another_seed_gives_another_curve(
    short: Short, training_data: TrainingData, one_phase: TrainingResult, tmp_path: Path
) -> None:
    other = train(short(train__seed=21), training_data, checkpoint_dir=tmp_path)
    assert curve(other.history) != curve(one_phase.history)


def test_the_head_learns_and_its_probabilities_are_those_of_the_best_epoch_exactly(
    one_phase: TrainingResult, training_data: TrainingData
) -> None:
    assert one_phase.history[-1].loss < one_phase.history[0].loss
    assert len({epoch.val_auc for epoch in one_phase.history}) > 1
    truth = training_data.store.labels()[training_data.store.rows("valid")]
    found, best = one_phase.val_probabilities, one_phase.best
    assert roc_auc(truth, found, positive_index=training_data.positive_index) == best.val_auc
    assert log_loss(truth, found) == best.val_loss
    assert accuracy(truth, found) == best.val_accuracy


@pytest.mark.slow
@pytest.mark.parametrize(("unfreeze", "least_auc"), [("none", 0.85), ("block14", 0.85)])
def test_a_training_on_real_tiles_separates_the_classes(
    real_tiles: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory, unfreeze: str, least_auc: float
) -> None:
    from satx.models.weights import find_weights
    from satx.tiles.layout import read_layout
    from satx.tiles.store import build_store

    cache_dir = tmp_path_factory.getbasetemp() / "real"
    store = build_store(read_layout(real_tiles), image_size_px=96, cache_dir=cache_dir)
    weights = find_weights("mobilenetv2", pretrained, cache_dir=cache_dir, image_size_px=96)
    data = TrainingData(store, weights, store.classes.index("school"), cache_dir)
    values = {"image_size_px": 96, "model.backbone": "mobilenetv2", "model.unfreeze": unfreeze}
    values |= {"train.head_epochs": 4, "train.finetune_epochs": 2, "augmentation.num_flips": 2}
    result = train(
        Configuration().with_values(values, source="test"), data, checkpoint_dir=cache_dir / f"trial-{unfreeze}"
    )
    assert result.best.val_auc > least_auc


@pytest.mark.parametrize("batch_size", [7, 16, 1000])
def test_an_epoch_consists_of_whole_batches_and_contains_every_tile(
    batch_size: int, short: Short, training_data: TrainingData
) -> None:
    inputs = inputs_of(short(train__batch_size=batch_size), training_data)
    num_tiles = len(training_data.store.rows("train"))
    batches = inputs.order(step=1)
    assert batches.shape[1] == batch_size
    assert 0 <= batches.size - num_tiles < batch_size
    assert set(batches.ravel().tolist()) == set(range(num_tiles))
    assert np.array_equal(batches, inputs.order(step=1))
    assert not np.array_equal(batches, inputs.order(step=2))


def test_configurations_share_the_compiled_steps_of_a_cut(
    short: Short, training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Widths, activations, dropout, smoothing and rates share one compiled program; so do batch sizes, except on JAX."""
    from satx.models.backbones import Network

    entered: list[str] = []
    features = Network.features

    def counted(self: Any, encoded: Any, training: bool = False) -> Any:
        entered.append(f"training={training}")  # runs when a step is traced, not when it is called
        return features(self, encoded, training)

    monkeypatch.setattr(Network, "features", counted)
    draws: list[dict[str, Any]] = [
        {"model__dense_units": 16, "model__activation": "relu", "train__batch_size": 16},
        {"model__dense_units": 40, "model__activation": "gelu", "train__batch_size": 7, "model__dropout": 0.5},
        {"model__dense_units": 8, "model__activation": "elu", "train__label_smoothing": 0.1, "model__dropout": 0.0},
    ]
    for number, draw in enumerate(draws):
        configuration = short(model__unfreeze="block14", train__head_epochs=1, train__finetune_epochs=1, **draw)
        train(configuration, training_data, checkpoint_dir=tmp_path / str(number))
    num_programs = len(draws) if keras.backend.backend() == "jax" else 1
    assert sorted(entered) == ["training=False", *["training=True"] * num_programs]


def test_a_cached_training_and_one_without_cache_are_the_same(
    short: Short, training_data: TrainingData, two_phases: Any, tmp_path: Path
) -> None:
    without = train(
        short(**TWO_PHASES, cache="off"),
        replace(training_data, cache_dir=tmp_path / "cache"),
        checkpoint_dir=tmp_path / "trial",
    )
    cached = two_phases[0]
    assert (cached.trunk_cache, without.trunk_cache) == ("read", "off (cache: off)")
    assert not (tmp_path / "cache").exists()
    for one, other in zip(cached.history, without.history, strict=True):
        assert one.loss == pytest.approx(other.loss, abs=1e-4)
        assert one.val_loss == pytest.approx(other.val_loss, abs=1e-4)
    assert np.allclose(cached.val_probabilities, without.val_probabilities, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"augmentation__num_flips": 8, "train__finetune_epochs": 1}, "not worth it: 8 views for 1 epochs"),
        ({"cache_gb": 1e-6}, "does not fit: 0.0 GB of cache_gb=1e-06"),
        ({"augmentation__mode": "random"}, "new random views in every epoch"),
        ({"model__unfreeze": "all"}, "the whole backbone is trained"),
    ],
)
def test_a_training_without_cache_gives_the_reason(
    short: Short, training_data: TrainingData, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    brief = {"model__unfreeze": "block14", "train__head_epochs": 1, "train__finetune_epochs": 2} | changes
    data, reasons = replace(training_data, cache_dir=tmp_path / "cache"), list[str]()

    def on_cache(said: str) -> None:
        reasons.append(said)
        if len(reasons) == 2:  # before the first epoch of the tail
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        train(short(**brief), data, checkpoint_dir=tmp_path / "trial", on_cache=on_cache)
    assert reasons[1] == reason
    assert not list((tmp_path / "cache").glob("trunk/*/block14/*.npy"))
