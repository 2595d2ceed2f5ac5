"""Which runs of an older satx may have trained fewer layers than they say."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.entities import Run

from satx.catalogue import BACKBONES, NONE

FIRST_SOUND_TRAINER = 7  # the first to train every variable of a tail in whatever order a process meets the cuts
CAUSE = (
    "On TensorFlow, trainers before version 7 left layers frozen that another trial of the same process had frozen at a "
    "shallower cut"
)


def is_in_doubt(run: Run) -> bool:
    """Whether a run's tail may have been trained in part only.

    The shallowest cut of a backbone was always trained whole, since no other cut freezes a part of it, and so was whatever
    had a process of its own (`satx train`). Runs on JAX were not affected.
    """
    tags, params = run.data.tags, run.data.params
    backbone, unfreeze = BACKBONES.get(tags.get("backbone", "")), params.get("model.unfreeze")
    if backbone is None or unfreeze is None or tags.get("kind") == "train" or tags.get("backend") == "jax":
        return False
    is_old = int(tags.get("trainer", 0)) < FIRST_SOUND_TRAINER
    return is_old and unfreeze not in (NONE, [*backbone.cuts][-1])


def doubts(runs: Sequence[Run]) -> list[str]:
    """What to tell of the runs among these that are in doubt; nothing if none is."""
    found = [run for run in runs if is_in_doubt(run)]
    if not found:
        return []
    cuts = sorted({f"{run.data.tags['backbone']} from {run.data.params['model.unfreeze']}" for run in found})
    which = f"run {found[0].info.run_id}" if len(runs) == 1 else f"{len(found)} of these {len(runs)} runs"
    return [
        f"Trained by an older satx: {which} ({', '.join(cuts)}) may have trained fewer layers than the cut says. {CAUSE}. "
        f"Scores are those of the values that were saved; they say nothing reliable about that cut, and repeating such a "
        f"run gives others. Sweep again with this satx."
    ]
