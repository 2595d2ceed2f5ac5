"""Fixtures of all tests: a separate `SATX_HOME`, loopback-only network, small rendered tiles, one random backbone."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from satx.environment import Environment, environment

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # with two, a small fit takes three times as much processor time
os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and their children, ignore it

# no deadline: the duration of an example depends on the load of the machine
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

SHARED = Path(__file__).resolve().parents[2] / "shared"
TINY_PX = 32
# the files whose tests take longest, longest first
LONGEST = (
    "browser/test_mlflow_in_browser.py",
    "bulk/test_ray_engine.py",
    "commands/test_fleet.py",
    "bulk/test_gpu_benchmark.py",
    "browser/test_map_in_browser.py",
    "commands/test_sweep.py",
    "training/test_trained_variables.py",
    "training/test_trainer.py",
    "execution/test_worker.py",
    "registry/test_promotion.py",
    "registry/test_kills.py",
    "inference/conformance/test_conformance.py",
    "serving/test_hostile.py",
    "serving/test_fuzz.py",
    "execution/test_confirm.py",
    "study/test_database.py",
    "training/test_resume.py",
    "training/test_exactness.py",
    "training/test_trunk.py",
    "training/test_compiled_steps.py",
    "fleet/test_machines.py",
    "study/test_study.py",
    "inference/test_export.py",
    "models/test_backbones.py",
    "models/test_weights.py",
    "study/test_reconcile.py",
    "sample/test_sample.py",
    "commands/test_ui.py",
    "tracking/test_passwords.py",
    "commands/test_train.py",
    "imagery/test_imagery_http.py",
    "bulk/test_endpoint.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest files first, so that both test processes end at about the same time."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


class _Patch(pytest.MonkeyPatch):
    """A MonkeyPatch after whose changes of the environment satx reads it anew; satx reads it once per process."""

    def setenv(self, name: str, value: str, prepend: str | None = None) -> None:
        super().setenv(name, value, prepend)
        environment.cache_clear()

    def delenv(self, name: str, raising: bool = True) -> None:
        super().delenv(name, raising)
        environment.cache_clear()

    def undo(self) -> None:
        super().undo()
        environment.cache_clear()


@pytest.fixture
def monkeypatch() -> Iterator[pytest.MonkeyPatch]:
    """Yield a patch that is undone after the test; takes the place of pytest's own."""
    patch = _Patch()
    yield patch
    patch.undo()


