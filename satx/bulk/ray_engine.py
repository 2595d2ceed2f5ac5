"""Predict the blocks of a plan on the machines of a Ray cluster, with the engine of `engine.py` on each.

Ray gets the blocks that have no file yet, as the names of their tiles, and each worker opens imagery, model and output itself,
from a JSON document. What is done is told by the files alone: Ray Data repeats the block of a worker that died, as often as it
dies; so a block that was begun too often is given up. A block that has no file in the end, for another reason, is given to Ray
once more. Ray serializes plain data only: dicts, strings and bytes.

The machines of a cluster need this version of satx, the variables in the environment that the imagery's template names, and
the same `--out` and imagery: an `s3://` address, a URL, or a path that all of them mount. The model is sent to them.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
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
MAX_ATTEMPTS = 4  # at a block whose workers die
MAX_LOST_BLOCKS = 10  # more of one round have a cause in common, which the next blocks would meet too
MAX_RAY_TASKS = 10_000  # more blocks than this share tasks; Ray keeps a record of each
MAX_NAMED = 3


def predict_with_ray(
    plan: Plan,
    blocks: Sequence[Block],
    spec: Mapping[str, Any],
    model: ModelIdentity,
    ledger: Ledger,
    *,
    address: str | None = None,
    on_tiles: Callable[[int], None] = lambda _number: None,
) -> float:
    """Predict blocks on a cluster and write their files, with a worker for each GPU or, without any, for each machine.

    Args:
        plan: The plan.
        blocks: The blocks that have no file yet.
        spec: What a worker opens, as JSON: `imagery` (see `open_imagery`), `scorer` (see `open_scorer`), `out` (see
            `open_ledger`) and `placeholders`, a list of digests.
        model: The model that each worker must find.
        ledger: The output, to see what is done.
        address: Address of a cluster, or `auto`; None starts one on this machine.
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
        attempts = _counting_attempts()
        for _ in range(NUM_ROUNDS):
            finished = ledger.finished()
            left = [block for name, block in wanted.items() if name not in finished]
            if not left:
                return judging_seconds
            seconds, cause = _received(_results(plan, left, spec, model, attempts), on_tiles)
            judging_seconds += seconds
    missing = sorted(wanted.keys() - ledger.finished())
    if missing:
        named = ", ".join(missing[:MAX_NAMED]) + (" and others" if len(missing) > MAX_NAMED else "")
        raise DataError(
            f"Expected a file for each of {len(wanted):,} blocks after {NUM_ROUNDS} rounds, but {len(missing):,} have none "
            f"({named}): {cause}. Look at the logs of Ray and at the memory of its machines, then run the same command again: "
            f"finished blocks are kept."
        )
    return judging_seconds


def _received(results: Generator[dict[str, Any], None, None], on_tiles: Callable[[int], None]) -> tuple[float, str]:
    """Take the results of a round; return the processor seconds of judging, and why blocks may have no file.

    Raises:
        SatxError: What a worker raised.
    """
    judging_seconds, causes = 0.0, list[str]()
    try:
        with closing(results):
            for row in results:
                if row["kind"]:
                    raise getattr(errors, row["kind"], SatxError)(row["message"])
                if row["message"]:
                    causes.append(row["message"])
                else:
                    judging_seconds += row["judging_seconds"]
                    on_tiles(row["num_tiles"])
                if len(causes) > MAX_LOST_BLOCKS:
                    break
    except _ray_errors() as error:  # workers died too often; the files tell what is left
        causes.append(_first_line(error))
    return judging_seconds, causes[-1] if causes else "its workers ended without an error"


class _Attempts:
    """Counts how often each block was begun, in a process of its own: a worker that is killed tells nothing."""

    def __init__(self) -> None:
        self._numbers = Counter[str]()

    def begin(self, block: str) -> int:
        """Count an attempt at a block; return how many there were, with this one."""
        self._numbers[block] += 1
        return self._numbers[block]


def _counting_attempts() -> Any:
    """Start the process that counts; return its handle."""
    import ray

    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Attempts).remote()


class _Worker:
    """Predicts blocks in a process of the cluster, one at a time; what it has opened stays open."""

    def __init__(self, document: str, model_files: dict[str, bytes], attempts: Any) -> None:
        """Open what the JSON document of `_document` describes.

        An error is kept, and returned instead of results: one that is raised here would be tried again by Ray for ever.
        """
        self._error: SatxError | None = None
        self._attempts = attempts
        spec = json.loads(document)
        backend = spec["scorer"].get("backend")
        if backend is not None:  # before `open_scorer` imports Keras; this machine's environment may say another
            os.environ["KERAS_BACKEND"] = backend
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
            if self._scorer.about().get("backend") != backend:
                raise ConfigError(
                    f"Expected Keras on {backend} in every worker, got {self._scorer.about().get('backend')} in one: something "
                    f"imports Keras at the start of Ray's workers. Start the cluster without it."
                )
        except (
            Exception
        ) as error:  # whatever is raised here, Ray would repeat for ever; it is raised in the driver instead
            self._error = error if isinstance(error, SatxError) else SatxError(f"{type(error).__name__}: {error}")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Predict one block, which is a row with its name and tiles."""
        import ray

        (row,) = batch.to_pylist()
        plan = _plan_of(self._kind, row["block"], row["rows"])
        kind, message, seconds = "", "", 0.0
        try:
            if self._error is not None:
                raise self._error
            if not self._is_done(row["block"]):
                if ray.get(self._attempts.begin.remote(row["block"])) > MAX_ATTEMPTS:
                    message = f"its worker was killed {MAX_ATTEMPTS} times"
                else:
                    seconds = predict_blocks(
                        plan, plan.blocks, self._imagery, self._scorer, self._ledger, placeholders=self._placeholders
                    )
        except SatxError as error:  # of the whole run
            kind, message = type(error).__name__, str(error)
        except Exception as error:  # perhaps of this block alone, which is tried again when the others are done
            message = f"{type(error).__name__}: {_first_line(error)}"
        found = {"num_tiles": plan.num_tiles, "judging_seconds": seconds, "kind": kind, "message": message}
        return pa.Table.from_pylist([found])

    def _is_done(self, name: str) -> bool:
        """Return whether the block has a file: Ray may repeat a whole task because the worker of one of its blocks died."""
        try:
            self._ledger.read(name)
        except (FileNotFoundError, DataError):
            return False
        return True


def _results(
    plan: Plan, blocks: Sequence[Block], spec: Mapping[str, Any], model: ModelIdentity, attempts: Any
) -> Generator[dict[str, Any], None, None]:
    """Yield what the workers return for each block, in the order in which they finish."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.execution_options.preserve_order = False
    rows = [{"block": block.name, "rows": _rows_of(plan, block)} for block in blocks]
    folder = spec["scorer"].get("folder")
    files = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())} if folder else {}
    size, resources = _workers()
    results = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_RAY_TASKS)).map_batches(
        _Worker,
        batch_size=1,
        batch_format="pyarrow",
        fn_constructor_args=(_document(plan, spec, model), files, attempts),
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


def _workers() -> tuple[int, dict[str, Any]]:
    """Return how many workers the cluster has room for, and what each of them takes."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    if num_gpus:
        return num_gpus, {"num_gpus": 1}
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if not cpus:
        raise ConfigError("--address: expected a Ray cluster with processors, got none. Add a machine to it.")
    each = min(cpus)
    return sum(number // each for number in cpus), {"num_cpus": each}


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
