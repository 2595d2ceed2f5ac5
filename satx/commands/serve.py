"""`satx serve`: answer TensorFlow Serving's REST and gRPC requests with exported models, until Ctrl-C."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from satx.commands.console import banner, out
from satx.errors import ConfigError
from satx.inference.serving_files import MODELS_CONFIG_NAME, read_models_config
from satx.serving.access_log import logger
from satx.serving.following import Read, versions_of_export
from satx.serving.server import Address, Serving, serve
from satx.storage import home_in_use, satx_home


def serve_command(
    *, export: Path | None, models_config: Path | None, address: Address, access_log: bool = False
) -> None:
    """Serve models until Ctrl-C or SIGTERM, which let the running requests finish.

    Args:
        export: Folder of the only version to serve.
        models_config: File that says what to serve, and is followed. Default: the home's, which promotions write.
        address: Where to listen.
        access_log: Whether to print a line of JSON on standard error for each request.

    Raises:
        ConfigError: There is no such file or folder, both are given, or a port cannot be bound.
        WeightsError: No version could be loaded.
        Interrupted: Stopped by a second Ctrl-C.
    """
    if access_log:
        _print_access_log()
    if not is_loopback(address.host):
        banner(
            f"{address.host} is not this machine's loopback address, and satx serve has no authentication: everybody who "
            f"reaches port {address.port} can use the models. Put it behind a proxy that asks for passwords, or a firewall.",
            title="No authentication",
        )
    with ExitStack() as stack:
        if export is None and models_config is None:
            stack.enter_context(home_in_use("serve"))
        read = _source(export, models_config)
        say = partial(out.print, highlight=False)
        asyncio.run(serve(read, address, follows=export is None, report=say, on_ready=_print_ready))
    say("Stopped.")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a host, such as `localhost` or `127.0.0.1`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _source(export: Path | None, models_config: Path | None) -> Read:
    if export is not None and models_config is not None:
        raise ConfigError("Expected --export or --models-config, got both. Leave one of them out.")
    if export is not None:
        if not export.is_dir():
            raise ConfigError(
                f"--export: expected the folder of an export, got {export}, which is none. `satx show` prints the champion's."
            )
        return partial(versions_of_export, export)
    if models_config is not None:
        if not models_config.is_file():
            raise ConfigError(f"--models-config: expected a file, got {models_config}. Correct the path.")
        return partial(read_models_config, models_config)
    path = satx_home() / "exports" / MODELS_CONFIG_NAME
    if not path.is_file():
        raise ConfigError(
            f"Expected a champion to serve, found none in {path.parent}. Promote a run, which then is served:\n"
            f"  satx promote --run-id RUN\nor serve one export without a champion: `satx serve --export DIR`."
        )
    return partial(read_models_config, path)


def _print_ready(serving: Serving) -> None:
    """Print where the server answers, and a request that can be copied."""
    address = serving.address
    host = f"[{address.host}]" if ":" in address.host else address.host
    for model, (version, *others) in serving.versions.items():
        also = f" (also {', '.join(map(str, others))})" if others else ""
        url = f"http://{host}:{address.port}/v1/models/{model}"
        out.print(f"{model} version {version}{also}: {url}", highlight=False, soft_wrap=True)
    if address.grpc_port is not None:
        out.print(f"gRPC: {host}:{address.grpc_port}", highlight=False)
    example = (
        f"""(printf '{{"instances":[{{"image_bytes":{{"b64":"'; base64 < tile.jpg | tr -d '\\n'; printf '"}}}}]}}') | """
        f"curl --data-binary @- {url}:predict"
    )
    out.print(f"\nTry it with a tile of yours:\n  {example}", highlight=False, soft_wrap=True)
    out.print("Ctrl-C stops it.", highlight=False)


def _print_access_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
