"""`satx predict --verify`: recount an output from its files alone."""

from __future__ import annotations

from dataclasses import asdict

from satx.bulk.ledger import open_ledger
from satx.bulk.verify import Verified, verify
from satx.commands.block_progress import block_progress
from satx.commands.console import out, print_json, table, talk_on_stderr
from satx.errors import DataError

MAX_FAULTS = 20


def verify_command(where: str, *, as_json: bool) -> None:
    """Check every file of an output against its plan, and print the number of tiles of each status.

    Raises:
        DataError: A tile of the plan is missing, or a file is not what satx wrote.
    """
    if as_json:
        talk_on_stderr()
    with block_progress("verifying blocks") as on_block:
        found = verify(open_ledger(where), on_block)
    if as_json:
        print_json({"out": where, "is_whole": found.is_whole, **asdict(found)})
    else:
        rows = [[status, f"{number:,}"] for status, number in found.counts["status"].items() if number]
        title = f"{found.counts['num_tiles']:,} of {found.num_planned_tiles:,} planned tiles"
        table(title, ["status", "tiles"], rows, right=(1,))
    if not found.is_whole:
        raise DataError(_what_is_wrong(where, found))
    out.print(f"Each of {found.num_planned_tiles:,} tiles is in the output exactly once.", highlight=False)


def _what_is_wrong(where: str, found: Verified) -> str:
    lines = [str(fault) for fault in found.faults[:MAX_FAULTS]]
    if len(found.faults) > MAX_FAULTS:
        lines.append(f"{len(found.faults) - MAX_FAULTS} more faults; --json lists all.")
    if found.missing:
        lines.append(
            f"{len(found.missing):,} of {found.num_blocks:,} blocks have no file. Repeat the prediction, which predicts them."
        )
    return f"{where}: expected each planned tile once, got:\n" + "\n".join(f"  {line}" for line in lines)
