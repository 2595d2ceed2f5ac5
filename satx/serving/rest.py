"""TensorFlow Serving's REST interface over models in memory, as a Starlette application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

from satx.serving.access_log import Access, log_access
from satx.serving.contract import Models, Observe, Servable, ServingError, signature_of
from satx.serving.json_request import PredictRequest, parse_json, read_predict, signature_name_of
from satx.serving.json_response import format_error, format_predict
from satx.serving.json_tensor import json_text
from satx.serving.metadata import format_metadata, format_statuses
from satx.serving.request_body import LOOP_BYTES, Body, ClientGone, Memory, inflated
from satx.serving.routes import PREFIX, Call, parse_route
from satx.serving.settings import RestSettings

JSON = b"application/json"
METRICS_PATH = "/monitoring/prometheus/metrics"
METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
NOT_FOUND_PAGE = (  # of libevent, which TensorFlow Serving's HTTP server is built on
    b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
)
REQUEST_TIMEOUT = 408
CLIENT_CLOSED_REQUEST = 499  # nginx's status for a client that did not wait

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """A response: its status, the type of its content, and the content."""

    status: int
    content_type: bytes
    content: bytes
    retry_after_seconds: int | None = None


STOPPED = Answer(
    503,
    JSON,
    format_error("The server stopped before the request was answered. Try again later."),
    retry_after_seconds=1,
)


def create_app(
    models: Models,
    *,
    observe: Observe | None = None,
    metrics_page: Callable[[], bytes] | None = None,
    settings: RestSettings | None = None,
    memory: Memory | None = None,
) -> Starlette:
    """Return an application that answers as TensorFlow Serving's REST interface does.

    Args:
        models: What is served.
        observe: Called after each request with the name of the model (empty if none answered), the HTTP status and seconds.
        metrics_page: Returns Prometheus's text at TensorFlow Serving's path; without it the path is unknown.
        settings: Limits.
        memory: What all requests hold, if another interface shares it; else its limit is `settings.max_held_bytes`.
    """
    settings = settings or RestSettings()
    app = Starlette()
    # All paths: a route's pattern would not match those with line breaks.
    app.router.default = _RestApi(models, observe, metrics_page, settings, memory or Memory(settings.max_held_bytes))
    return app


class _RestApi:
    """The interface as an ASGI application."""

    def __init__(
        self,
        models: Models,
        observe: Observe | None,
        metrics_page: Callable[[], bytes] | None,
        settings: RestSettings,
        memory: Memory,
    ) -> None:
        self.models = models
        self.observe = observe
        self.metrics_page = metrics_page
        self.settings = settings
        self.memory = memory
        self.turn = asyncio.Lock()  # of the large body that is being read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        started = time.perf_counter()
        headers = dict(scope["headers"])
        access = Access(scope["method"], _target(scope))
        body = Body(receive, headers, self.settings, self.memory)
        try:
            answer = await self._answer(body, headers, access)
            access.status = answer.status
            # A slow client is not waited for again.
            await _send(answer, body, send, lingers=answer.status != REQUEST_TIMEOUT)
        except ClientGone:
            access.status = CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            if access.status:  # the response has begun
                raise
            access.status = STOPPED.status
            await _send(STOPPED, body, send, lingers=False)
        finally:
            body.release()
            access.seconds = time.perf_counter() - started
            access.bytes_in = body.num_bytes
            log_access(access)
            if self.observe is not None:
                self.observe(access.model, access.status, access.seconds)

    async def _answer(self, body: Body, headers: Mapping[bytes, bytes], access: Access) -> Answer:
        """Return the response to a request; whatever goes wrong is one, too."""
        try:
            await body.read()
            if access.path == METRICS_PATH and self.metrics_page is not None:
                return Answer(200, METRICS_TYPE, self.metrics_page())
            if not PREFIX.fullmatch(access.path):
                return Answer(404, b"text/html", NOT_FOUND_PAGE)
            if access.method == "OPTIONS":  # a browser's question whether another site's page may ask: no CORS headers
                return Answer(200 if b"origin" in headers else 400, JSON, b"")
            call = parse_route(access.method, access.path)
            return Answer(200, JSON, await self._process(call, body, access))
        except ServingError as error:
            return Answer(error.status, JSON, format_error(error.message), error.retry_after_seconds)
        except ClientGone:
            raise
        except Exception:  # the client gets an answer whatever went wrong, and the log the traceback
            logger.exception("A request could not be answered: %s %r", access.method, access.path)
            return Answer(
                500, JSON, format_error("An unexpected error occurred. Its traceback is in the server's log.")
            )

    async def _process(self, call: Call, body: Body, access: Access) -> bytes:
        if call.verb == "status":
            statuses = self.models.statuses(call.model, version=call.version)
            access.model = call.model
            return format_statuses(statuses)
        if call.verb == "metadata":
            return format_metadata(self._find(call, access))
        if call.verb == "predict":
            servable, request = await self._read_predict(call, body, access)
            return await self._predict(servable, request, body)
        document = await self._document(body)
        name = signature_name_of(document)
        _require_examples(document)
        raise _not_served(call.verb, signature_of(self._find(call, access), name).method_name)

    async def _read_predict(self, call: Call, body: Body, access: Access) -> tuple[Servable, PredictRequest]:
        """Return the model that is called, and the request, which is all of the body that stays in memory."""
        document = await self._document(body)
        signature_name_of(document)  # errors of the body come before those of the model, as in TensorFlow Serving
        servable = self._find(call, access)
        request = await self._in_turn(body, read_predict, document, servable)
        access.rows = request.rows
        return servable, request

    async def _document(self, body: Body) -> dict[str, Any]:
        content = body.take()
        if body.is_gzip:
            content = await self._in_turn(body, inflated, content, limit_bytes=self.settings.max_inflated_bytes)
            body.hold(len(content))
        return await self._in_turn(body, parse_json, content)

    async def _in_turn(
        self,
        body: Body,
        function: Callable[_Parameters, _Result],
        *arguments: _Parameters.args,
        **options: _Parameters.kwargs,
    ) -> _Result:
        """Call a function that reads a body: in a thread if it may take long, and one at a time to bound the memory."""
        if not body.is_gzip and body.num_bytes <= LOOP_BYTES:
            return function(*arguments, **options)
        async with self.turn:
            return await asyncio.to_thread(function, *arguments, **options)

    def _find(self, call: Call, access: Access) -> Servable:
        servable = self.models.find(call.model, version=call.version, label=call.label)
        access.model, access.version = servable.model, servable.version
        return servable

    async def _predict(self, servable: Servable, request: PredictRequest, body: Body) -> bytes:
        prediction = self.models.predict(servable, request.signature_name, request.inputs)
        outputs = await _unless_gone(prediction, body)
        signature = servable.signatures[request.signature_name]
        return format_predict(outputs, row_format=request.row_format, signature=signature)


async def _unless_gone(prediction: Coroutine[Any, Any, _Result], body: Body) -> _Result:
    """Return what a prediction returns, but cancel it once the client no longer waits for it.

    Raises:
        ClientGone: The client closed the connection first.
    """
    predicting, leaving = asyncio.ensure_future(prediction), asyncio.ensure_future(body.client_gone())
    try:
        await asyncio.wait((predicting, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not predicting.done():
            raise ClientGone
        return predicting.result()
    finally:
        predicting.cancel()
        leaving.cancel()
        await asyncio.gather(predicting, leaving, return_exceptions=True)


def _target(scope: Scope) -> str:
    """Return the path and query as the client sent them."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("ascii", errors="backslashreplace")


