"""The server that the conformance cases are sent to: `--conformance-url`, or `satx serve` on models written here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from projects import shared_folder

from inference.conformance.fixtures import shared_models
from inference.conformance.server import running_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--conformance-url",
        default=None,
        help="base URL of a server with the models of inference.conformance.fixtures; by default satx serve is started",
    )


@dataclass(frozen=True)
class Endpoint:
    """The server under test.

    Attributes:
        url: Its base URL.
        is_ours: Whether it is the `satx serve` that these tests started, rather than a server that was there.
    """

    url: str
    is_ours: bool


@pytest.fixture(scope="session")
def endpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    url = request.config.getoption("--conformance-url", default=None)
    if url:
        yield Endpoint(url.rstrip("/"), is_ours=False)
        return
    models = shared_models(shared_folder(tmp_path_factory.getbasetemp()) / "conformance")
    with running_server(models, tmp_path_factory.mktemp("server")) as server:
        yield Endpoint(server.url, is_ours=True)
