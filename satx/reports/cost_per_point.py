"""Cost of a session's runs on rented machines, per point of validation accuracy gained."""

from __future__ import annotations

import numpy as np
import pandas as pd

from satx.reports.comparison import SessionRuns


def worth(session: SessionRuns) -> pd.DataFrame:
    """Return the cost per point of validation accuracy of each backbone, in US dollars.

    A point is 0.01 of validation accuracy. Points are what a backbone's best run gains over the logistic regression on
    the backbone's frozen features, which every sweep fits at almost no cost.

    Returns:
        One row per backbone whose runs cost something: `backbone usd points usd_per_point`. `usd_per_point` is NaN if
        nothing was gained; `points` and `usd_per_point` are NaN without such a regression or without a finished run.
    """
    best = session.best.set_index("backbone")["val_accuracy"]
    baseline = session.baselines.set_index("backbone")["val_accuracy"]
    rows = []
    for backbone, usd in session.usd.items():
        points = 100 * (best.get(backbone, np.nan) - baseline.get(backbone, np.nan))
        rows.append(
            {
                "backbone": backbone,
                "usd": usd,
                "points": points,
                "usd_per_point": usd / points if points > 0 else np.nan,
            }
        )
    return pd.DataFrame(rows, columns=["backbone", "usd", "points", "usd_per_point"])
