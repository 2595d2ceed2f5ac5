"""Predict the blocks of a plan on the machines of a Ray cluster, with the engine of `engine.py` on each.

Ray gets the blocks that have no file yet, as the names of their tiles, and each worker opens imagery, model and output itself,
from a JSON document. What is done is told by the files alone: Ray Data repeats the block of a worker that died, as often as it
dies, and a block that has no file in the end is given to Ray once more. Ray serializes plain data only: dicts, strings and
bytes.

The machines of a cluster need this version of satx, the variables in the environment that the imagery's template names, and
the same `--out` and imagery: an `s3://` address, a URL, or a path that all of them mount. The model is sent to them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from satx import errors
from satx.bulk.block_file import ModelIdentity
from satx.bulk.engine import predict_blocks
from satx.bulk.ledger import Ledger, open_ledger
from satx.bulk.plan import FILES, Block, Plan
from satx.bulk.scorer import open_scorer
from satx.errors import ConfigError, DataError, SatxError
from satx.imagery.open_imagery import open_imagery

NUM_ROUNDS = 2
MAX_RAY_TASKS = 10_000  # more blocks than this share tasks; Ray keeps a record of each


def predict_with_ray(
    plan: Plan,
    blocks: Sequence[Block],
    spec: Mapping[str, Any],
    model: ModelIdentity,
    ledger: Ledger,
    *,
    address: str | None = None,
    cpus_per_worker: int | None = None,
    on_tiles: Callable[[int], None] = lambda _number: None,
) -> float:
    """Predict blocks on a cluster and write their files.

    Args:
        plan: The plan.
        blocks: The blocks that have no file yet.
        spec: What a worker opens, as JSON: `imagery` (see `open_imagery`), `scorer` (see `open_scorer`), `out` (see
            `open_ledger`) and `placeholders`, a list of digests.
        model: The model that each worker must find.
        ledger: The output, to see what is done.
        address: Address of a cluster, or `auto`; None starts one on this machine.
        cpus_per_worker: Processors of a worker. None makes one worker for each GPU or, without any, for each machine.
        on_tiles: Called with the number of tiles of each block that is done.

    Returns:
        Processor seconds that decoding, judging and resizing took, of all workers together.

    Raises:
        ConfigError: Ray is not installed, or the cluster does not answer.
        SatxError: What a worker raised; or blocks have no file though they were tried twice.
    """
    if not blocks:
        return 0.0
    _require_ray()
    wanted, judging_seconds = {block.name: block for block in blocks}, 0.0
    with _cluster(address):
        for _ in range(NUM_ROUNDS):
            finished = ledger.finished()
            left = [block for name, block in wanted.items() if name not in finished]
            if not left:
                return judging_seconds
            try:
                for row in _results(plan, left, spec, model, cpus_per_worker):
                    _raise_error_of(row)
                    judging_seconds += row["judging_seconds"]
                    on_tiles(row["num_tiles"])
                cause = "its workers ended without an error"
            except _ray_errors() as error:  # a worker died too often; the files tell what is left
                cause = _first_line(error)
    missing = sorted(wanted.keys() - ledger.finished())
    if missing:
        raise DataError(
            f"Expected a file for each of {len(wanted):,} blocks after {NUM_ROUNDS} rounds, but {len(missing):,} have none, such "
            f"as {missing[0]}: {cause}. Look at the logs of Ray and at the memory of its machines, then run the same command "
            f"again: finished blocks are kept."
        )
    return judging_seconds


class _Worker:
    """Predicts blocks in a process of the cluster, one at a time; what it has opened stays open."""

    def __init__(self, document: str, model_files: dict[str, bytes]) -> None:
        """Open what the JSON document of `_document` describes.

        An error is kept, and returned instead of results: one that is raised here would be tried again by Ray for ever.
        """
        self._error: SatxError | None = None
        spec = json.loads(document)
        self._kind, self._placeholders = spec["kind"], frozenset(spec["placeholders"])
        self._folder = TemporaryDirectory(prefix="satx-ray-")
        try:
            for name, data in model_files.items():
                (Path(self._folder.name) / name).write_bytes(data)
            scorer = spec["scorer"] | ({"folder": self._folder.name} if model_files else {})
            self._ledger, self._imagery = open_ledger(spec["out"]), open_imagery(spec["imagery"])
            self._scorer = open_scorer(scorer)
            found = json.loads(json.dumps(asdict(self._scorer.model)))
            if found != spec["model"]:
                raise ConfigError(
                    f"Expected the model {spec['model']} in every worker, got {found} in one. Run it again."
                )
        except (
            Exception
        ) as error:  # whatever is raised here, Ray would repeat for ever; it is raised in the driver instead
            self._error = error if isinstance(error, SatxError) else SatxError(f"{type(error).__name__}: {error}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict one block, which is a row with its name and tiles."""
        (row,) = batch.to_pylist()
        plan = _plan_of(self._kind, row["block"], row["rows"])
        error, seconds = self._error, 0.0
        try:
            if error is None and not self._is_done(row["block"]):
                seconds = predict_blocks(
                    plan, plan.blocks, self._imagery, self._scorer, self._ledger, placeholders=self._placeholders
                )
        except SatxError as raised:
            error = raised
        found = {
            "num_tiles": plan.num_tiles,
            "judging_seconds": seconds,
            "error": "" if error is None else type(error).__name__,
            "message": str(error or ""),
        }
        return pa.Table.from_pylist([found])

    def _is_done(self, name: str) -> bool:
        """Return whether the block has a file: Ray may repeat a whole task because the worker of one of its blocks died."""
        try:
            self._ledger.read(name)
        except (FileNotFoundError, DataError):
            return False
        return True


