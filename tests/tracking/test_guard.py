"""Test that a server ends with the satx process that started it, even if satx is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
from projects import ROOT

PARENT = """
import os, subprocess, sys
guarded = [sys.executable, "-c", "import time; time.sleep(600)"]
guard = [sys.executable, "-m", "satx.tracking.guard", str(os.getpid()), *guarded]
process = subprocess.Popen(guard, start_new_session=True)
print(process.pid, flush=True)
process.wait()
"""


def test_a_guarded_process_ends_when_its_parent_is_killed() -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        guard = psutil.Process(int(parent.stdout.readline()))
        guarded: list[psutil.Process] = []
        try:
            deadline = time.monotonic() + 60
            while not guarded and time.monotonic() < deadline:
                guarded = guard.children()
                time.sleep(0.05)
            assert len(guarded) == 1
            parent.send_signal(signal.SIGKILL)
            _, alive = psutil.wait_procs([guard, *guarded], timeout=60)
            assert alive == []
        finally:
            parent.kill()
            for process in (guard, *guarded):
                if process.is_running():
                    process.kill()
