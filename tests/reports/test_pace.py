"""Times of epochs are compared between runs of equal depth only."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest

from satx.catalogue import ALL, BACKBONES, NONE
from satx.reports.best_run import best_run_of_each_backbone
from satx.reports.pace import common_depth, depth_of, pace_notes, paces, with_paces

HEAD, WHOLE = "head only", "whole backbone"


def sweep(*runs: tuple[str, str, float], status: str = "FINISHED") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs (backbone, unfreeze, seconds of an epoch of its depth) and their histories.

    A training of a tail begins with eight epochs of the head, of 0.01 s, and ends with three of the tail.
    """
    rows: list[dict[str, Any]] = []
    histories = []
    for number, (backbone, unfreeze, seconds) in enumerate(runs):
        run_id = f"{number:032x}"
        epochs = [0.01] * 8 + [seconds] * 3 if unfreeze != NONE else [seconds] * 8
        histories.append(pd.DataFrame({"run_id": run_id, "step": range(1, len(epochs) + 1), "epoch_seconds": epochs}))
        rows.append(
            {
                "run_id": run_id,
                "run_name": f"run-{number}",
                "backbone": backbone,
                "status": status,
                "val_auc": 0.9,
                "val_loss": 0.1,
                "model.unfreeze": unfreeze,
                "train.finetune_epochs": 12,
                "train.early_stopping_patience_epochs": 3.0,  # pandas makes floats of integers in a column with gaps
            }
        )
    return pd.DataFrame(rows), pd.concat(histories, ignore_index=True)


def best_of(*runs: tuple[str, str, float]) -> pd.DataFrame:
    frame, histories = sweep(*runs)
    return with_paces(best_run_of_each_backbone(frame), paces(frame, histories)).set_index("backbone")


def test_a_whole_backbone_is_not_compared_with_the_head_of_another() -> None:
    runs = (("mobilenetv2", ALL, 8.0), ("xception", NONE, 2.0))
    best = best_of(*runs)
    assert best["time_ratio"].isna().all() and best["epoch_seconds"].isna().all()
    assert best["depth"].tolist() == ["", ""]
    frame, histories = sweep(*runs)
    (note,) = pace_notes(best.reset_index(), paces(frame, histories))
    assert note == (
        "no time ratio for mobilenetv2 and xception: expected finished runs of equal depth to compare with, got none. Trained "
        "were: mobilenetv2: whole backbone; xception: head only."
    )


def test_the_ratio_is_that_of_the_common_depth_whatever_else_was_trained() -> None:
    """MobileNetV2 mostly trains everything and Xception mostly its head, so medians over all runs turn the ratio around."""
    best = best_of(
        *[("mobilenetv2", ALL, 8.0)] * 5,
        ("mobilenetv2", NONE, 0.5),
        *[("xception", NONE, 2.0)] * 5,
        ("xception", NONE, 2.2),
    )
    assert best["time_ratio"].to_dict() == pytest.approx({"mobilenetv2": 1.0, "xception": 4.0})
    assert best["epoch_seconds"].to_dict() == pytest.approx({"mobilenetv2": 0.5, "xception": 2.0})
    assert set(best["depth"]) == {HEAD}
    frame, histories = sweep(("mobilenetv2", NONE, 0.5), ("xception", NONE, 2.0))
    assert pace_notes(best.reset_index(), paces(frame, histories)) == []


def test_epochs_of_the_head_are_not_counted_as_epochs_of_the_tail() -> None:
    frame, histories = sweep(("mobilenetv2", ALL, 8.0), ("xception", ALL, 32.0))
    assert paces(frame, histories)["epoch_seconds"].tolist() == pytest.approx([32.0, 8.0])


def test_the_whole_backbone_is_preferred_to_the_head_and_both_are_listed() -> None:
    frame, histories = sweep(
        ("mobilenetv2", ALL, 8.0), ("xception", ALL, 30.0), ("mobilenetv2", NONE, 0.5), ("xception", NONE, 0.6)
    )
    found = paces(frame, histories)
    assert common_depth(found) == WHOLE
    assert found[["depth", "backbone"]].to_numpy().tolist() == [
        [WHOLE, "xception"],
        [WHOLE, "mobilenetv2"],
        [HEAD, "xception"],
        [HEAD, "mobilenetv2"],
    ]
    assert found["time_ratio"].tolist() == pytest.approx([3.75, 1.0, 1.2, 1.0])


def test_a_depth_of_three_backbones_is_preferred_to_one_of_two() -> None:
    best = best_of(
        ("mobilenetv2", ALL, 8.0),
        ("xception", ALL, 30.0),
        ("mobilenetv2", NONE, 0.5),
        ("xception", NONE, 0.6),
        ("convnexttiny", NONE, 1.0),
    )
    assert best["time_ratio"].to_dict() == pytest.approx({"mobilenetv2": 1.0, "xception": 1.2, "convnexttiny": 2.0})
    two = best_of(("mobilenetv2", ALL, 8.0), ("xception", ALL, 30.0), ("convnexttiny", NONE, 1.0))
    assert np.isnan(two.loc["convnexttiny", "time_ratio"]) and two.loc["xception", "time_ratio"] == pytest.approx(3.75)


def test_cuts_are_compared_if_their_tails_have_similar_shares_of_the_backbone() -> None:
    best = best_of(("mobilenetv2", "block16", 1.0), ("xception", "block12", 5.0))
    assert best["time_ratio"].to_dict() == pytest.approx({"mobilenetv2": 1.0, "xception": 5.0})
    assert set(best["depth"]) == {"12.5% to 25% of the multiply-adds"}
    apart = best_of(("mobilenetv2", "block14", 1.0), ("xception", "block14", 5.0))
    assert apart["time_ratio"].isna().all(), "they have the same name, but a quarter and a twentieth of the backbone"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_cuts_of_one_depth_differ_by_at_most_a_factor_of_two(backbone: str) -> None:
    depths = [depth_of(backbone, name) for name in BACKBONES[backbone].unfreeze_names]
    assert all(depth is not None for depth in depths)
    for name, cut in BACKBONES[backbone].cuts.items():
        depth = depth_of(backbone, name)
        assert depth is not None and depth.share / 2 < cut.tail_share <= depth.share
    assert all(first.share <= second.share for first, second in pairwise(sorted(filter(None, depths))))


def test_runs_that_tell_no_depth_or_did_not_finish_are_left_out() -> None:
    frame, histories = sweep(("mobilenetv2", NONE, 1.0), ("own", NONE, 1.0), ("xception", "no-cut", 1.0))
    assert paces(frame, histories)["backbone"].tolist() == ["mobilenetv2"]
    assert paces(*sweep(("mobilenetv2", NONE, 1.0), status="KILLED")).empty
    assert paces(frame.drop(columns="model.unfreeze"), histories).empty
    assert paces(frame, histories.iloc[:0]).empty
    tails, curves = sweep(("mobilenetv2", ALL, 1.0), ("xception", ALL, 2.0))
    assert paces(tails.drop(columns="train.finetune_epochs"), curves).empty
    assert paces(tails.assign(**{"train.finetune_epochs": 0}), curves).empty


def test_one_backbone_alone_has_seconds_and_no_ratio() -> None:
    frame, histories = sweep(("mobilenetv2", NONE, 1.5), ("mobilenetv2", NONE, 2.5))
    found = paces(frame, histories)
    assert found["epoch_seconds"].tolist() == [2.0] and found["num_runs"].tolist() == [2]
    best = with_paces(best_run_of_each_backbone(frame), found)
    assert best["time_ratio"].isna().all() and pace_notes(best, found) == []
