"""Runs of a sweep as `read_session` returns them: with every parameter of a run, and no MLflow."""

import numpy as np
import pandas as pd

from satx.config import Configuration
from satx.reports.comparison import SCORES, SessionRuns
from satx.training.contract import run_params

CUTS = {"xception": ("none", "block14"), "mobilenetv2": ("none", "block16", "all")}


def session_runs(num_runs: int) -> SessionRuns:
    """Return a sweep of two backbones in which cut, rates, batch, dropout and optimizer vary, and every third run is pruned.

    Tails take about a hundred times as long as heads.
    """
    draw = np.random.default_rng(0)
    rows, histories = [], []
    for number in range(num_runs):
        backbone = ("xception", "mobilenetv2")[number % 2]
        values = {
            "model.backbone": backbone,
            "model.unfreeze": str(draw.choice(CUTS[backbone])),
            "model.dropout": float(draw.choice([0.0, 0.2, 0.4])),
            "train.head_learning_rate": float(10 ** draw.uniform(-4, -2)),
            "train.finetune_learning_rate": float(10 ** draw.uniform(-5, -3)),
            "train.batch_size": int(draw.choice([16, 32])),
            "train.optimizer": str(draw.choice(["adam", "rmsprop"])),
        }
        configuration = Configuration().with_values(values, source="test")
        status = ("FINISHED", "FINISHED", "KILLED")[number % 3]
        num_epochs = int(draw.integers(8, 14)) if status == "FINISHED" else 3
        best, run_id = draw.uniform(0.85, 0.98), f"{number:032x}"
        auc = best - 0.3 * np.exp(-np.arange(num_epochs) / 2) + draw.normal(0, 0.008, num_epochs)
        seconds = (0.2 if values["model.unfreeze"] == "none" else 20.0) * (4 if backbone == "xception" else 1)
        histories.append(
            pd.DataFrame(
                {
                    "run_id": run_id,
                    "step": range(num_epochs),
                    "val_accuracy": auc - 0.06,
                    "val_loss": 1.6 * (1 - auc) + 0.02,
                    "val_auc": auc,
                    "epoch_seconds": seconds,
                }
            )
        )
        scores = {"val_auc": auc.max(), "val_accuracy": auc.max() - 0.06, "val_loss": 1.6 * (1 - auc.max()) + 0.02}
        params = run_params(configuration, 2)
        rows.append(
            {
                "run_id": run_id,
                "run_name": f"{backbone}-{values['model.unfreeze']}-{number:08x}",
                "backbone": backbone,
                "status": status,
                **scores,
                "confirmed_val_auc": np.nan,
                "hours": num_epochs * seconds / 3600,
                **dict.fromkeys(SCORES, np.nan),
                **{name: params[name] for name in sorted(params) if name != "model.backbone"},
            }
        )
    return SessionRuns(
        experiment="session2",
        experiment_id="1",
        study="session2-quick-0123abcd",
        runs=pd.DataFrame(rows),
        histories=pd.concat(histories, ignore_index=True),
        baselines=pd.DataFrame(columns=["run_id", "run_name", "backbone", *scores, *SCORES]),
        shared_seconds={},
        usd={},
    )
