"""Runs a command while its parent lives: `python -m satx.tracking.guard PARENT COMMAND …`.

A server in a session of its own would outlive a satx that was killed with -9, and hold its database and port.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

LOOK_SECONDS = 1.0


def main() -> None:
    """Pass SIGTERM on, end the command when the parent is gone, and exit as it does."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda _number, _frame: process.terminate())
    while True:
        try:
            sys.exit(process.wait(LOOK_SECONDS))
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                process.terminate()


if __name__ == "__main__":
    main()
