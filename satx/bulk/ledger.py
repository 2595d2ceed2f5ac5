"""The output of a bulk prediction, which is also its ledger: a block is done when its file exists.

A file appears whole or not at all: in a folder by renaming it, in S3 because an upload is not visible before it is complete.
So a run that was killed continues with the blocks that have no file, and nothing else needs to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from satx.errors import DataError, StateMismatch
from satx.storage import replacing

PLAN_NAME, RUN_NAME, BLOCKS_NAME = "plan.json", "run.json", "plan/blocks.parquet"
FOLDER = "blocks"
LEDGER_FORMAT = 1


class Files(Protocol):
    """The files of one folder, local or in S3.

    Attributes:
        shown: The folder, as messages name it.
    """

    shown: str

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Call `write` with a temporary path, and put the file in place when it is whole."""
        ...

    def get(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Return what `read` returns for the local path of a file.

        Raises:
            FileNotFoundError: There is no such file.
        """
        ...

    def names(self, folder: str) -> set[str]:
        """Return the names of the files in a folder; none if there is no folder."""
        ...


class LocalFiles:
    """The files of a local folder."""

    def __init__(self, folder: Path) -> None:
        """Use a folder; it need not exist."""
        self.folder = folder
        self.shown = str(folder)

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a temporary file and rename it."""
        with replacing(self.folder / name) as temporary:
            write(temporary)

    def get(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Read a file where it is."""
        return read(self.folder / name)

    def names(self, folder: str) -> set[str]:
        """Return the names of all files, except temporary ones."""
        path = self.folder / folder
        found = path.iterdir() if path.is_dir() else ()
        return {file.name for file in found if not file.name.startswith(".") and file.is_file()}


class Ledger:
    """Plan, blocks and record of one bulk prediction."""

    def __init__(self, files: Files) -> None:
        """Use the files of a folder."""
        self.files = files

    def prepare(self, record: Mapping[str, Any], blocks: pa.Table) -> None:
        """Write the plan of a run; a run that is in this folder already has to be the same.

        Args:
            record: The plan as JSON. Its member `identity` decides what is the same run; the others may change.
            blocks: Name, number of tiles and digest of each block.

        Raises:
            StateMismatch: The folder has the run of another plan, model or source, or of another version of satx.
        """
        written = self.read_json(PLAN_NAME)
        if written is None and self.finished():
            raise StateMismatch(
                f"{self.files.shown}: expected a new folder, or a run with its {PLAN_NAME}, got {FOLDER}/ without it. Pass "
                f"another --out."
            )
        if written is not None:
            self._check_same(written, record)
        self.write_table(BLOCKS_NAME, blocks)
        self.write_json(PLAN_NAME, {"format": LEDGER_FORMAT, **record})

    def _check_same(self, written: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        if written.get("format") != LEDGER_FORMAT:
            raise StateMismatch(
                f"{self.files.shown}/{PLAN_NAME}: expected format {LEDGER_FORMAT}, got {written.get('format')}. Pass another "
                f"--out, or continue with the satx that wrote it."
            )
        here, wanted = _flat(written["identity"]), _flat(json.loads(json.dumps(record["identity"])))
        differing = sorted(key for key in here.keys() | wanted.keys() if here.get(key) != wanted.get(key))
        if differing:
            rows = "; ".join(
                f"{key}: {_brief(here.get(key))} there, {_brief(wanted.get(key))} now" for key in differing
            )
            raise StateMismatch(
                f"{self.files.shown} has the results of another prediction. {rows}. Pass another --out, or repeat the command "
                f"that began it."
            )

    def read_plan(self) -> dict[str, Any]:
        """Read the plan that `prepare` wrote.

        Raises:
            DataError: The folder has none, or one that another version of satx or another program wrote.
        """
        plan = self.read_json(PLAN_NAME)
        if plan is None:
            raise DataError(
                f"{self.files.shown}: expected the output of satx predict, got no {PLAN_NAME}. Pass the folder given as --out."
            )
        if plan.get("format") != LEDGER_FORMAT:
            raise DataError(
                f"{self.files.shown}/{PLAN_NAME}: expected format {LEDGER_FORMAT}, got {_brief(plan.get('format'))}. Read it "
                f"with the satx that wrote it, or predict again with another --out."
            )
        return plan

    def finished(self) -> set[str]:
        """Return the names of the blocks that have a file."""
        return {name.removesuffix(".parquet") for name in self.files.names(FOLDER) if name.endswith(".parquet")}

    def write(self, block_name: str, table: pa.Table) -> None:
        """Write the file of a block; equal tables give equal bytes."""
        self.write_table(f"{FOLDER}/{block_name}.parquet", table)

    def read(self, block_name: str) -> pa.Table:
        """Read the file of a block.

        Raises:
            FileNotFoundError: The block is not done.
            DataError: The file is damaged.
        """
        return self.read_table(f"{FOLDER}/{block_name}.parquet")

    def write_table(self, name: str, table: pa.Table) -> None:
        """Write a table as Parquet, with a checksum for each page."""

        def write(path: Path) -> None:
            pq.write_table(table, path, compression="zstd", write_page_checksum=True)

        self.files.put(name, write)

    def read_table(self, name: str) -> pa.Table:
        """Read a table.

        Raises:
            FileNotFoundError: There is no such file.
            DataError: The file is damaged.
        """

        def read(path: Path) -> pa.Table:
            return pq.ParquetFile(path, page_checksum_verification=True).read()

        try:
            return self.files.get(name, read)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{self.files.shown}/{name}: expected a Parquet file as satx wrote it, got a damaged one ({_brief(error)}). "
                f"Remove it, and repeat the prediction: it writes what is missing."
            ) from error

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON document."""
        text = json.dumps(value, indent=2, sort_keys=True) + "\n"

        def write(path: Path) -> None:
            path.write_text(text)

        self.files.put(name, write)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Read a JSON document; return None if there is none.

        Raises:
            DataError: The document cannot be read.
        """
        try:
            found = json.loads(self.files.get(name, Path.read_bytes))
        except FileNotFoundError:
            return None
        except ValueError as error:
            found = error
        if not isinstance(found, dict):
            raise DataError(
                f"{self.files.shown}/{name}: expected a JSON object as satx wrote it, got something else. Remove it."
            )
        return found


def open_ledger(out: str) -> Ledger:
    """Return the ledger of a local folder, or of `s3://bucket/prefix`."""
    if out.startswith("s3://"):
        from satx.bulk.s3_files import S3Files  # boto3 takes a while to import

        return Ledger(S3Files(out))
    return Ledger(LocalFiles(Path(out)))


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested members under dotted names, so that a message names the one that differs."""
    flat: dict[str, Any] = {}
    for key, member in value.items():
        flat |= _flat(member, f"{prefix}{key}.") if isinstance(member, Mapping) else {prefix + key: member}
    return flat


def _brief(value: object) -> str:
    text = str(value).strip().split("\n")[0]
    return text if len(text) <= 100 else f"{text[:97]}..."
