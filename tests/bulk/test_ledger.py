"""The ledger: files appear whole or not at all, locally and in S3, and a folder belongs to one run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from bulk_played import MODEL

from satx.bulk.block_file import block_table
from satx.bulk.ledger import LEDGER_FORMAT, Ledger, open_ledger
from satx.errors import ConfigError, DataError, StateMismatch, TrackerUnavailable
from satx.imagery.contract import Tile, Unscored

BUCKET = "satx-test"
BLOCKS = pa.table({"name": ["a"], "num_tiles": pa.array([2], pa.int32()), "digest": ["x"]})
RECORD: dict[str, Any] = {"identity": {"plan": "p1", "model": {"version": 3, "classes": ("a", "b")}}, "kind": "files"}


def table() -> pa.Table:
    tiles = [Tile("18-1-2", 18, 1, 2), Tile("b.jpg", -1, -1, -1)]
    return block_table(tiles, [np.array([0.25, 0.75], np.float32), Unscored("blank", "one color")], MODEL)


@pytest.fixture
def s3(clients: Any) -> Any:
    client = clients("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture(params=["folder", "s3"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if request.param == "folder":
        return open_ledger(str(tmp_path / "new" / "out"))
    request.getfixturevalue("s3")
    return open_ledger(f"s3://{BUCKET}/run")


def test_a_table_and_a_document_come_back_as_they_were_written(ledger: Ledger) -> None:
    assert ledger.finished() == set() and ledger.read_json("run.json") is None
    ledger.write("18-1-2", table())
    ledger.write_json("run.json", {"counts": {"num_tiles": 2}})
    assert ledger.finished() == {"18-1-2"}
    assert ledger.read("18-1-2").equals(table(), check_metadata=True)
    assert ledger.read_json("run.json") == {"counts": {"num_tiles": 2}}
    with pytest.raises(FileNotFoundError):
        ledger.read("other")


def test_the_same_run_continues_and_another_is_refused_by_name(ledger: Ledger) -> None:
    ledger.prepare(RECORD, BLOCKS)
    ledger.prepare({**RECORD, "attribution": "of now"}, BLOCKS)
    plan = ledger.read_json("plan.json")
    assert plan is not None and plan["attribution"] == "of now"
    other = {**RECORD, "identity": {"plan": "p1", "model": {"version": 4, "classes": ("a", "b")}}}
    with pytest.raises(StateMismatch, match=r"model\.version: 3 there, 4 now\. Pass another --out"):
        ledger.prepare(other, BLOCKS)
    assert ledger.read_json("plan.json") is not None
    assert ledger.read_table("plan/blocks.parquet").equals(BLOCKS)


def test_only_a_plan_of_this_format_is_read(ledger: Ledger) -> None:
    with pytest.raises(DataError, match=r"expected the output of satx predict, got no plan\.json"):
        ledger.read_plan()
    ledger.prepare(RECORD, BLOCKS)
    assert ledger.read_plan()["kind"] == "files"
    for found in (LEDGER_FORMAT + 1, None):
        ledger.write_json("plan.json", {"format": found, "tiles": []})
        with pytest.raises(
            DataError, match=rf"plan\.json: expected format {LEDGER_FORMAT}, got {found}\. Read it with"
        ):
            ledger.read_plan()


def test_a_table_of_blocks_that_was_removed_is_written_again(tmp_path: Path) -> None:
    ledger = open_ledger(str(tmp_path))
    ledger.prepare(RECORD, BLOCKS)
    (tmp_path / "plan/blocks.parquet").unlink()
    ledger.prepare(RECORD, BLOCKS)
    assert ledger.read_table("plan/blocks.parquet").equals(BLOCKS)


def test_blocks_without_a_plan_are_not_taken_over(ledger: Ledger) -> None:
    ledger.write("a", table())
    with pytest.raises(StateMismatch, match=r"expected a new folder, or a run with its plan\.json"):
        ledger.prepare(RECORD, BLOCKS)


def test_an_interrupted_write_leaves_no_file(ledger: Ledger) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        ledger.files.put("blocks/a.parquet", fail)
    assert ledger.finished() == set()


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    ledger = open_ledger(str(tmp_path))
    ledger.write("a", table())
    ledger.write("b", table())
    assert (tmp_path / "blocks/a.parquet").read_bytes() == (tmp_path / "blocks/b.parquet").read_bytes()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    ledger = open_ledger(str(tmp_path))
    ledger.write("a", table())
    path = tmp_path / "blocks/a.parquet"
    data = bytearray(path.read_bytes())
    place = data.index(b"18-1-2") if b"18-1-2" in data else 60
    data[place] ^= 1
    path.write_bytes({"flip": bytes(data), "cut": bytes(data[:-9]), "empty": b""}[damage])
    with pytest.raises(DataError, match=r"blocks/a\.parquet: expected a Parquet file .*, got a damaged one"):
        ledger.read("a")


WRITER = """
import sys, time
from pathlib import Path
from satx.bulk.ledger import open_ledger
def write(path):
    path.write_bytes(b"x" * 1000)
    print("writing", flush=True)
    time.sleep(60)
open_ledger(sys.argv[1]).files.put("blocks/a.parquet", write)
"""


def test_a_writer_that_is_killed_leaves_no_block(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert open_ledger(str(tmp_path)).finished() == set()


def test_a_bucket_that_vanished_ends_the_run_with_its_name(s3: Any) -> None:
    ledger = open_ledger(f"s3://{BUCKET}/run")
    ledger.write("a", table())
    for item in s3.list_objects_v2(Bucket=BUCKET)["Contents"]:
        s3.delete_object(Bucket=BUCKET, Key=item["Key"])
    s3.delete_bucket(Bucket=BUCKET)
    with pytest.raises(TrackerUnavailable, match=r"S3 rejected the transfer .*Finished blocks are kept"):
        ledger.write("b", table())


def test_a_bucket_needs_a_prefix() -> None:
    with pytest.raises(ConfigError, match="expected s3://bucket/prefix"):
        open_ledger("s3://bucket")


def test_settings_of_aws_that_no_client_can_use_are_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nonexistent")
    with pytest.raises(TrackerUnavailable, match=r"s3://bucket/run: S3 .*nonexistent"):
        open_ledger("s3://bucket/run")
