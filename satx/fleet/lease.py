"""A machine's lease: its worker renews it while there is progress, and stops when EC2 interrupts the spot machine.

Two timeouts end a machine that makes no progress. Its tag holds the end of its lease, so that anyone who lists machines
sees expired ones. A watchdog on the machine, installed by `infra/user-data.sh`, shuts it down when the file that this
module touches has not been touched for the length of a lease. Neither depends on the process that launched the machine.
"""

from __future__ import annotations

import datetime
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satx.errors import FleetError
from satx.fleet.machines import renew
from satx.fleet.metadata import Identity, has_interruption_notice

logger = logging.getLogger(__name__)

NOTICE_SECONDS = 5.0  # polling interval that AWS recommends
RENEWALS_A_LEASE = 4


@dataclass
class _Pulse:
    progress_at: float
    ends: bool = False


@contextmanager
def living(
    me: Identity,
    ec2: Any,
    alive: Path,
    *,
    lease_minutes: float,
    stopped: Callable[[], bool],
    may_go_on: Callable[[], bool] = lambda: True,
    on_look: Callable[[], None] = lambda: None,
) -> Iterator[Callable[[], bool]]:
    """Renew this machine's lease while its worker makes progress.

    Yields a stop function that the worker calls frequently. Each call counts as progress. A worker that hangs no longer
    calls it, and its machine shuts down; a worker that waits for a lost database keeps calling it.

    Args:
        me: This machine.
        ec2: EC2 client of its region.
        alive: The file that the watchdog checks.
        lease_minutes: How long a machine may run without progress.
        stopped: Returns whether the worker must stop, for instance after a signal.
        may_go_on: Called at every renewal; False stops the worker, for instance when the budget is spent.
        on_look: Called every few seconds.
    """
    pulse, over = _Pulse(time.monotonic()), threading.Event()

    def stop() -> bool:
        pulse.progress_at = time.monotonic()
        return pulse.ends or stopped()

    arguments = (me, ec2, alive, lease_minutes * 60, may_go_on, on_look, pulse, over)
    watch = threading.Thread(target=_watch, args=arguments, daemon=True)
    watch.start()
    try:
        yield stop
    finally:
        over.set()
        watch.join()


def _watch(
    me: Identity,
    ec2: Any,
    alive: Path,
    lease_seconds: float,
    may_go_on: Callable[[], bool],
    on_look: Callable[[], None],
    pulse: _Pulse,
    over: threading.Event,
) -> None:
    renewed_at = float("-inf")
    while True:
        if me.spot and not pulse.ends and has_interruption_notice():
            logger.warning("EC2 interrupts %s; its worker hands back its trial and stops", me.instance_id)
            pulse.ends = True
        now = time.monotonic()
        if now - renewed_at >= lease_seconds / RENEWALS_A_LEASE and pulse.progress_at > renewed_at:
            renewed_at = now
            _renew(me, ec2, alive, lease_seconds)
            pulse.ends = pulse.ends or not may_go_on()
        on_look()  # last: if it hangs, as a GPU driver can, the watchdog shuts the machine down
        if over.wait(min(NOTICE_SECONDS, lease_seconds / RENEWALS_A_LEASE)):
            return


def _renew(me: Identity, ec2: Any, alive: Path, lease_seconds: float) -> None:
    alive.touch()
    try:
        renew(ec2, me.instance_id, datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=lease_seconds))
    except FleetError as error:  # the watchdog checks only the file; the next renewal may reach AWS again
        logger.warning("%s", error)
