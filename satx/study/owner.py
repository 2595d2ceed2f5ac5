"""Which process works on a trial or a run, and whether it is still alive."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil

from satx.environment import environment


def owner_of_this_process() -> dict[str, Any]:
    """Describe this process, precisely enough that another process with a reused process id is not mistaken for it."""
    return {
        "host": owner_host(),
        "ids": _ids(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _started(psutil.Process()),
        "memory_kills": _memory_kills(),
    }


def owner_tag() -> dict[str, str]:
    """Return this process as the tag `owner`, for runs without a trial: sweeps' own, baselines, single trainings."""
    return {"owner": json.dumps(owner_of_this_process())}


def owner_text(command: str) -> str:
    """Return this process as the text of a file beside a lock, for the messages of those who find the lock held."""
    return json.dumps(owner_of_this_process() | {"command": command})


def named_owner(path: Path) -> str:
    """Return who wrote `owner_text` into a file, as words for a message; a process that has ended is not named."""
    try:
        owner = json.loads(path.read_text())
        if not owner_is_dead(owner):
            elsewhere = "" if owner["host"] == owner_host() else f" on {owner['host']}"
            return f"process {owner['pid']}{elsewhere} (`{owner['command']}`)"
    except (OSError, ValueError, LookupError, TypeError):  # not written yet, or by an earlier version
        pass
    return "a process that has just started"


def owner_host() -> str:
    """Return this machine's host name and, since host names are not always unique, the start of its machine id."""
    path = Path("/etc/machine-id")
    return f"{socket.gethostname()} {path.read_text().strip()[:12] if path.exists() else ''}".strip()


def _ids() -> str:
    """Return the PID namespace of this process: containers may share host name, machine id and process id 1."""
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else ""


def owner_is_dead(owner: dict[str, Any] | None) -> bool:
    """Return whether the owner ran on this machine and has ended; False for an owner on another machine."""
    if not owner or owner["host"] != owner_host():
        return False
    if owner["boot"] != _boot_id():
        return True
    if owner.get("ids", _ids()) != _ids():  # another PID namespace: it may be alive; on PostgreSQL heartbeats decide
        return not (environment().study_url or "").startswith("postgresql")
    try:
        process = psutil.Process(owner["pid"])
        return bool(abs(_started(process) - owner["started"]) > 1.0 or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def memory_ran_out_since(owner: dict[str, Any] | None) -> bool:
    """Return whether this machine's kernel has killed any process for lack of memory since this owner was recorded."""
    if not owner or owner["host"] != owner_host() or owner["boot"] != _boot_id():
        return False
    return bool(_memory_kills() > owner.get("memory_kills", float("inf")))


def _memory_kills() -> int:
    """Count the kernel's out-of-memory kills since boot, those by container limits included; 0 if it reports none."""
    path = Path("/proc/vmstat")
    counts = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
    return int(counts.get("oom_kill", 0))


def _started(process: psutil.Process) -> float:
    """Return the seconds from boot to the start of the process, which changes of the system clock do not affect."""
    return process.create_time() - psutil.boot_time()


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
