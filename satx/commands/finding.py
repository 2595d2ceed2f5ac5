"""A finding of `satx doctor`, and how a check becomes one without ever hanging."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from satx.deadline import within
from satx.errors import SatxError

ANSWER_SECONDS = 4.0  # for a server's whole answer

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Finding:
    """Result of a check.

    Attributes:
        what: The thing checked.
        state: `ok`, `note` (it works, but could be better) or `broken`.
        found: What the check found.
        remedy: What to do; empty if there is nothing to do.
    """

    what: str
    state: str
    found: str
    remedy: str = ""


Check = Callable[[], Finding]


def checked(check: Check) -> Finding:
    """Run a check; an error in the check itself is a finding too."""
    try:
        return check()
    except SatxError as error:
        return Finding(name_of(check), "broken", "cannot be used", str(error))


def name_of(check: Check) -> str:
    """Return the name of the thing that a check looks at."""
    words = check.__name__.strip("_").replace("_", " ")
    return {
        "mlflow": "MLflow",
        "python": "Python",
        "aws credentials": "AWS credentials",
        "aws rights": "AWS rights",
    }.get(words, words)


def answer_of(ask: Callable[[], Answer], what: str, remedy: str, *, seconds: float | None = None) -> Answer:
    """Return what a server answers.

    Args:
        ask: The question.
        what: Name of the server, for the error message.
        remedy: What to do if it does not answer.
        seconds: How long to wait, if other than usual.

    Raises:
        SatxError: There was no answer in time. Errors of `ask` are raised as they are.
    """
    limit = ANSWER_SECONDS if seconds is None else seconds
    try:
        return within(limit, ask)
    except TimeoutError as error:
        raise SatxError(f"{what} does not answer within {limit:g} seconds. {remedy}") from error
