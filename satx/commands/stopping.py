"""A stop signal is acknowledged at once, whatever the command is doing, and the command that continues is printed."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from satx.commands.console import out, stop_signals_raise, this_command
from satx.errors import Interrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stoppable() -> Iterator[None]:
    """Acknowledge a stop signal at once, and end the work with `Interrupted`.

    Raises:
        Interrupted: A stop signal arrived; its message has the command that continues.
    """
    with stop_signals_raise(), _acknowledged():
        try:
            yield
        except KeyboardInterrupt as error:
            raise Interrupted(stopped()) from error


def stopped(note: str = "") -> str:
    """Return the last message of a stopped command: what is kept, `note`, and the command that continues."""
    return " ".join(filter(None, ("Stopped. Finished work is kept.", note, f"To continue:\n  {this_command()}")))


@contextmanager
def _acknowledged() -> Iterator[None]:
    """Print a line as soon as the first stop signal arrives.

    Python calls the handler of a signal in the main thread, between two instructions. While that thread computes in a
    library or waits for a lock of the database, the handler waits too. So a thread prints the line: Python writes the
    number of a signal to its socket when the signal arrives.
    """
    arrives, sends = socket.socketpair()
    sends.setblocking(False)
    before = signal.set_wakeup_fd(sends.fileno(), warn_on_full_buffer=False)

    def listen() -> None:
        while numbers := arrives.recv(1):
            if numbers[0] in STOP_SIGNALS:
                with contextlib.suppress(OSError):  # SIGHUP: the terminal is gone
                    out.print("Stopping …", highlight=False)
                return

    listener = threading.Thread(target=listen, name="satx-stopping", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        sends.close()  # ends the thread
        listener.join()
        arrives.close()
