"""Report of `peers`: time to reach the best peer's final score, and paired difference in test AUC on the same tiles."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from report import publish
from sklearn.metrics import roc_auc_score

from satx.storage import satx_home

METHODS = ("satx", "optuna", "random", "hyperband", "bayesian")
LOWEST_AUC_DRAWN = 0.8  # the relevant scores are above this


def report_peers(runs: dict[tuple[str, int], dict[str, Any]], *, budget_seconds: float) -> None:
    """Print tables of the runs, given by method and seed, and plot best validation AUC against time."""
    seeds = sorted({seed for _, seed in runs})
    ends = {key: run["events"][-1][1] if run["events"] else 0.0 for key, run in runs.items()}
    rows = []
    for method in METHODS:
        tests = [roc_auc_score(runs[method, seed]["truth"], runs[method, seed]["test"]) for seed in seeds]
        rows.append(
            {
                "method": method,
                "validation AUC at the end": statistics.median(ends[method, seed] for seed in seeds),
                "test AUC of its winner": statistics.median(tests),
                "satx's minus its test AUC": _paired([(runs["satx", s], runs[method, s]) for s in seeds])
                if method != "satx"
                else "",
            }
        )
    races = [_race({m: runs[m, seed]["events"] for m in METHODS}, seed, budget_seconds) for seed in seeds]
    publish("peers_time", races)
    path = satx_home() / "benchmarks" / "peers.png"
    _draw(runs, path, budget_seconds)
    publish("peers", rows, picture=str(path))


def _race(events: dict[str, list[tuple[float, float]]], seed: int, budget_seconds: float) -> dict[str, Any]:
    """Return when the best peer and satx reached the best peer's final score; infinity for satx if it never did."""
    ends = {method: found[-1][1] if found else 0.0 for method, found in events.items() if method != "satx"}
    best = max(ends, key=lambda method: ends[method])
    own = next((seconds for seconds, value in events["satx"] if value >= ends[best]), float("inf"))
    peers = events[best][-1][0] if events[best] else budget_seconds
    return {
        "seed": seed,
        "best peer": best,
        "its validation AUC": ends[best],
        "reached by it after s": peers,
        "by satx after s": own,
        "satx's share of the peer's time": own / peers,
        "satx's share of the budget": own / budget_seconds,
    }


def _paired(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Return the difference in test AUC on the same tiles, averaged over seeds, with a 95% bootstrap interval."""
    draw, truth = np.random.default_rng(0), np.array(pairs[0][0]["truth"])
    own, other = (np.array([pair[side]["test"] for pair in pairs]) for side in (0, 1))

    def difference(rows: np.ndarray) -> float:
        scores = [[roc_auc_score(truth[rows], one[rows]) for one in side] for side in (own, other)]
        return float(np.mean(scores[0]) - np.mean(scores[1]))

    samples = [draw.integers(len(truth), size=len(truth)) for _ in range(1000)]
    values = [difference(rows) for rows in samples if 0 < truth[rows].mean() < 1]
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{difference(np.arange(len(truth))):+.3f} ({low:+.3f} to {high:+.3f})"


def _draw(runs: dict[tuple[str, int], dict[str, Any]], path: Path, budget_seconds: float) -> None:
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="compressed")
    for number, method in enumerate(METHODS):
        axes.plot([], [], color=f"C{number}", label=method)
        for events in (run["events"] for (name, _), run in runs.items() if name == method and run["events"]):
            seconds, aucs = zip(*events, (budget_seconds, events[-1][1]), strict=True)
            axes.step(np.array(seconds) / 60, aucs, where="post", color=f"C{number}", alpha=0.8)
    axes.set_ylim(LOWEST_AUC_DRAWN, 1.0)
    axes.set_xlabel("minutes")
    axes.set_ylabel("best validation AUC so far")
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
