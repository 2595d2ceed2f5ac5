"""Detection of runs in which an older satx may have trained fewer layers than recorded."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.entities import Run

from satx.catalogue import BACKBONES, NONE

FIRST_SOUND_TRAINER = 7  # first version that trains all of a tail, in whatever order a process uses the cuts
CAUSE = (
    "On TensorFlow, trainers before version 7 left layers frozen that another trial of the same process, with fewer "
    "trained layers, had frozen"
)


def is_in_doubt(run: Run) -> bool:
    """Return whether a run's tail may have been trained only partly.

    The shortest tail of a backbone was always trained completely, since no other cut freezes a part of it, and so were
    trainings that had a process of their own (`satx train`). Runs on JAX were not affected.
    """
    tags, params = run.data.tags, run.data.params
    backbone, unfreeze = BACKBONES.get(tags.get("backbone", "")), params.get("model.unfreeze")
    if backbone is None or unfreeze is None or tags.get("kind") == "train" or tags.get("backend") == "jax":
        return False
    is_old = int(tags.get("trainer", 0)) < FIRST_SOUND_TRAINER
    return is_old and unfreeze not in (NONE, [*backbone.cuts][-1])


def doubts(runs: Sequence[Run]) -> list[str]:
    """Return a note on those of the runs that are in doubt; an empty list if none is."""
    found = [run for run in runs if is_in_doubt(run)]
    if not found:
        return []
    cuts = sorted({f"{run.data.tags['backbone']} from {run.data.params['model.unfreeze']}" for run in found})
    which = f"run {found[0].info.run_id}" if len(runs) == 1 else f"{len(found)} of these {len(runs)} runs"
    return [
        f"Trained by an older satx: {which} ({', '.join(cuts)}) may have trained fewer layers than recorded. {CAUSE}. "
        f"Their scores are those of the saved weights, but say nothing reliable about the cut; a repeated run would score "
        f"differently. Run the sweep again with this satx."
    ]
