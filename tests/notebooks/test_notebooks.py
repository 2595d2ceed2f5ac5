"""Tests of the notebooks: they run from top to bottom, define nothing and contain no outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from logged_runs import log_session
from PIL.Image import Image
from projects import with_databases

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path: Path) -> list[str]:
    notebook: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_stripped_and_defines_nothing(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names = [cell["id"] for cell in notebook["cells"]]
    assert len(set(names)) == len(names)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    trees = [ast.parse(source) for source in code_cells(path)]
    assert not [node for tree in trees for node in ast.walk(tree) if isinstance(node, defined)]


def test_compare_backbones_draws_what_a_sweep_logged(home: Path) -> None:
    with_databases(home, home.parents[1])
    log_session("session2", built_up=3)
    namespace: dict[str, Any] = {}
    shown = []
    for source in code_cells(FOLDER / "compare_backbones.ipynb"):
        tree = ast.parse(source)
        last = tree.body[-1]
        if isinstance(last, ast.Expr):  # Jupyter shows the value of the last expression
            tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], last.value)
        exec(compile(ast.fix_missing_locations(tree), "cell", "exec"), namespace)
        if isinstance(last, ast.Expr):
            shown.append(namespace["_"])
    assert "session2-quick-1" in shown[0]
    assert isinstance(shown[1], Image) and shown[1].width > 1000
    assert shown[2]["run_name"].tolist() == ["xception-best", "mobilenetv2-best"]
    assert all(len(frame) for frame in shown[3:])
