"""Tests that nothing is unpickled: files from disk, MLflow or S3 are read as data and run no code."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from satx.storage import write_json
from satx.training.checkpoint import TrainingProgress, load_checkpoint, save_checkpoint

PACKAGE = Path(__file__).resolve().parents[1] / "satx"
UNPICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
# Functions that unpickle, or build code from files; matched by the end of their dotted names.
LOADERS = ("read_pickle", "to_pickle", "load_model", "pyfunc.load_model", "model_from_json", "unsafe_load", "yaml.load")


def dotted(node: ast.expr) -> str:
    """Return the dotted name of an expression such as `np.load`."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults(path: Path) -> Iterator[str]:
    """Yield the places in a module's source that unpickle or may unpickle."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            allowed = [word.value for word in node.keywords if word.arg == "allow_pickle"]
            is_refused = [isinstance(value, ast.Constant) and value.value is False for value in allowed]
            if name.endswith(LOADERS) or not all(is_refused) or (name in ("np.load", "numpy.load") and not allowed):
                yield f"{name} in line {node.lineno}"


def test_no_module_unpickles() -> None:
    paths = sorted(PACKAGE.rglob("*.py"))
    assert len(paths) > 100
    assert {str(path.relative_to(PACKAGE)): found for path in paths if (found := list(faults(path)))} == {}


class Bomb:
    """Object that creates a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.folder,)


def test_a_checkpoint_with_a_pickle_in_it_is_not_read(tmp_path: Path) -> None:
    """`state.json` names the file and the archive is valid; only its content is a pickle."""
    folder, made = tmp_path / "trial", tmp_path / "made"
    arrays = {kind: [np.zeros(2, np.float32)] for kind in ("current", "optimizer", "best")}
    save_checkpoint(folder, TrainingProgress(best_step=1), arrays)
    evil = np.empty(1, dtype=object)
    evil[0] = Bomb(made)
    with (folder / "evil.npz").open("wb") as stream:
        np.savez(stream, evil)
    state = {"format": 2, "arrays": dict.fromkeys(arrays, "evil.npz"), "progress": {"history": []}}
    write_json(folder / "state.json", state)
    assert load_checkpoint(folder) is None
    assert not made.exists()