@pytest.fixture(autouse=True)
def _loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a connection to another machine fail at once with an error that names it."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise OSError(f"Expected tests to connect to this machine only, got {address[0]}.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", checked)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set `SATX_HOME` to a folder of this test, and remove satx's other environment variables."""
    for name in (str(field.validation_alias) for field in Environment.model_fields.values()):
        monkeypatch.setenv(name, "")  # so that monkeypatch also removes a value that the test sets
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("SATX_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def _tables_on_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restore standard output for tables after a test that runs a command with `--json` in this process."""
    from satx.commands.console import out

    monkeypatch.setattr(out, "stderr", False)


@pytest.fixture(scope="session", autouse=True)
def _shared_programs(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep JAX's compiled programs for the session, since several tests compile the same ones."""
    if os.environ.get("KERAS_BACKEND") != "jax":
        return
    import jax

    # one folder per test process: JAX reads entries that another process is still writing
    jax.config.update("jax_compilation_cache_dir", str(tmp_path_factory.getbasetemp() / "programs"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="session")
def tiny_tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Render a sample of session 2 with 120 tiles, once for all test processes."""
    from projects import shared_folder

    from satx.sample.sample import render_sample
    from satx.storage import locked

    folder = shared_folder(tmp_path_factory.getbasetemp()) / "tiles" / "session2"
    with locked(folder):
        return render_sample(folder, session=2, num_tiles=120, workers=2)


@pytest.fixture(scope="session")
def tiny_store(tiny_tiles: Path) -> Any:
    """Build the tile store of `tiny_tiles` at 32 px, once for all test processes."""
    from projects import template_home

    from satx.tiles.layout import read_layout
    from satx.tiles.store import build_store

    return build_store(read_layout(tiny_tiles), image_size_px=TINY_PX, cache_dir=template_home(tiny_tiles) / "cache")


@pytest.fixture(scope="session")
def tiny_weights(tiny_tiles: Path, tiny_store: Any) -> Any:
    """Create random MobileNetV2 weights, calibrated on the training tiles of `tiny_store`, once for all processes."""
    from projects import template_home

    from satx.models.weights import random_weights

    tiles = tiny_store.pixels(), tiny_store.rows("train")
    return random_weights("mobilenetv2", *tiles, seed=20, cache_dir=template_home(tiny_tiles) / "cache")


@pytest.fixture
def real_tiles() -> Iterator[Path]:
    """Yield the folder of the real aerial tiles of session 2; skip the test if it is missing."""
    folder = SHARED / "data" / "aid-school" / "session2"
    if not folder.is_dir():
        pytest.skip(f"needs the real tiles in {folder}, which are not part of the project")
    yield folder


@pytest.fixture
def pretrained(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set `SATX_WEIGHTS_DIR` to the folder of ImageNet weights; skip the test if it is missing."""
    folder = SHARED / "weights"
    if not folder.is_dir():
        pytest.skip(f"needs the pretrained weights in {folder}, which are not part of the project")
    monkeypatch.setenv("SATX_WEIGHTS_DIR", str(folder))
    yield folder


@pytest.fixture(scope="session")
def amazon() -> Iterator[str]:
    """Run moto, a simulated AWS, as a server on loopback with its validations enabled; yield its URL."""
    from moto.server import ThreadedMotoServer

    names = ("MOTO_EC2_ENABLE_INSTANCE_TYPE_VALIDATION", "MOTO_ENABLE_AMI_VALIDATION", "MOTO_ENABLE_KEYPAIR_VALIDATION")
    os.environ.update(dict.fromkeys(names, "1"))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def aws_session() -> Any:
    """Return one session for all clients, since reading the descriptions of AWS's services takes a second."""
    import boto3

    return boto3.Session(region_name="us-east-1")


@pytest.fixture
def clients(amazon: str, aws_session: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a factory of clients for an empty simulated AWS account: `clients("ec2")`."""
    import httpx

    httpx.post(f"{amazon}/moto-api/reset", timeout=60)
    monkeypatch.setenv("AWS_ENDPOINT_URL", amazon)
    return aws_session.client


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Run a PostgreSQL server for the module, on loopback; skip the test if PostgreSQL is not installed."""
    from satx.errors import ConfigError
    from satx.testing.local_postgres import running_postgres

    with ExitStack() as held:
        try:
            server = held.enter_context(running_postgres(tmp_path_factory.mktemp("postgres") / "cluster"))
        except ConfigError as missing:
            pytest.skip(str(missing))
        yield server


@pytest.fixture
def tiny_ready(home: Path, tiny_tiles: Path) -> Any:
    """Return what `prepare` returns for the tiny tiles, in this test's home."""
    from projects import furnish

    return furnish(home, tiny_tiles)


@pytest.fixture
def open_tiny(tiny_ready: Any) -> Callable[..., Any]:
    """Return a function that opens the tiny sweep like the driver; it takes `trials` and parts of the sweep's YAML."""
    from projects import TINY_SWEEP

    from satx.execution.driver import open_sweep
    from satx.search.space import SweepConfig

    def opened(trials: int = 2, **parts: Any) -> Any:
        config = SweepConfig.model_validate(TINY_SWEEP | parts)
        return open_sweep(tiny_ready, config, trials, git_commit="0" * 40, bucket=environment().bucket)

    return opened


@pytest.fixture
def bucket(clients: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Create the bucket of a sweep in simulated S3, and set `SATX_BUCKET`; yield the client."""
    from satx.execution import driver, shared_features, sharing

    s3 = clients("s3")
    s3.create_bucket(Bucket="satx-test")
    monkeypatch.setenv("SATX_BUCKET", "s3://satx-test/fleet")
    for module in (sharing, shared_features, driver):
        monkeypatch.setattr(module, "s3_client", lambda: s3)
    yield s3


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Return a function that simulates another machine: databases are shared, the files of the first home are not."""
    from satx.storage import satx_home

    monkeypatch.setenv("SATX_STUDY_URL", f"sqlite:///{tmp_path / 'studies.db'}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")

    def go(sweep: Any) -> Path:
        job = sweep.job
        sweep.study.set_user_attr("store", f"/first/machine/{job.store.folder.name}")
        weights = {name: found.as_dict() | {"file": "/first/machine/w.h5"} for name, found in job.weights.items()}
        sweep.study.set_user_attr("weights", weights)
        monkeypatch.setenv("SATX_HOME", str(tmp_path / "another"))
        return satx_home()

    return go
