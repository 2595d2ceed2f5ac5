"""Which process works on a trial or a run, and whether it is still alive."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import psutil


def owner_of_this_process() -> dict[str, Any]:
    """Who works on a trial, precise enough that a reused process id is not taken for the living worker."""
    return {
        "host": owner_host(),
        "ids": _ids(),
        "boot": _boot_id(),
        "pid": os.getpid(),
        "started": _started(psutil.Process()),
        "memory_kills": _memory_kills(),
    }


def owner_tag() -> dict[str, str]:
    """The same as a run's tag, for runs that no trial stands for: a sweep's own, a baseline's, a single training's."""
    return {"owner": json.dumps(owner_of_this_process())}


def owner_host() -> str:
    """This machine's name, as owners carry it, and its installation's id, since names are not always its own."""
    path = Path("/etc/machine-id")
    return f"{socket.gethostname()} {path.read_text().strip()[:12] if path.exists() else ''}".strip()


def _ids() -> str:
    """In which space process ids mean what they mean here: containers may share name, installation, and the number 1."""
    path = Path("/proc/self/ns/pid")
    return str(path.readlink()) if path.is_symlink() else ""


def owner_is_dead(owner: dict[str, Any] | None) -> bool:
    """True only when the owner was on this machine and is gone; another machine's worker is left alone."""
    if not owner or owner["host"] != owner_host():
        return False
    if owner["boot"] != _boot_id():
        return True
    if owner.get("ids", _ids()) != _ids():  # of another container here: where studies are shared it may live, and beats
        return not os.environ.get("SATX_STUDY_URL", "").startswith("postgresql")
    try:
        process = psutil.Process(owner["pid"])
        return bool(abs(_started(process) - owner["started"]) > 1.0 or process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def memory_ran_out_since(owner: dict[str, Any] | None) -> bool:
    """Whether the kernel of this machine has ended a process for want of memory since this owner wrote itself down."""
    if not owner or owner["host"] != owner_host() or owner["boot"] != _boot_id():
        return False
    return bool(_memory_kills() > owner.get("memory_kills", float("inf")))


def _memory_kills() -> int:
    """How often since its start, containers' limits included; 0 where the kernel does not say."""
    path = Path("/proc/vmstat")
    counts = dict(line.split() for line in path.read_text().splitlines()) if path.exists() else {}
    return int(counts.get("oom_kill", 0))


def _started(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's, which no setting of the clock moves."""
    return process.create_time() - psutil.boot_time()


def _boot_id() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(psutil.boot_time())
