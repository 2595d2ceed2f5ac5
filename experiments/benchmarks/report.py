"""Functions shared by the benchmarks: time a call, and publish results as a table and as JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from satx.storage import satx_home, write_json


def median_seconds(call: Callable[[], object], *, repeats: int) -> float:
    """Return the median duration of a call, after one call that is not counted."""
    call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def publish(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Print rows with equal keys as a table, and write them and `more` to `SATX_HOME/benchmarks/NAME.json`."""
    if not rows:
        raise SystemExit(f"{name}: expected at least one measurement, got none. Check the names in the options.")
    table = Table(title=name)
    for column in rows[0]:
        table.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    for key, value in more.items():
        print(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    path = satx_home() / "benchmarks" / f"{name}.json"
    write_json(path, {"rows": rows, **more})
    print(f"Written to {path}")
