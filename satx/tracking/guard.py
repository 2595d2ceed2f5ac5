"""Run a command for as long as its parent process lives: `python -m satx.tracking.guard PARENT COMMAND …`.

Without it, a server in its own session would survive a `kill -9` of satx and keep its database and port in use.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

LOOK_SECONDS = 1.0


def main() -> None:
    """Forward SIGTERM, terminate the command when the parent has exited, and exit with the command's status."""
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