def _results(
    plan: Plan, blocks: Sequence[Block], spec: Mapping[str, Any], model: ModelIdentity, cpus_per_worker: int | None
) -> Iterator[dict[str, Any]]:
    """Yield what the workers return for each block, in the order in which they finish."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    rows = [{"block": block.name, "rows": _rows_of(plan, block)} for block in blocks]
    folder = spec["scorer"].get("folder")
    files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())} if folder else {}
    size, resources = _workers(cpus_per_worker)
    results = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_RAY_TASKS)).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(_document(plan, spec, model), files),
        compute=ray.data.ActorPoolStrategy(size=min(size, len(rows))),
        **resources,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from batch.to_pylist()


def _document(plan: Plan, spec: Mapping[str, Any], model: ModelIdentity) -> str:
    return json.dumps({**spec, "kind": plan.kind, "model": asdict(model)})


def _rows_of(plan: Plan, block: Block) -> bytes:
    """Return the tiles of a block as bytes: 8 for each key, or names in lines, which have no line breaks themselves."""
    rows = plan.rows[block.start : block.stop]
    return "\n".join(rows.to_pylist()).encode() if plan.kind == FILES else np.asarray(rows, "<u8").tobytes()


def _plan_of(kind: str, name: str, rows: bytes) -> Plan:
    """Return a plan of one block, from what `_rows_of` returned."""
    found = pa.array(rows.decode().split("\n"), pa.large_string()) if kind == FILES else np.frombuffer(rows, "<u8")
    return Plan(kind, (Block(name, 0, len(found)),), found)


def _workers(cpus_per_worker: int | None) -> tuple[int, dict[str, Any]]:
    """Return how many workers the cluster has room for, and what each of them takes."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if num_gpus and cpus_per_worker is None:
        return num_gpus, {"num_gpus": 1}
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ConfigError("--address: expected a Ray cluster with processors, got none. Add a machine to it.")
    each = min(cpus) if cpus_per_worker is None else cpus_per_worker
    return max(1, sum(number // each for number in cpus)), {"num_cpus": each}


def _raise_error_of(row: Mapping[str, Any]) -> None:
    if row["error"]:
        kind = getattr(errors, row["error"], SatxError)
        raise kind(row["message"])


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """Connect to a cluster, or run one on this machine, until the block ends; one that is connected already is used."""
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise ConfigError(
            f"--address: expected a Ray cluster at {address or 'this machine'}, got: {_first_line(error)}. Start one with "
            f"`ray start --head`, or leave --address out to use this machine."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_ray() -> None:
    try:
        import_module("ray.data")
    except ImportError as error:
        raise ConfigError(
            f"--engine ray: expected Ray, which is not installed ({error}). Run: pip install 'satx[ray]'. Or leave --engine out."
        ) from error


def _ray_errors() -> tuple[type[BaseException], ...]:
    import ray.exceptions

    return (ray.exceptions.RayError,)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:300]
