"""`satx predict`: score every tile of a folder, table, area or tile file, with a status for each in the output."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from typing import Any

from satx.bulk.block_file import ModelIdentity
from satx.bulk.engine import predict_blocks
from satx.bulk.flatgeobuf import check_flatgeobuf
from satx.bulk.ledger import RUN_NAME, Ledger, open_ledger
from satx.bulk.plan import Block
from satx.bulk.products import Products, products_of
from satx.bulk.scorer import Scorer, open_scorer
from satx.bulk.target import Target
from satx.commands.block_progress import read_blocks
from satx.commands.console import banner, lasting, next_commands, out, print_json, table, talk_on_stderr
from satx.commands.progress import progress_bars
from satx.commands.stopping import stoppable
from satx.errors import ConfigError
from satx.imagery.contract import Imagery
from satx.imagery.judge import Placeholders, read_placeholders
from satx.imagery.open_imagery import open_imagery
from satx.registry.model_files import download_version
from satx.registry.versions import now_utc
from satx.storage import locked
from satx.tracking.client import open_tracker

MAX_REASONS = 2  # of a status, in the table


@dataclass(frozen=True)
class Request:
    """What the options ask for.

    Attributes:
        tiles: What to predict.
        out: Folder or `s3://` prefix of the output.
        model: Name of the registered model; None for the only one.
        version: Its version; None for the champion.
        endpoint: URL of a model of a server that scores; None to score here.
        precision: `float32`, `bfloat16` or `auto`.
        placeholders: Image files that stand for missing imagery.
        attribution: Text to print beside the imagery; None for that of the source.
        allow_embedding: Whether pages may contain pictures of the imagery.
        engine: `local` or `ray`.
        address: Address of a Ray cluster; None for one on this machine.
        flatgeobuf: Whether to write the candidates as FlatGeobuf too.
    """

    tiles: Path
    out: str
    model: str | None = None
    version: int | None = None
    endpoint: str | None = None
    precision: str = "auto"
    placeholders: tuple[Path, ...] = ()
    attribution: str | None = None
    allow_embedding: bool = False
    engine: str = "local"
    address: str | None = None
    flatgeobuf: bool = False


def predict_command(request: Request, target: Target, *, as_json: bool) -> None:
    """Predict the tiles that are left, then write candidates and the record of the run.

    Raises:
        ConfigError, DataError, StateMismatch: Model, imagery or output cannot be used, or belong to another run.
        Interrupted: Stopped by Ctrl-C; the same command continues.
    """
    if as_json:
        talk_on_stderr()
    if request.flatgeobuf:
        check_flatgeobuf()
    ledger, plan = open_ledger(request.out), target.plan
    with ExitStack() as stack:
        stack.enter_context(stoppable())
        if not request.out.startswith("s3://"):
            _lock(stack, Path(request.out))
        imagery = open_imagery(target.imagery, target.zooms)
        stack.callback(imagery.close)
        spec = _scorer_spec(request, Path(stack.enter_context(TemporaryDirectory())))
        scorer = open_scorer(spec)
        stack.callback(scorer.close)
        spec |= {"name": scorer.model.name, "version": scorer.model.version}  # a champion may change meanwhile
        placeholders = read_placeholders(request.placeholders)
        record = _record(request, target, imagery, scorer, placeholders)
        ledger.prepare(record, plan.table)
        finished = ledger.finished()
        left = [block for block in plan.blocks if block.name not in finished]
        _print_plan(target, scorer.model, left)
        took = _predict(request, target, left, imagery, scorer, spec, ledger, placeholders)
        products = products_of(
            read_blocks(ledger, [block.name for block in plan.blocks], "collecting candidates"),
            scorer.model,
            attribution=record["imagery"]["attribution"],
            with_flatgeobuf=request.flatgeobuf,
        )
        for name, write in products.files.items():
            ledger.files.put(name, write)
        about = None if request.engine == "ray" else scorer.about()  # the workers scored
        run = {"counts": products.counts, "last_call": took, "scorer": about, "finished_at": now_utc()}
        ledger.write_json(RUN_NAME, run)
    if as_json:
        print_json({"out": request.out, **run})
    else:
        _print_results(request.out, products, took)


def _lock(stack: ExitStack, folder: Path) -> None:
    if not stack.enter_context(locked(folder / ".predict", wait=False)):
        raise ConfigError(
            f"--out: expected a folder that no other prediction writes, got {folder}. Wait for it, or pass another."
        )


def _scorer_spec(request: Request, folder: Path) -> dict[str, Any]:
    """Return the description of the scorer; download the model to a folder if it scores here."""
    if request.endpoint is not None:
        return {"endpoint": request.endpoint, "name": request.model, "version": request.version}
    import keras

    from satx.bulk.local_scorer import resolved_precision

    files = download_version(open_tracker(), request.model, request.version, folder)
    return {
        "folder": str(files.folder),
        "name": files.name,
        "version": files.version,
        "weights_sha256": files.weights_sha256,
        "precision": resolved_precision(request.precision),
        "backend": keras.backend.backend(),
    }


def _record(
    request: Request, target: Target, imagery: Imagery, scorer: Scorer, placeholders: Placeholders
) -> dict[str, Any]:
    """Return the plan as JSON; `identity` is what a run must have in common with one that it continues."""
    plan = target.plan
    return {
        "identity": {
            "plan": plan.digest,
            "imagery": dict(imagery.identity),
            "model": asdict(scorer.model),
            "precision": scorer.about().get("precision"),
            "placeholders": sorted(placeholders),
        },
        "imagery": {
            "attribution": imagery.attribution if request.attribution is None else request.attribution,
            "allow_embedding": request.allow_embedding,
            "path": None if "://" in target.imagery else _for_workers(target.imagery),
        },
        "kind": plan.kind,
        "num_tiles": plan.num_tiles,
        "num_blocks": len(plan.blocks),
    }


def _print_plan(target: Target, model: ModelIdentity, left: Sequence[Block]) -> None:
    for note in target.notes:
        out.print(note, highlight=False)
    plan = target.plan
    num_done = plan.num_tiles - sum(block.num_tiles for block in left)
    blocks = f"{len(plan.blocks):,} block{'s' * (len(plan.blocks) > 1)}"
    before = f", {num_done:,} tiles done before" if num_done else ""
    out.print(
        f"{plan.num_tiles:,} tiles in {blocks}{before}. {model.name} version {model.version}, tiles of {model.image_size_px} px, "
        f"{model.positive_class} from a probability of {model.threshold:.3g}.",
        highlight=False,
    )
    if model.sample:
        banner("This model was trained on rendered tiles. Its scores of real imagery mean nothing.", title="Sample")


def _predict(
    request: Request,
    target: Target,
    left: Sequence[Block],
    imagery: Imagery,
    scorer: Scorer,
    spec: Mapping[str, Any],
    ledger: Ledger,
    placeholders: Placeholders,
) -> dict[str, Any]:
    """Predict the blocks that are left, here or on a cluster; return what it took."""
    total, done = sum(block.num_tiles for block in left), 0
    began = time.perf_counter()
    with progress_bars() as on_progress:

        def on_tiles(number: int) -> None:
            nonlocal done
            done += number
            on_progress("predicting tiles", done, total)

        if request.engine == "ray":
            from satx.bulk.ray_engine import predict_with_ray

            opened = {
                "imagery": _for_workers(target.imagery),
                "scorer": dict(spec),
                "out": _for_workers(request.out),
                "placeholders": sorted(placeholders),
            }
            judging_seconds = predict_with_ray(
                target.plan, left, opened, scorer.model, ledger, address=request.address, on_tiles=on_tiles
            )
        else:
            judging_seconds = predict_blocks(
                target.plan, left, imagery, scorer, ledger, placeholders=placeholders, on_tiles=on_tiles
            )
    seconds = time.perf_counter() - began
    return {
        "engine": request.engine,
        "num_tiles": total,
        "seconds": round(seconds, 3),
        "tiles_per_second": round(total / seconds, 1),
        "judging_processor_seconds": round(judging_seconds, 3),
    }


def _for_workers(where: str) -> str:
    """Return a path as absolute, since the workers of a cluster have another current folder; URLs as they are."""
    return where if "://" in where else str(Path(where).resolve())


def _print_results(where: str, products: Products, took: dict[str, float]) -> None:
    counts = products.counts
    rows = [[status, f"{number:,}", _reasons(counts, status)] for status, number in counts["status"].items() if number]
    table(f"{counts['num_tiles']:,} tiles", ["status", "tiles", "most frequent reasons"], rows, right=(1,))
    if took["num_tiles"]:
        out.print(
            f"{took['num_tiles']:,} tiles in {lasting(took['seconds'])}, {took['tiles_per_second']:,.0f} a second."
        )
    out.print(
        f"{counts['num_above_threshold']:,} tiles at or above the threshold, {counts['num_candidates']:,} candidates: "
        f"{', '.join(products.files)}.",
        highlight=False,
    )
    quoted = quote(where)
    verified = {f"satx predict --verify {quoted}": "recount every tile from the files alone"}
    has_map = not where.startswith("s3://") and counts["num_candidates"] > counts["num_candidates_without_place"]
    next_commands(({f"satx map {quoted}": "look at the tiles found"} if has_map else {}) | verified)


def _reasons(counts: dict[str, Any], status: str) -> str:
    reasons = counts["reasons"].get(status, [])[:MAX_REASONS]
    return "; ".join(f"{item['reason']} ({item['num_tiles']:,})" for item in reasons)
