"""The GPU benchmark runs on the CPU, from end to end, without TensorFlow; and its tools count correctly."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from projects import ROOT, environment

GPU = ROOT / "experiments" / "benchmarks" / "gpu.py"
# Programs that are not optimized are compiled in half the time.
UNOPTIMIZED = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    surroundings = environment(folder / "home", XLA_FLAGS=UNOPTIMIZED, **more)
    command = [sys.executable, "-P", str(GPU), "--out", str(folder / "gpu.json"), *arguments]
    return subprocess.run(command, env=surroundings, cwd=folder, capture_output=True, text=True, timeout=580)


def test_the_benchmark_runs_and_trusts_its_figures(tmp_path: Path) -> None:
    done = run(tmp_path, "--tiny", "--backbones", "mobilenetv2")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["passed"] and not report["left_out"]
    names = {check["name"] for check in report["checks"]}
    for words in (
        "losses fall",
        "bfloat16 agrees with float32",
        "a row for each file",
        "training is physically possible",
    ):
        assert any(words in name for name in names)
    stages = report["stages"]
    training, bulk = stages["mobilenetv2 training"], stages["mobilenetv2 bulk"]
    assert training["num_steps_done"] == report["sizes"]["num_epochs"] * report["sizes"]["num_steps"]
    assert training["trial_is_extrapolated"] is False and training["trial_seconds"] > training["seconds_until_warm"]
    assert bulk["num_tiles"] == report["sizes"]["num_files"]
    assert all(stage["stage_seconds"] > 0 and "gpu_busy_share" in stage for stage in stages.values())


def test_missing_packages_are_named_before_anything_runs(tmp_path: Path) -> None:
    program = "import sys, runpy; sys.modules['simplejpeg'] = None; sys.argv = ['gpu.py', '--out', 'x.json']; "
    program += f"runpy.run_path({str(GPU)!r}, run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "missing: simplejpeg" in done.stdout
    assert not (tmp_path / "x.json").exists()


def test_a_stage_that_outlasts_the_budget_ends_with_the_figures_so_far(tmp_path: Path) -> None:
    program = f"""
import sys, time
sys.path[:0] = [{str(GPU.parent)!r}, {str(ROOT)!r}]
import gpu
from dataclasses import replace
from pathlib import Path
report = gpu.Report(Path("gpu.json"), replace(gpu.TINY, budget_seconds=gpu.LAST_SECONDS + 3))
report.end_in_time()
report.run("short", lambda: {{"speed": 1.0}}, at_least_seconds=0)
report.run("failing", lambda: 1 / 0, at_least_seconds=0)
report.run("too long", lambda: {{}}, at_least_seconds=60)
report.run("endless", lambda: time.sleep(600), at_least_seconds=0)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 3, done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["stages"]["short"]["speed"] == 1.0 and report["passed"] is False
    reasons = {left["stage"]: left["reason"] for left in report["left_out"]}
    assert reasons.keys() == {"failing", "too long", "endless"}
    assert "ZeroDivisionError" in reasons["failing"] and "60 seconds" in reasons["too long"]


@pytest.mark.parametrize(
    ("name", "size_px", "millions"),
    # Keras's MobileNetV2 has 300 million multiply-adds at 224 px (Sandler et al. 2018, table 4), with 1.3 million of them in
    # its top. timm lists 8.40 thousand million for Xception at 299 px, with 2 million in its top.
    [("mobilenetv2", 224, 299), ("xception", 299, 8400)],
)
def test_multiply_adds_are_the_published_ones(name: str, size_px: int, millions: float) -> None:
    from satx.models.backbones import build_backbone

    sys.path.insert(0, str(GPU.parent))
    try:
        from gpu_tools import multiply_adds
    finally:
        sys.path.remove(str(GPU.parent))
    assert multiply_adds(build_backbone(name, size_px, None)) / 1e6 == pytest.approx(millions, rel=0.01)
