"""A time limit for a whole call, whatever it waits for."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Returned = TypeVar("Returned")


def within(seconds: float, call: Callable[[], Returned]) -> Returned:
    """Return what a call returns, or raise an error if it takes longer than `seconds`.

    Network libraries limit each wait for bytes, and a server that sends one byte a second never exceeds that limit. The
    call runs in a thread. A call that takes too long continues there, but does not keep the process alive.

    Raises:
        TimeoutError: The call did not return in time.
    """
    outcome: Future[Returned] = Future()
    arguments = (outcome, contextvars.copy_context(), call)
    threading.Thread(target=_work, args=arguments, name="satx-within", daemon=True).start()
    del arguments
    try:
        return outcome.result(seconds)
    except TimeoutError as error:
        if outcome.done():  # the call's own error
            raise
        raise TimeoutError(f"no complete answer within {seconds:g} seconds") from error
    finally:
        del outcome  # an error refers to this frame; with the outcome in it, sockets would stay open until a collection


def _work(outcome: Future[Returned], context: contextvars.Context, call: Callable[[], Returned]) -> None:
    try:
        outcome.set_result(context.run(call))
    except BaseException as error:  # raised again in the caller's thread
        outcome.set_exception(error)
    finally:
        del outcome
