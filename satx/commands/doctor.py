"""`satx doctor`: check what a sweep, or a fleet, needs on this machine, and give a remedy for each problem.

Each check is printed when it ends. Servers have a few seconds to answer. The backend of Keras takes longest to import: a
process of its own does that while the other checks run, and is asked last.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from satx.catalogue import BACKBONES
from satx.commands.console import out, print_json, talk_on_stderr
from satx.commands.doctor_fleet import FLEET, FLEET_FIRST
from satx.commands.finding import Finding, answer_of, checked
from satx.environment import environment, num_processors
from satx.errors import ConfigError, SatxError
from satx.session_config import load_session
from satx.storage import project_root, satx_home, shipped_file, sqlite_path, sqlite_uri

if TYPE_CHECKING:
    from satx.tracking.client import MlflowClient

LEAST_FREE_GB = 5.0
LOCAL_SECONDS = 30.0  # for SQLite's answer, on a machine with much else to do
IMPORT_SECONDS = 120.0  # for the backend's import, likewise
KERAS_WEIGHTS = "https://storage.googleapis.com/tensorflow/keras-applications/xception/"
SHIPPED = ("xception", "mobilenetv2")  # the backbones of the shipped sweeps
ASK_DEVICE = (
    "from satx.cli_process import load_keras_quietly; load_keras_quietly(); "
    "from satx.training.devices import device_name; print(device_name())"
)
REFUSED = "satx.errors.ConfigError: "  # begins the last line of a traceback that `ASK_DEVICE` ends with
STYLES = {"ok": "green", "note": "yellow", "broken": "bold red"}


def doctor_command(*, fleet: bool, as_json: bool) -> None:
    """Run the checks and print their findings.

    Raises:
        ConfigError: Something is broken.
    """
    if as_json:
        talk_on_stderr()
    out.print("Checking what a sweep needs here …")
    findings = []
    with _backend_process() as backend:
        for finding in _findings(backend, fleet=fleet):
            _print(finding)
            findings.append(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    broken = [finding.what for finding in findings if finding.state == "broken"]
    if broken:
        raise ConfigError(f"Expected all checks to pass, found broken: {', '.join(broken)}. See the remedies above.")
    out.print("Nothing is broken.", highlight=False)


def _findings(backend: subprocess.Popen[str], *, fleet: bool) -> Iterator[Finding]:
    """Yield the findings, each as soon as it is known."""
    said: set[str] = set()
    for check in (_python, _home, _data, _weights, _study_database, _mlflow):
        finding = checked(check)
        if finding.state != "broken" or finding.remedy not in said:  # a home that cannot be written is told once
            yield finding
        said.add(finding.remedy)
    if fleet:
        first = []
        for check in FLEET_FIRST:
            first.append(checked(check))
            yield first[-1]
        if all(finding.state != "broken" for finding in first):  # else each of the others would say the same
            yield from map(checked, FLEET)
    yield _device(backend)


def _print(finding: Finding) -> None:
    """Print a finding and its remedy, which is one line, so that its commands can be copied."""
    out.print(f"{finding.state:<7}", style=STYLES[finding.state], end="")
    out.print(f"{finding.what:<16}{finding.found}", highlight=False, soft_wrap=True)
    if finding.remedy:
        out.print(f"       -> {finding.remedy}", highlight=False, soft_wrap=True)


def _python() -> Finding:
    version = platform.python_version()
    if (3, 11) <= sys.version_info < (3, 13):
        return Finding("Python", "ok", version)
    return Finding("Python", "broken", version, "Use Python 3.11 or 3.12: make setup PYTHON=python3.11")


def _home() -> Finding:
    home = satx_home()
    try:
        with tempfile.TemporaryFile(dir=home):
            pass
    except OSError as error:
        found = f"{home} cannot be written ({error.strerror})"
        return Finding("home", "broken", found, "Choose a folder that you can write: export SATX_HOME=DIR")
    free_gb = shutil.disk_usage(home).free / 1e9
    found = f"{home}, {free_gb:.0f} GB free"
    if free_gb >= LEAST_FREE_GB:
        return Finding("home", "ok", found)
    return Finding("home", "note", found, "Free some with `satx gc`, or use another disk: export SATX_HOME=DIR")


def _data() -> Finding:
    """Look for the folders of the shipped sessions; their tiles are checked by `satx data check`."""
    folder = shipped_file("experiments/session2.yaml").parent
    names = sorted(path.stem.removeprefix("session") for path in folder.glob("session*.yaml"))
    places = {name: (project_root() or Path.cwd()) / load_session(name).data_dir for name in names}
    missing = [name for name, place in places.items() if not place.is_dir() or not any(place.iterdir())]
    found = ", ".join(f"session {name}: {'no tiles' if name in missing else places[name]}" for name in names)
    if not missing:
        return Finding("tiles", "ok", found)
    remedy = (
        f"Without tiles, a sample is rendered. Put them in {places[missing[-1]]}, or: "
        f"make sweep SESSION={missing[-1]} DATA=DIR"
    )
    return Finding("tiles", "note", found, remedy)


def _weights() -> Finding:
    folder = environment().weights_dir
    if folder:
        names = [name for name in BACKBONES if (folder / f"{name}_notop.weights.h5").is_file()]
        missing = [f"{name}_notop.weights.h5" for name in SHIPPED if name not in names]
        remedy = f"Put {' and '.join(missing)} there, or let Keras download them: unset SATX_WEIGHTS_DIR"
        state = "broken" if not names else "note" if missing else "ok"
        return Finding("weights", state, f"{', '.join(names) or 'none'} in {folder}", remedy if missing else "")
    import httpx

    try:
        answer_of(lambda: httpx.head(KERAS_WEIGHTS), KERAS_WEIGHTS, "")
    except (httpx.HTTPError, SatxError) as error:  # the host is not found, or silent
        there = sorted({path.name.split("_imagenet_")[0] for path in _downloaded()})
        found = f"Keras's downloads cannot be reached ({type(error).__name__}); downloaded before: {', '.join(there) or 'none'}"
        remedy = (
            "Download <backbone>_notop.weights.h5 on another machine, then: make sweep WEIGHTS=DIR. "
            "A sweep of sample tiles goes on with random weights."
        )
        return Finding("weights", "note", found, remedy)
    return Finding("weights", "ok", "Keras's downloads can be reached")


def _downloaded() -> list[Path]:
    try:
        return list((satx_home() / "cache" / "weights").glob("*_imagenet_*_notop.weights.h5"))
    except ConfigError:  # `_home` says why
        return []


def _missing_driver(url: str) -> str | None:
    """Return the name of the Python package that a database's URL needs and that is not installed."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        driver = make_url(url).get_driver_name()
    except (ArgumentError, ValueError, ImportError):  # opening the database says what is wrong
        return None
    return driver if url.startswith("postgresql") and importlib.util.find_spec(driver) is None else None


