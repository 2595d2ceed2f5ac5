"""What MLflow's pages show of a run beside its numbers: its name, its color and its description."""

from __future__ import annotations

from matplotlib.colors import to_hex
from mlflow.entities import Run

from satx.catalogue import cut_label
from satx.evaluation.style import backbone_color, tint

NOTE = "mlflow.note.content"  # tag of a run that MLflow shows as its description, in Markdown
COLOR = "mlflow.runColor"  # tag of a run with the color of its curves in the charts of an experiment
STRENGTHS = (1.0, 0.87, 0.74, 0.61)  # shades of a backbone's color, which neighboring runs take in turn


def run_name(backbone: str, unfreeze: str, which: str) -> str:
    """Return a run's name, with what tells runs apart first, because MLflow's pages cut long names.

    Args:
        backbone: Backbone of the configuration.
        unfreeze: Its cut.
        which: What distinguishes it from other runs of the same backbone and cut, such as `#12`.
    """
    return f"{backbone} {cut_label(unfreeze)} {which}"


def run_link(run: Run) -> str:
    """Return a link to a run, in Markdown, for texts that MLflow shows."""
    return f"[{run.info.run_name}]({run_page(run)})"


def run_page(run: Run) -> str:
    """Return the address of a run within MLflow's pages, in its views for trained models."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?workflowType=machine_learning"


def run_color(backbone: str, number: int = 0) -> str:
    """Return the color of a run, a shade of its backbone's color, as `#rrggbb`.

    Args:
        backbone: Backbone of the run.
        number: Number of the run; runs with neighboring numbers have different shades.
    """
    return to_hex(tint(backbone_color(backbone), STRENGTHS[number % len(STRENGTHS)]))
