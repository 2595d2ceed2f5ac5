"""The best run of each backbone."""

from __future__ import annotations

import numpy as np
import pandas as pd


def best_run_of_each_backbone(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished run that a sweep chooses for each backbone, best backbone first.

    Runs confirmed with more seeds come first, ranked by their mean; the others are ranked by validation AUC, ties by
    validation loss.

    Args:
        runs: One row per run, as for `compare_figure`; with `confirmed_val_auc` if any run was confirmed.

    Returns:
        Rows of `runs`, with `confirmed_val_auc`, `num_finished` and `num_pruned` (of the backbone). Backbones without a finished
        run are left out.
    """
    finished = runs[(runs["status"] == "FINISHED") & runs["val_auc"].notna()]
    finished = finished.assign(confirmed_val_auc=finished.get("confirmed_val_auc", np.nan))
    order = ["confirmed_val_auc", "val_auc", "val_loss"]
    ranked = finished.sort_values(order, ascending=[False, False, True], kind="stable")
    best = ranked.drop_duplicates("backbone", ignore_index=True)
    count = runs.groupby(["backbone", "status"]).size().unstack(fill_value=0)
    count = count.reindex(index=best["backbone"], columns=["FINISHED", "KILLED"], fill_value=0)
    return best.assign(num_finished=count["FINISHED"].to_numpy(), num_pruned=count["KILLED"].to_numpy())
