"""Seconds per configuration in plain Keras and in satx for each backbone and cut, with a lower bound; and their scores.

    make bench NAME=replay ARGS="--data DIR --weights DIR --size 160"

A class is one backbone with one cut of a sweep's space. For each class, one configuration is drawn from that space. Its
epochs in both phases are timed in plain Keras (`plain.py`) and in satx, whose trunk cache was filled before. Times are
medians over `--epochs` epochs without the first, which compiles. `cache s` is the time spent so far on filling the
caches of the whole backbone, once for all its trials. `floor s` is the time that would remain if the frozen part is not
computed again and the remaining multiply-adds run as fast as in plain Keras; `tails` measures why satx can be below it.
A plain head epoch is measured once per backbone, with the configuration that trains only the head, because it is the
same work at every cut.

With `--train N`, N configurations are trained to the end both ways, and the paired difference in best validation AUC is
printed with its interval. Each class is saved as soon as it is measured
(`SATX_HOME/benchmarks/replay-<digest of the inputs>/`), so the benchmark can be run in parts. Writes replay.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import optuna
from plain import PlainData, fit_plainly, link_tiles
from report import publish
from scipy import stats

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import Configuration
from satx.models.backbones import build_backbone, split_backbone
from satx.models.weights_file import Weights
from satx.search.space import BACKBONE, UNFREEZE, SweepConfig, load_sweep, settings_of, suggest, unfreeze_choices
from satx.sessions.prepare import PreparedSession, SessionRequest, prepare
from satx.storage import digest_of, satx_home, write_json
from satx.tiles.store import TileStore
from satx.training.contract import TRAINER_VERSION, TrainingData
from satx.training.trainer import train
from satx.training.trunk import build_all, trunk_source


def main() -> None:
    """Measure what has not been measured yet, and print all results."""
    options = _options()
    sweep = load_sweep(options.sweep)
    prepared = prepare(SessionRequest("2", options.data, str(options.weights), options.size), sweep.backbones)
    folder = kept_in(prepared.store, options.sweep, prepared.weights)
    with tempfile.TemporaryDirectory() as name:
        plain_data = link_tiles(prepared.store, Path(name), prepared.session.positive_class)
        for backbone in sweep.backbones:
            for unfreeze in unfreeze_choices(sweep, backbone, settings_of(sweep, prepared.defaults)):
                path = folder / f"class-{backbone}-{unfreeze}.json"
                if not path.exists() and (not options.only or f"{backbone}-{unfreeze}" in options.only):
                    heads = _short(drawn(sweep, prepared, backbone, NONE), options.epochs)
                    head = _plain_head(folder / f"head-{backbone}.json", heads, prepared, plain_data)
                    one = drawn(sweep, prepared, backbone, unfreeze)
                    write_json(path, _measured(one, options.epochs, sweep, prepared, plain_data, plain_head=head))
        _train_both(options.train, options.only, sweep, prepared, plain_data, folder)
    rows = [_read(path) for path in sorted(folder.glob("class-*.json"))]
    pairs = [_read(path) for path in sorted(folder.glob("pair-*.json"))]
    publish("replay", rows, **_difference(pairs))


def _options() -> Any:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--sweep", default="seed200")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs per phase; the first, which compiles, is not timed"
    )
    parser.add_argument("--train", type=int, default=0, help="number of configurations to train to the end both ways")
    parser.add_argument("--only", nargs="*", help="classes to measure, such as xception-block14")
    return parser.parse_args()


def kept_in(store: TileStore, sweep_name: str, weights: dict[str, Weights]) -> Path:
    """Return the folder for the measurements with these tiles and weights."""
    asked = [
        store.digest,
        store.image_size_px,
        sweep_name,
        *sorted(w.digest for w in weights.values()),
        TRAINER_VERSION,
    ]
    return satx_home() / "benchmarks" / f"replay-{digest_of(asked)[:8]}"


def drawn(sweep: SweepConfig, prepared: PreparedSession, backbone: str, unfreeze: str, seed: int = 0) -> Configuration:
    """Draw a random configuration of this class from the sweep's space."""
    sampler = optuna.samplers.PartialFixedSampler(
        {BACKBONE: backbone, f"{UNFREEZE}@{backbone}": unfreeze}, optuna.samplers.RandomSampler(seed=seed)
    )
    return suggest(optuna.create_study(sampler=sampler).ask(), sweep, prepared.defaults)


def _short(configuration: Configuration, num_epochs: int) -> Configuration:
    """Return the configuration with few epochs in each phase."""
    values = {"head_epochs": num_epochs, "finetune_epochs": num_epochs, "early_stopping_patience_epochs": num_epochs}
    return configuration.with_values({f"train.{name}": value for name, value in values.items()}, source="replay")


def _plain_head(path: Path, configuration: Configuration, prepared: PreparedSession, plain_data: PlainData) -> float:
    """Return the seconds of a head epoch in plain Keras, measured once per backbone."""
    if not path.exists():
        weights_file = Path(prepared.weights[configuration.model.backbone].file)
        _, score = fit_plainly(configuration, plain_data, weights_file)
        write_json(path, {"seconds": statistics.median(score.seconds[1:])})
    return float(_read(path)["seconds"])


