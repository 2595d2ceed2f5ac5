"""A machine's life as its worker sees it: it is renewed while there is progress, and ends when EC2 takes it back.

Two clocks run against a machine. Its tag says until when it is leased, so that anyone who lists machines sees the dead;
and a watchdog of its own, which `infra/user-data.sh` installs, shuts it down when the file that is touched here has not been
touched for as long. Neither needs whoever launched the machine.
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
from satx.fleet.metadata import Identity, is_being_taken_back

logger = logging.getLogger(__name__)

NOTICE_SECONDS = 5.0  # as often as AWS advises
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
    """Keep this machine's lease while its worker makes progress.

    Gives what the worker is to ask all the time. Each time it asks is progress: one that hangs asks no more, and its
    machine ends; one that waits for a lost database goes on asking.

    Args:
        me: This machine.
        ec2: Client of its region.
        alive: The file that the watchdog looks at.
        lease_minutes: How long a machine may stay without progress.
        stopped: Whether the worker was told to stop by a signal.
        may_go_on: Asked at every renewal; False ends the worker, as a spent budget does.
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
        if me.spot and not pulse.ends and is_being_taken_back():
            logger.warning("EC2 takes %s back; its trial is handed back", me.instance_id)
            pulse.ends = True
        now = time.monotonic()
        if now - renewed_at >= lease_seconds / RENEWALS_A_LEASE and pulse.progress_at > renewed_at:
            renewed_at = now
            _renew(me, ec2, alive, lease_seconds)
            pulse.ends = pulse.ends or not may_go_on()
        on_look()  # last: what hangs here, as a GPU's driver can, ends the machine by its watchdog
        if over.wait(min(NOTICE_SECONDS, lease_seconds / RENEWALS_A_LEASE)):
            return


def _renew(me: Identity, ec2: Any, alive: Path, lease_seconds: float) -> None:
    alive.touch()
    try:
        renew(ec2, me.instance_id, datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=lease_seconds))
    except FleetError as error:  # the watchdog goes by the file; the next renewal may reach AWS again
        logger.warning("%s", error)
