"""Stages of the GPU benchmark."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pyarrow as pa
from gpu_tools import link_files, multiply_adds, write_tiles

from satx.bulk.block_file import PROBABILITY_PREFIX, ModelIdentity
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import Ledger, LocalFiles
from satx.bulk.local_scorer import MAX_DIFFERENCE, LocalScorer
from satx.bulk.plan import plan_files
from satx.catalogue import ALL, BACKBONES
from satx.config import Configuration
from satx.imagery.contract import DONE
from satx.imagery.folder import list_files, open_folder
from satx.imagery.judge import judged
from satx.models.backbones import build_backbone
from satx.models.classifier import Classifier
from satx.models.weights import find_weights
from satx.models.weights_file import Weights
from satx.storage import file_digest
from satx.tiles.layout import read_layout
from satx.tiles.store import TileStore, build_store
from satx.training.batch import OptimizerSettings
from satx.training.compiled import CompiledSteps, workbench
from satx.training.devices import device_name, precision_policy
from satx.training.head import initial_head
from satx.training.inputs import Inputs
from satx.training.trainer import network_of

if TYPE_CHECKING:
    from gpu import Report

SEED, LEARNING_RATE = 20, 1e-3
STEPS_AHEAD = 32  # dispatched before the clock is read
BULK_SECONDS, NUM_COMPARED = 20, 32
# Winograd's minimal filtering of 3x3 kernels saves products by up to 2.25 times (Lavin and Gray 2016); nothing saves more.
MOST_SAVED = 2.25


def describe() -> dict[str, Any]:
    """Return device and versions."""
    return {
        "device": device_name(),
        "device_kind": jax.devices()[0].device_kind,
        "num_processors": os.cpu_count(),
        "versions": {"python": platform.python_version(), "jax": jax.__version__, "keras": keras.__version__},
    }


@dataclass(frozen=True)
class Trained:
    """A backbone after its training stage."""

    backbone: str
    configuration: Configuration
    store: TileStore
    weights: Weights
    values: list[np.ndarray]

    def classifier(self, precision: str) -> Classifier:
        """Build the classifier in a precision of `train.precision`."""
        configuration = self.configuration.with_values({"train.precision": precision}, source="gpu")
        return Classifier(
            network=network_of(configuration, self.weights, len(self.store.classes), self.values),
            model=configuration.model,
            image_size_px=configuration.image_size_px,
            classes=self.store.classes,
            positive_class="school",
            task="school",
            sample=True,
        )


class Benchmark:
    """The stages, and what one of them leaves for the next."""

    def __init__(self, report: Report, folder: Path, weights_dir: Path | None) -> None:
        """Begin with a report and an empty folder."""
        self.report, self.sizes, self.folder, self.weights_dir = report, report.sizes, folder, weights_dir
        self.products_per_second = math.inf

    def measure(self, backbones: list[str]) -> None:
        """Run all stages."""
        self.report.run("matrix product", self.matrix_product, at_least_seconds=5)
        if self.report.run("tiles", self.write_tiles, at_least_seconds=30) is None:
            return
        for backbone in backbones:
            self._measure(backbone)

    def _measure(self, backbone: str) -> None:
        left: dict[str, Any] = {}

        def train() -> dict[str, Any]:
            found, left["trained"] = self.training(backbone)
            return found

        def infer() -> dict[str, Any]:
            found, left["scorer"] = self.inference(left["trained"])
            return found

        for name, work, seconds in (
            ("training", train, 60),
            ("inference", infer, 15),
            ("bulk", lambda: self.bulk(left["trained"], left["scorer"]), BULK_SECONDS),
        ):
            if self.report.run(f"{backbone} {name}", work, at_least_seconds=seconds) is None:
                return

    def matrix_product(self) -> dict[str, Any]:
        """Time the product of two large matrices, which is about the fastest that a device computes."""
        size, found = self.sizes.matrix_size, dict[str, Any]()
        for dtype in ("bfloat16", "float32"):
            matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
            seconds = min(_seconds(partial(jax.jit(jnp.matmul), matrix, matrix), repeats=5))
            found[f"{dtype}_tflops"] = 2 * size**3 / seconds / 1e12
        self.products_per_second = max(found.values()) * 1e12 / 2
        return found

    def write_tiles(self) -> dict[str, Any]:
        """Write the JPEG files of all stages."""
        num_train, num_valid = self.sizes.num_steps * self.sizes.batch_size, self.sizes.num_valid
        size_px = max(self.sizes.image_size_px.values())
        write_tiles(self.folder / "tiles", num_train=num_train, num_valid=num_valid, size_px=size_px)
        return {"num_tiles": num_train + num_valid}

    def training(self, backbone: str) -> tuple[dict[str, Any], Trained]:
        """Run one trial of the recipe, or as many of its steps as there is time for."""
        ends_at = time.perf_counter() + min(self.sizes.training_seconds[backbone], self.report.seconds_left)
        size_px = self.sizes.image_size_px[backbone]
        store = build_store(read_layout(self.folder / "tiles"), image_size_px=size_px, cache_dir=self.folder / "cache")
        values = {
            "model.backbone": backbone,
            "model.unfreeze": ALL,
            "train.batch_size": self.sizes.batch_size,
            "train.precision": "mixed_bfloat16",
        }
        configuration = Configuration(image_size_px=size_px).with_values(values, source="gpu")
        weights = self._weights(backbone, size_px)
        began = time.perf_counter()
        inputs = Inputs(configuration, store, weights, self.folder / "cache")
        inputs.start_at(ALL, cached=False)
        with precision_policy(configuration.train.precision):
            bench = workbench(weights, size_px, configuration.train.precision)
            steps = bench.steps(ALL, inputs.shape, inputs.dtype)
            head = initial_head(BACKBONES[backbone].num_features, len(store.classes), configuration.model, seed=SEED)
            steps.begin(
                [*bench.tail_values(steps), *head],
                None,
                settings=OptimizerSettings("adam", 0.0),
                activation=configuration.model.activation,
            )
            trial = _Trial(steps, inputs, len(head[-2]), self.sizes.num_warm_steps, ends_at)
            for epoch in range(self.sizes.num_epochs):
                if not trial.epoch(epoch):
                    break
        found = trial.found(self.sizes.num_epochs, began)
        products = 3 * multiply_adds(bench.backbone)  # forward, and backward for the inputs and for the weights
        self._check_training(backbone, found, trial.losses, products)
        inputs.release()
        return found, Trained(backbone, configuration, store, weights, steps.trained())

    def _weights(self, backbone: str, size_px: int) -> Weights:
        if self.weights_dir is not None:
            cache_dir = self.folder / "cache"
            return find_weights(backbone, self.weights_dir, cache_dir=cache_dir, image_size_px=size_px)
        keras.utils.clear_session()
        keras.utils.set_random_seed(SEED)
        path = self.folder / f"{backbone}_notop.weights.h5"
        build_backbone(backbone, size_px, None).save_weights(path)
        return Weights(backbone, str(path), file_digest(path), "random")

    def _check_training(self, backbone: str, found: dict[str, Any], losses: list[float], products: int) -> None:
        check = self.report.check
        is_finite = all(map(math.isfinite, losses))
        check(f"{backbone}: losses are finite", passed=is_finite, found=is_finite, expected=True)
        first, last = found["first_loss"], found["last_loss"]
        check(f"{backbone}: losses fall", passed=last < first, found=last, expected=f"below {first:.4g}")
        self._check_speed(f"{backbone}: training", found["train_tiles_per_second"], products)

    def _check_speed(self, name: str, tiles_per_second: float, products: int) -> None:
        """Check that a speed is possible: with the fewest products, and each as fast as in a matrix product."""
        most = MOST_SAVED * self.products_per_second / products
        self.report.check(
            f"{name} is physically possible",
            passed=tiles_per_second < most,
            found=tiles_per_second,
            expected=f"below {most:.4g} tiles a second",
        )

    def inference(self, trained: Trained) -> tuple[dict[str, Any], LocalScorer]:
        """Time predictions of the trained network, and compare bfloat16 with float32."""
        classifier, reference = trained.classifier("mixed_bfloat16"), trained.classifier("float32")
        scorer = LocalScorer(classifier, _identity(trained), "bfloat16", reference=reference)
        num_tiles, repeats = self.sizes.inference_batch, self.sizes.num_repeats
        rows = np.resize(trained.store.rows("valid"), num_tiles)
        tiles = np.asarray(trained.store.pixels()[rows])  # (n, S, S, 3) uint8
        scorer.score(tiles, [])  # compiles, and compares with float32
        difference = scorer.about()["difference_from_float32"]
        name = trained.backbone
        check = self.report.check
        check(
            f"{name}: bfloat16 agrees with float32",
            passed=difference is not None and difference <= MAX_DIFFERENCE,
            found=difference,
            expected=f"at most {MAX_DIFFERENCE}",
        )
        through_memory = num_tiles / statistics.median(_seconds(lambda: scorer.score(tiles, []), repeats=repeats))
        on_device = num_tiles / statistics.median(_seconds(_forward(classifier, tiles), repeats=repeats))
        self._check_speed(
            f"{name}: inference", max(on_device, through_memory), multiply_adds(trained_backbone(trained))
        )
        found = {
            "tiles_per_second": on_device,
            "tiles_per_second_through_memory": through_memory,
            "difference_from_float32": difference,
            "batch_size": num_tiles,
        }
        return found, scorer

    def bulk(self, trained: Trained, scorer: LocalScorer) -> dict[str, Any]:
        """Predict JPEG files into Parquet as `satx predict` does, and check every row."""
        bare = self.report.content["stages"][f"{trained.backbone} inference"]["tiles_per_second_through_memory"]
        num_files = min(self.sizes.num_files, max(1024, int(bare * BULK_SECONDS / 2) // 1024 * 1024))
        folder = link_files(self.folder / "tiles", self.folder / f"{trained.backbone}-files", num_files)
        plan, imagery = plan_files(list_files(folder)), open_folder(folder)
        ledger = Ledger(LocalFiles(self.folder / f"{trained.backbone}-out"))
        began = time.perf_counter()
        judging_seconds = predict_blocks(plan, plan.blocks, imagery, scorer, ledger)
        seconds = time.perf_counter() - began
        imagery.close()
        table = pa.concat_tables([ledger.read(block.name) for block in plan.blocks])
        self._check_rows(trained, scorer, folder, table, num_files)
        return {
            "tiles_per_second": num_files / seconds,
            "share_of_inference": num_files / seconds / bare,
            "judging_processor_seconds": judging_seconds,
            "num_tiles": num_files,
        }

    def _check_rows(self, trained: Trained, scorer: LocalScorer, folder: Path, table: pa.Table, num_files: int) -> None:
        """Check that each file has one row, all are done, and the first have the scores that they have alone."""
        check, name = self.report.check, trained.backbone
        names = [f"{number:06d}.jpg" for number in range(num_files)]
        check(
            f"{name}: a row for each file",
            passed=table["tile_id"].to_pylist() == names,
            found=len(table),
            expected=num_files,
        )
        statuses = set(table["status"].to_pylist())
        check(f"{name}: all are done", passed=statuses == {DONE}, found=sorted(statuses), expected=[DONE])
        size_px = trained.configuration.image_size_px
        files = [(folder / name).read_bytes() for name in names[:NUM_COMPARED]]
        alone = np.stack(scorer.score(np.stack([judged(data, "tile", size_px, frozenset()) for data in files]), files))
        columns = [table[PROBABILITY_PREFIX + label].to_numpy()[:NUM_COMPARED] for label in trained.store.classes]
        difference = float(np.abs(np.stack(columns, 1) - alone).max())
        check(
            f"{name}: rows have the scores of their tiles",
            passed=difference < 0.01,
            found=difference,
            expected="below 0.01",
        )


class _Trial:
    """Epochs of one training, and the time that they take."""

    def __init__(self, steps: CompiledSteps, inputs: Inputs, head_width: int, num_warm: int, ends_at: float) -> None:
        self._steps, self._inputs, self._head_width = steps, inputs, head_width
        self._num_warm, self._ends_at = num_warm, ends_at
        self._measured: list[Any] = []
        self._warm_at, self._train_seconds = 0.0, 0.0
        self._valid_seconds: list[float] = []

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        return [float(loss) for loss in self._measured]

    def epoch(self, number: int) -> bool:
        """Train on every tile once, then predict the validation tiles; return False if the time ran out."""
        began = time.perf_counter()
        for batch in self._inputs.train_batches(number + 1, self._head_width):
            loss, _ = self._steps.train_on_batch(batch, LEARNING_RATE)
            self._measured.append(loss)
            done = len(self._measured)
            if done == self._num_warm:
                float(loss)
                self._warm_at = began = time.perf_counter()
            if done % STEPS_AHEAD == 0:
                float(self._measured[-STEPS_AHEAD])  # so that the clock is not far ahead of the device
                if time.perf_counter() > self._ends_at:
                    self._end_of_training(began)
                    return False
        self._end_of_training(began)
        began = time.perf_counter()
        for batch in self._inputs.valid_batches():
            self._steps.probabilities(batch)
        self._steps.trained()  # a trial keeps the values of its best epoch
        self._valid_seconds.append(time.perf_counter() - began)
        return time.perf_counter() < self._ends_at

    def _end_of_training(self, began: float) -> None:
        float(self._measured[-1])
        self._train_seconds += time.perf_counter() - began

    def found(self, num_epochs: int, began: float) -> dict[str, Any]:
        """Return the figures of a trial that began then, and should have had this number of epochs."""
        losses, inputs = self.losses, self._inputs
        num_steps, epoch_steps = len(losses), len(inputs.order(1))
        step_seconds = self._train_seconds / max(1, num_steps - self._num_warm)
        is_whole = len(self._valid_seconds) == num_epochs
        trial_seconds = time.perf_counter() - began
        if not is_whole:
            valid_seconds = statistics.median(self._valid_seconds or [0.0])
            left = (num_epochs * epoch_steps - self._num_warm) * step_seconds + num_epochs * valid_seconds
            trial_seconds = self._warm_at - began + left
        window = max(1, min(STEPS_AHEAD, num_steps // 4))
        return {
            "train_tiles_per_second": inputs.config.train.batch_size / step_seconds,
            "trial_seconds": trial_seconds,
            "trial_is_extrapolated": not is_whole,
            "num_epochs_done": len(self._valid_seconds),
            "num_steps_done": num_steps,
            "seconds_until_warm": self._warm_at - began,
            "first_loss": statistics.fmean(losses[:window]),
            "last_loss": statistics.fmean(losses[-window:]),
        }


def trained_backbone(trained: Trained) -> Any:
    """Return the backbone whose multiply-adds are counted."""
    return workbench(trained.weights, trained.configuration.image_size_px, "mixed_bfloat16").backbone


def _identity(trained: Trained) -> ModelIdentity:
    return ModelIdentity(
        name="gpu",
        version=1,
        digest=trained.weights.digest,
        classes=trained.store.classes,
        positive_class="school",
        threshold=0.5,
        image_size_px=trained.configuration.image_size_px,
        sample=True,
    )


def _forward(classifier: Classifier, tiles: np.ndarray) -> Callable[[], Any]:
    """Return a function that computes the probabilities of tiles that are on the device, and leaves them there."""
    network = classifier.network
    states = [
        [variable.value for variable in part] for part in (network.trainable_variables, network.non_trainable_variables)
    ]
    forward = jax.jit(lambda states, inputs: network.stateless_call(*states, inputs, training=False)[0])
    inputs = jax.device_put(tiles)
    return lambda: forward(states, inputs)


def _seconds(call: Callable[[], Any], *, repeats: int) -> list[float]:
    """Return the seconds of each call until its result is there, after one call that compiles."""
    jax.block_until_ready(call())
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - began)
    return found
