"""The access log: a line of JSON for each request, without the images in it."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass

MAX_PATH_CHARS = 200

logger = logging.getLogger("satx.serving.access")


@dataclass
class Access:
    """One request, as the access log shows it.

    Attributes:
        method: The HTTP method.
        path: Path and query as the client sent them.
        status: HTTP status of the response; 499 if the client closed the connection before it, 503 if the
            server stopped.
        model: Name of the model that answered; empty if none did.
        version: Its version; 0 if none did.
        rows: Rows of the request, such as images.
        seconds: From the head of the request to the end of the response.
        bytes_in: Bytes of the body that were received.
    """

    method: str
    path: str
    status: int = 0
    model: str = ""
    version: int = 0
    rows: int = 0
    seconds: float = 0.0
    bytes_in: int = 0


def log_access(access: Access) -> None:
    """Write a line of JSON; control characters are escaped in it, and a long path is cut."""
    if logger.isEnabledFor(logging.INFO):
        values = asdict(access) | {"path": access.path[:MAX_PATH_CHARS], "seconds": round(access.seconds, 6)}
        logger.info(json.dumps(values))