def _measured(
    configuration: Configuration,
    num_epochs: int,
    sweep: SweepConfig,
    prepared: PreparedSession,
    plain_data: PlainData,
    *,
    plain_head: float,
) -> dict[str, Any]:
    backbone, unfreeze = configuration.model.backbone, configuration.model.unfreeze
    settings, weights = configuration.train, prepared.weights[backbone]
    has_tail = unfreeze != NONE
    short, plain_tail = _short(configuration, num_epochs), 0.0
    if has_tail:
        _, score = fit_plainly(short, plain_data, Path(weights.file), first_epoch=num_epochs)
        plain_tail = statistics.median(score.seconds[1:])
    plain_seconds = settings.head_epochs * plain_head + settings.finetune_epochs * plain_tail * has_tail

    source = trunk_source(configuration, prepared.store, weights, satx_home() / "cache")
    choices = unfreeze_choices(sweep, backbone, settings_of(sweep, prepared.defaults))
    cuts = tuple(cut for cut in choices if cut != ALL)
    build_all(source, cuts, limit_gb=configuration.cache_gb)  # one pass for all cuts, as in a sweep
    values = {
        "train.head_epochs": settings.head_epochs,
        "cache_gb": 1000.0,
    }  # satx's head phase is too cheap to be worth shortening
    short = short.with_values(values, source="replay")
    positive = prepared.store.classes.index(prepared.session.positive_class)
    data = TrainingData(prepared.store, weights, positive, satx_home() / "cache")
    fixed = 0.0
    for _ in range(2 if unfreeze != ALL else 1):  # the first run compiles what a worker keeps between trials
        with tempfile.TemporaryDirectory() as name:
            started = time.perf_counter()
            result = train(short, data, checkpoint_dir=Path(name) / "trial")
            fixed = time.perf_counter() - started - sum(epoch.epoch_seconds for epoch in result.history)
    head = statistics.median(epoch.epoch_seconds for epoch in result.history if epoch.phase == "head")
    tail_seconds = [epoch.epoch_seconds for epoch in result.history if epoch.phase == "tail"]
    tail = statistics.median(tail_seconds[1:]) if has_tail else 0.0
    satx_seconds = fixed + settings.head_epochs * head + settings.finetune_epochs * tail * has_tail
    share = remaining_share(configuration, prepared)
    return {
        "class": f"{backbone} {unfreeze}",
        "plain s": plain_seconds,
        "satx s": satx_seconds,
        "ratio": plain_seconds / satx_seconds,
        "floor s": plain_seconds * share,
        "over floor": satx_seconds / (plain_seconds * share),
        "cache s": source.build_seconds(),
        "plain head epoch s": plain_head,
        "plain tail epoch s": plain_tail,
        "satx tail epoch s": tail,
    }


def remaining_share(configuration: Configuration, prepared: PreparedSession) -> float:
    """Return the share of plain Keras's multiply-adds that is left if the frozen part is not computed in each trial.

    The backward pass costs twice the forward pass of the trained part. A head counts as one hidden layer of 256 units
    on pooled features.
    """
    backbone, unfreeze = configuration.model.backbone, configuration.model.unfreeze
    settings, store = configuration.train, prepared.store
    network = build_backbone(backbone, configuration.image_size_px, None)
    _, tail = split_backbone(network, backbone, unfreeze)
    whole, trained = multiply_adds(network), multiply_adds(tail) if tail is not None else 0
    head_only = 3 * BACKBONES[backbone].num_features * 256 * len(store.rows("train"))
    num_train, num_valid = len(store.rows("train")), len(store.rows("valid"))
    plain_head = settings.head_epochs * whole * (num_train + num_valid)
    has_tail = unfreeze != NONE
    plain_tail = settings.finetune_epochs * ((whole + 2 * trained) * num_train + whole * num_valid) * has_tail
    left = settings.finetune_epochs * (3 * trained * num_train + trained * num_valid) * has_tail
    return (left + settings.head_epochs * head_only) / (plain_head + plain_tail)


def multiply_adds(network: Any) -> int:
    """Count the multiply-adds of one forward pass through the convolutions: output pixels times kernel size."""
    total = 0
    for layer in network.layers:
        kernels = [weight for weight in layer.weights if len(weight.shape) == 4]
        for kernel in kernels:
            total += math.prod(layer.output.shape[1:3]) * math.prod(kernel.shape)
    return total


def _train_both(
    count: int,
    only: list[str] | None,
    sweep: SweepConfig,
    prepared: PreparedSession,
    plain_data: PlainData,
    folder: Path,
) -> None:
    settings = settings_of(sweep, prepared.defaults)
    classes = [(name, cut) for name in sweep.backbones for cut in unfreeze_choices(sweep, name, settings)]
    classes = sorted(classes, key=lambda pair: (pair[1] == ALL, pair[0] == "xception"))  # cheap ones first
    for number in range(count):
        backbone, unfreeze = classes[number % len(classes)]
        path = folder / f"pair-{number:03d}.json"
        if path.exists() or (only and f"{backbone}-{unfreeze}" not in only):
            continue
        configuration = drawn(sweep, prepared, backbone, unfreeze, seed=number)
        weights = prepared.weights[backbone]
        _, score = fit_plainly(configuration, plain_data, Path(weights.file))
        positive = prepared.store.classes.index(prepared.session.positive_class)
        data = TrainingData(prepared.store, weights, positive, satx_home() / "cache")
        with tempfile.TemporaryDirectory() as name:
            result = train(configuration, data, checkpoint_dir=Path(name) / "trial")
        write_json(path, {"class": f"{backbone} {unfreeze}", "plain": max(score.aucs), "satx": result.best.val_auc})


def _difference(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    if len(pairs) < 2:
        return {"num_pairs": len(pairs)}
    differences = np.array([pair["satx"] - pair["plain"] for pair in pairs])
    interval = stats.t.interval(0.95, len(pairs) - 1, differences.mean(), stats.sem(differences))
    return {
        "num_pairs": len(pairs),
        "mean difference in best validation AUC": float(differences.mean()),
        "its 95% interval": f"{interval[0]:.4f} to {interval[1]:.4f}",
    }


def _read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


if __name__ == "__main__":
    main()