def _require_examples(document: Mapping[str, Any]) -> None:
    """Refuse a request to `:classify` or `:regress` without a list of examples."""
    examples = document.get("examples")
    problem = (
        "When method is classify, key 'examples' is expected and was not found"
        if "examples" not in document
        else "Expecting 'examples' value to be an list/array"
        if not isinstance(examples, list)
        else "'examples' value is an empty array"
        if not examples
        else None
    )
    if problem:
        raise ServingError(400, f"JSON Value: {json_text(document)} {problem}")


def _not_served(verb: str, method_name: str) -> ServingError:
    kind = {"classify": "classification", "regress": "regression"}[verb]
    if method_name != f"tensorflow/serving/{verb}":
        return ServingError(
            400, f"Expected {kind} signature method_name to be tensorflow/serving/{verb}. Was: {method_name}"
        )
    return ServingError(501, f"Expected a request to :predict, got one to :{verb}, which satx does not serve.")


async def _send(answer: Answer, body: Body, send: Send, *, lingers: bool) -> None:
    """Send a response; with `lingers`, wait for the rest of a body that was refused before it was complete."""
    lingers = lingers and not body.is_complete
    headers = [
        (b"content-type", answer.content_type),
        (b"content-length", str(len(answer.content)).encode()),
    ]
    if answer.retry_after_seconds is not None:
        headers.append((b"retry-after", str(answer.retry_after_seconds).encode()))
    if not body.is_complete:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content, "more_body": lingers})
    if lingers:
        await body.discard_rest()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
