"""What a session's runs cost on hired machines, and what that bought."""

from __future__ import annotations

import numpy as np
import pandas as pd

from satx.reports.comparison import SessionRuns


def worth(session: SessionRuns) -> pd.DataFrame:
    """Dollars a point of validation accuracy, backbone by backbone.

    A point is 0.01 of validation accuracy. Counted is what a backbone's best run has beyond the logistic regression on its
    frozen features, which every sweep fits for next to nothing.

    Returns:
        A row a backbone whose runs cost something: `backbone usd points usd_per_point`; the last is NaN where nothing was
        gained, the last two where there is no such regression or no finished run.
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