def _study_database() -> Finding:
    url = environment().study_url or sqlite_uri(satx_home() / "studies.db")
    if driver := _missing_driver(url):
        return Finding("study database", "broken", f"{driver} is not installed", "pip install '.[fleet]'")
    file = sqlite_path(url)
    if not environment().study_url and file is not None and not file.exists():
        return Finding("study database", "ok", f"SQLite in {file.parent}, which the first sweep creates")
    from satx.study.database import open_storage

    remedy = "Start it, or use SQLite: unset SATX_STUDY_URL" if environment().study_url else "Stop what holds it."
    seconds = LOCAL_SECONDS if file is not None else None
    answer_of(lambda: open_storage().engine.dispose(), "The study database", remedy, seconds=seconds)
    if environment().study_url:
        return Finding("study database", "ok", "the database at SATX_STUDY_URL answers")
    return Finding("study database", "ok", f"SQLite in {satx_home()}, for this machine only")


def _mlflow() -> Finding:
    uri = environment().tracking_uri or sqlite_uri(satx_home() / "mlflow.db")
    if driver := _missing_driver(uri):
        return Finding("MLflow", "broken", f"{driver} is not installed", "pip install '.[fleet]'")
    file = sqlite_path(uri)
    if not environment().tracking_uri and file is not None and not file.exists():
        return Finding("MLflow", "ok", f"SQLite in {file.parent}, which the first training creates")
    from satx.tracking.client import FAILS, open_tracker

    remedy = "Start it (`make ui`), or use a local one: unset MLFLOW_TRACKING_URI"
    seconds = LOCAL_SECONDS if file is not None else None
    client = answer_of(open_tracker, f"MLflow at {uri}", remedy, seconds=seconds)
    if not uri.startswith("http"):
        return Finding("MLflow", "ok", f"{uri} answers")
    try:
        answer_of(lambda: _write_a_file(client), f"The artifact store of MLflow at {uri}", remedy)
    except (*FAILS, OSError) as error:
        found = f"{uri} answers, but files cannot be written: {str(error).splitlines()[0]}"
        return Finding(
            "MLflow", "broken", found, "Let the server write to its artifact store (infra/iam/control.json)."
        )
    return Finding("MLflow", "ok", f"{uri} answers and stores files")


def _write_a_file(client: MlflowClient) -> None:
    """Write a file to the artifact location of the newest experiment, and delete it; no run is changed."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    for experiment in client.search_experiments(max_results=1):
        files: Any = get_artifact_repository(experiment.artifact_location, tracking_uri=client.tracking_uri)
        with tempfile.NamedTemporaryFile(prefix="satx-doctor-") as file:
            files.log_artifact(file.name)
            files.delete_artifacts(Path(file.name).name)


@contextmanager
def _backend_process() -> Iterator[subprocess.Popen[str]]:
    """Start a process that imports Keras and prints the device that trains; end it if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", ASK_DEVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _device(backend: subprocess.Popen[str]) -> Finding:
    """Read the answer of the process that imports Keras."""
    name = environment().keras_backend
    again = "pip install '.[jax]'" if name == "jax" else "make setup"
    try:
        answer, said = backend.communicate(timeout=IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        found = f"{name} was not imported within {IMPORT_SECONDS:g} seconds"
        return Finding(
            "device", "broken", found, f"Look at what uses this machine (`top`), or install it again: {again}"
        )
    if backend.returncode:
        reason = (said.strip().splitlines() or [f"exit code {backend.returncode}"])[-1]
        if reason.startswith(REFUSED):
            return Finding("device", "broken", "cannot be used", reason.removeprefix(REFUSED))
        return Finding("device", "broken", f"{name} cannot be imported: {reason}", f"Install it again: {again}")
    if answer.split()[-1] == "gpu":
        return Finding("device", "ok", f"gpu, {name}")
    remedy = "To use the NVIDIA GPU: pip install '.[gpu]'" if shutil.which("nvidia-smi") else ""
    return Finding("device", "note" if remedy else "ok", f"cpu, {num_processors()} cores, {name}", remedy)
