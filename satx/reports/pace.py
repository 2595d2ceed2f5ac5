"""Seconds of an epoch by backbone and depth, and their ratio between backbones that train equally much.

The time of an epoch depends more on how much of a backbone is trained than on the backbone: an epoch of a head on cached features
takes a fraction of a second. So only runs of equal depth are compared.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from satx.catalogue import ALL, BACKBONES, NONE, part_label
from satx.evaluation.style import backbone_order
from satx.reports.parameters import is_missing

NO_DEPTH = ""


class Depth(NamedTuple):
    """How much of a backbone is trained.

    Attributes:
        share: Share of its multiply-adds in the trained part, 0 to 1; for cuts, the upper end of the range.
        label: What people read.
    """

    share: float
    label: str


def depth_of(backbone: str, unfreeze: str) -> Depth | None:
    """Return the depth of a run: head only, whole backbone, or for a cut a range of the share of multiply-adds that are trained.

    A cut of one backbone corresponds to no cut of another exactly. Those in the same range (a half to all, a quarter to a half,
    and so on) differ by at most a factor of two. None for networks that the catalogue does not know.
    """
    if backbone not in BACKBONES or unfreeze not in BACKBONES[backbone].unfreeze_names:
        return None
    share = BACKBONES[backbone].tail_share(unfreeze)
    if unfreeze in (NONE, ALL):
        return Depth(share, part_label(unfreeze))
    high = 2.0 ** math.ceil(math.log2(share))
    return Depth(high, f"{50 * high:.3g}% to {100 * high:.3g}% of the multiply-adds")


def paces(runs: pd.DataFrame, histories: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of an epoch for each depth and backbone, from finished runs.

    Args:
        runs: One row per run: `run_id backbone status model.unfreeze train.finetune_epochs train.early_stopping_patience_epochs`;
            runs without these are left out.
        histories: One row per epoch: `run_id step epoch_seconds`.

    Returns:
        `depth share backbone num_runs epoch_seconds time_ratio`, deepest first: medians over the runs of the median epoch of each
        run, and that median divided by the fastest backbone's of the same depth (NaN if it is the only one).
    """
    curves = {run_id: curve.sort_values("step") for run_id, curve in histories.groupby("run_id")}
    rows = []
    for run in runs[runs["status"] == "FINISHED"].to_dict("records"):
        depth = depth_of(run["backbone"], str(run.get("model.unfreeze")))
        seconds = _epoch_seconds(run, curves.get(run["run_id"]))
        if depth is not None and seconds is not None:
            rows.append({"depth": depth.label, "share": depth.share, "backbone": run["backbone"], "seconds": seconds})
    columns = ["depth", "share", "backbone", "seconds"]
    groups = pd.DataFrame(rows, columns=columns).groupby(["depth", "share", "backbone"])["seconds"]
    found = groups.agg(num_runs="size", epoch_seconds="median").reset_index()
    of_depth = found.groupby("depth")["epoch_seconds"]
    has_several = of_depth.transform("size") > 1
    ratio = (found["epoch_seconds"] / of_depth.transform("min")).where(has_several)
    found = found.assign(time_ratio=ratio.astype(np.float64), order=found["backbone"].map(backbone_order))
    return found.sort_values(["share", "order"], ascending=[False, True], ignore_index=True).drop(columns="order")


def _epoch_seconds(run: Mapping[Hashable, Any], curve: pd.DataFrame | None) -> float | None:
    """Return the seconds of a run's median epoch of the phase that trains its depth; None if it has no such epoch.

    A training of a cut begins with epochs of the head. Its last ones, as many as early stopping waits for, belong to the tail.
    """
    if curve is None:
        return None
    seconds = curve["epoch_seconds"].dropna()
    if run.get("model.unfreeze") != NONE:
        limits = [run.get(f"train.{name}") for name in ("finetune_epochs", "early_stopping_patience_epochs")]
        if any(is_missing(limit) for limit in limits):
            return None
        num_sure = min(int(float(str(limit))) for limit in limits)
        seconds = seconds.tail(num_sure) if num_sure else seconds.head(0)
    return float(seconds.median()) if len(seconds) else None


def common_depth(found: pd.DataFrame) -> str:
    """Return the depth at which backbones are compared, of those in a table from `paces`; `NO_DEPTH` if none has two backbones.

    That is the depth of the most backbones. Of several, one that is equal exactly (head only, whole backbone) is preferred to a
    range, then the deepest.
    """
    shared = found[found["time_ratio"].notna()]
    if shared.empty:
        return NO_DEPTH
    exact = {part_label(NONE), part_label(ALL)}
    candidates = [
        (len(rows), str(depth) in exact, float(rows["share"].iloc[0]), str(depth))
        for depth, rows in shared.groupby("depth")
    ]
    return max(candidates)[-1]


def with_paces(best: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the best run of each backbone with `depth`, `epoch_seconds` and `time_ratio` of the backbone.

    Args:
        best: From `best_run_of_each_backbone`.
        found: From `paces`, for the same runs.
    """
    depth = common_depth(found)
    at_depth = found[found["depth"] == depth].set_index("backbone")
    seconds, ratio = (at_depth[name].reindex(best["backbone"]).to_numpy() for name in ("epoch_seconds", "time_ratio"))
    depths = [NO_DEPTH if math.isnan(one) else depth for one in ratio]
    return best.assign(depth=depths, epoch_seconds=seconds, time_ratio=ratio)


def pace_notes(best: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Return a note on backbones whose time is not compared with that of others; an empty list if there are none.

    Args:
        best: From `with_paces`.
        found: From `paces`, for the same runs.
    """
    left_out = best.loc[best["time_ratio"].isna(), "backbone"]
    if len(best) < 2 or left_out.empty:
        return []
    trained = {name: ", ".join(rows["depth"]) for name, rows in found.groupby("backbone")}
    listed = "; ".join(f"{name}: {trained.get(name, 'none')}" for name in best["backbone"])
    return [
        f"no time ratio for {' and '.join(left_out)}: expected finished runs of equal depth to compare with, got none. Trained "
        f"were: {listed}."
    ]
