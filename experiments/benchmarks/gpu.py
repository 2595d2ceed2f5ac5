"""Speed of a GPU with Keras on JAX, in at most six minutes: training, prediction, one trial, and files to Parquet.

    python experiments/benchmarks/gpu.py --out gpu.json
    python experiments/benchmarks/gpu.py --out gpu.json --tiny --backbones mobilenetv2

For a machine that has JAX for its GPU and no TensorFlow, from a checkout of satx that need not be installed. Packages beyond
those of JAX: keras, namex, optree, h5py, pydantic, pydantic-settings, pyyaml, rich, platformdirs, psutil, pandas, pyarrow,
pillow, simplejpeg, tifffile, blake3, scikit-learn, scipy, matplotlib. What is missing is named at the start.

For each backbone, at 256 px and in bfloat16:

- `training`: one trial of the published original's recipe, 15 epochs of 256 steps of 32 tiles, with the whole network trained
  from random weights, or from those of `--weights`, and 1,024 validation tiles after each epoch. It has no head epoch and
  writes no checkpoints. If its time runs out, the seconds of the trial are extrapolated, and marked so.
- `inference`: tiles a second of the trained network, for tiles that are on the device already and for arrays in memory.
- `bulk`: JPEG files to Parquet with the engine of `satx predict`. Several names link to one file, and all files were read
  before, so that the disk is not measured.

`cores_used` is processor time of this process by wall time. `gpu_busy_share` is the mean of what nvidia-smi samples: the share
of time in which any kernel runs. `checks` tell whether the figures can be trusted: losses fall, bfloat16 agrees with float32,
every tile has a row, and no throughput is beyond what the device computes of a large matrix product. The report is written
after every stage. The exit code is 0; 1 if a check fails; 2 if packages are missing; 3 if the time ran out within a stage.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"
sys.modules["tensorflow"] = None  # an import fails, as on a machine that does not have it
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

PACKAGES = (
    *(
        "jax",
        "keras",
        "namex",
        "optree",
        "h5py",
        "pydantic",
        "pydantic_settings",
        "yaml",
        "rich",
        "platformdirs",
        "psutil",
    ),
    *("pandas", "pyarrow", "PIL", "simplejpeg", "tifffile", "blake3", "sklearn", "scipy", "matplotlib"),
)
LAST_SECONDS = 5.0  # kept for writing the report


@dataclass(frozen=True)
class Sizes:
    """How much to compute, and for how long.

    Attributes:
        image_size_px: Edge of the tiles, by backbone.
        num_warm_steps: First steps of a training, which compile and are not timed.
        num_epochs: Epochs of a trial.
        num_steps: Steps of an epoch.
        batch_size: Tiles of a step.
        num_valid: Validation tiles.
        matrix_size: Edge of the matrices whose product is timed.
        inference_batch: Tiles of one prediction.
        num_repeats: Number of timed predictions.
        num_files: Files of the bulk stage; a multiple of the tiles.
        budget_seconds: Time of everything.
        training_seconds: Time after which a training is not continued, by backbone.
    """

    image_size_px: dict[str, int]
    num_warm_steps: int = 8
    num_epochs: int = 15
    num_steps: int = 256
    batch_size: int = 32
    num_valid: int = 1024
    matrix_size: int = 8192
    inference_batch: int = 256
    num_repeats: int = 20
    num_files: int = 27648
    budget_seconds: float = 360.0
    training_seconds: dict[str, float] = field(default_factory=lambda: {"xception": 105.0, "mobilenetv2": 65.0})


FULL = Sizes({"xception": 256, "mobilenetv2": 256})
TINY = Sizes(
    {"xception": 71, "mobilenetv2": 32},
    num_warm_steps=2,
    num_epochs=2,
    num_steps=16,
    batch_size=8,
    num_valid=32,
    matrix_size=512,
    inference_batch=32,
    num_repeats=2,
    num_files=96,
    budget_seconds=540.0,
    training_seconds={"xception": 240.0, "mobilenetv2": 240.0},
)


class Report:
    """What was measured so far, in a file that is always complete JSON."""

    def __init__(self, path: Path, sizes: Sizes) -> None:
        """Begin a report; the time of the benchmark runs from now."""
        self.path, self.sizes, self.began = path, sizes, time.monotonic()
        self.content: dict[str, Any] = {"sizes": asdict(sizes), "stages": {}, "checks": [], "left_out": []}
        self.stage = "start"
        self._writing = threading.Lock()

    @property
    def seconds_left(self) -> float:
        """Time until the report must be written."""
        return self.sizes.budget_seconds - LAST_SECONDS - (time.monotonic() - self.began)

    def run(self, name: str, work: Callable[[], dict[str, Any]], *, at_least_seconds: float) -> dict[str, Any] | None:
        """Run a stage, and record what it returns, with its cost; leave it out if too little time is left."""
        from gpu_tools import busy_share

        if self.seconds_left < at_least_seconds:
            self.leave_out(name, f"it needs {at_least_seconds:.0f} seconds, and {self.seconds_left:.0f} were left")
            return None
        self.stage = name
        began, processor = time.perf_counter(), time.process_time()
        try:
            with busy_share() as share:
                found = work()
        except Exception as error:  # whatever a stage raises, the figures of the others are kept
            self.leave_out(name, f"{type(error).__name__}: {str(error)[:300]}")
            self.check(f"{name} ends", passed=False, found=type(error).__name__, expected="no error")
            return None
        seconds = time.perf_counter() - began
        found |= {"stage_seconds": seconds, "cores_used": (time.process_time() - processor) / seconds}
        self.content["stages"][name] = found | {"gpu_busy_share": share()}
        self.write()
        return found

    def check(self, name: str, *, passed: bool, found: Any, expected: Any) -> None:
        """Record whether a figure can be trusted."""
        self.content["checks"].append({"name": name, "passed": bool(passed), "found": found, "expected": expected})

    def leave_out(self, name: str, reason: str) -> None:
        """Record a stage without figures."""
        self.content["left_out"].append({"stage": name, "reason": reason})
        self.write()

    def write(self) -> None:
        """Write the report."""
        from satx.storage import write_json

        with self._writing:
            self.content["seconds"] = time.monotonic() - self.began
            self.content["passed"] = all(check["passed"] for check in self.content["checks"])
            write_json(self.path, self.content)

    def end_in_time(self) -> None:
        """End the process when the time is over, whatever it does: a compilation cannot be interrupted otherwise."""

        def end() -> None:
            self.leave_out(self.stage, "the time ran out within it")
            print(f"The time ran out in {self.stage}. The stages before it are in {self.path}.", flush=True)
            os._exit(3)

        timer = threading.Timer(self.seconds_left, end)
        timer.daemon = True
        timer.start()


def main() -> int:
    """Run all stages, and print the report."""
    options = _options()
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        print(f"Expected the packages {', '.join(PACKAGES)}; missing: {', '.join(missing)}. Nothing was measured.")
        return 2
    from gpu_stages import Benchmark, describe

    report = Report(options.out, TINY if options.tiny else FULL)
    report.end_in_time()
    report.content |= describe()
    with tempfile.TemporaryDirectory(prefix="satx-gpu-") as folder:
        Benchmark(report, Path(folder), options.weights).measure(options.backbones)
    report.write()
    _print(report)
    return 0 if report.content["passed"] else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file of the report, JSON")
    parser.add_argument(
        "--tiny", action="store_true", help="a minute on a CPU: shows that the script runs, measures nothing"
    )
    parser.add_argument("--backbones", nargs="+", choices=[*FULL.image_size_px], default=[*FULL.image_size_px])
    parser.add_argument("--weights", type=Path, help="folder of <backbone>_notop.weights.h5; random weights without it")
    return parser.parse_args()


def _print(report: Report) -> None:
    for name, found in report.content["stages"].items():
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found.items() if isinstance(value, float)))
    for check in report.content["checks"]:
        if not check["passed"]:
            print(f"DO NOT TRUST THESE FIGURES. {check['name']}: found {check['found']}, expected {check['expected']}")
    for left in report.content["left_out"]:
        print(f"left out: {left['stage']}: {left['reason']}")
    print(f"{report.content['seconds']:.0f} seconds in all. Written to {report.path}")


if __name__ == "__main__":
    sys.exit(main())
