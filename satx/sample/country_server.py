"""A tile server on this machine that renders a country's tiles as they are asked for."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import lru_cache

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from satx.errors import ConfigError
from satx.sample.country import Country
from satx.sample.country_files import encoded_tile

HOST = "127.0.0.1"
TILE_ROUTE = "/{z:int}/{x:int}/{y:int}.jpg"

_KEPT_TILES = 2048  # about 50 MB of JPEG


def country_app(country: Country) -> Starlette:
    """Return the application: `/{z}/{x}/{y}.jpg`, 404 outside of the country or its zoom."""
    rendering = threading.Lock()  # two at once would draw the same land twice and be no faster

    @lru_cache(maxsize=_KEPT_TILES)
    def kept(x: int, y: int) -> bytes:
        with rendering:
            return encoded_tile(country, x, y)

    def tile(request: Request) -> Response:
        z, x, y = (request.path_params[name] for name in "zxy")
        if z != country.zoom or not country.contains(x, y):
            return PlainTextResponse(f"No tile {z}/{x}/{y} in this country.", status_code=404)
        return Response(kept(x, y), media_type="image/jpeg")

    return Starlette(routes=[Route(TILE_ROUTE, tile)])


def serve_country(country: Country, port: int, *, on_ready: Callable[[str], None] = lambda template: None) -> None:
    """Serve a country's tiles until SIGINT or SIGTERM.

    Args:
        country: What to serve.
        port: Port on 127.0.0.1; 0 takes a free one.
        on_ready: Called with the template of the tiles' addresses, once requests are accepted.

    Raises:
        ConfigError: The port cannot be bound.
    """
    config = uvicorn.Config(country_app(country), log_level="warning", access_log=False, lifespan="off", ws="none")
    with contextlib.closing(socket.socket()) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"Expected a free port on {HOST}, got {port}: {error}. Stop the program that uses it, or choose another port."
            ) from error
        listening.listen()
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/{{z}}/{{x}}/{{y}}.jpg")
        uvicorn.Server(config).run(sockets=[listening])
