"""Tests of the running server, in this process: sockets, following of the configuration, and its end."""

import asyncio
import json
import os
import signal
import socket
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from satx.errors import ConfigError, Interrupted, WeightsError
from satx.inference.serving_files import ServedVersions, read_models_config
from satx.serving.batcher import Limits
from satx.serving.following import versions_of_export
from satx.serving.server import Address, serve
from serving.running_server import Gate, Running, b64, drive
from serving.small_exports import coloured, write_config


async def predicted(channel: grpc.aio.Channel, x: float, *, seconds: float = 60.0) -> list[float]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "numbers"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.array([x], np.float32)))
    response = await prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=seconds)
    answer: list[float] = tf.make_ndarray(response.outputs["y"]).tolist()
    return answer


def test_it_answers_rest_requests_and_its_metrics_and_stops_on_sigterm(config: Path) -> None:
    async def test(server: Running) -> None:
        assert server.serving.versions == {"numbers": [1], "colours": [7]}
        assert await server.predict("numbers", 3.0) == [3.0]
        probabilities = await server.predict("colours", b64(coloured(255)), b64(coloured(0, "WEBP")))
        assert np.allclose(probabilities, [[0.0, 1.0], [1.0, 0.0]], atol=0.01)
        status = (await server.client.get("/v1/models/numbers")).json()["model_version_status"]
        assert [(found["version"], found["state"]) for found in status] == [("1", "AVAILABLE")]
        response = await server.client.get("/monitoring/prometheus/metrics")
        assert 'satx_requests_total{model="numbers",status="200"} 2.0' in response.text
        assert "server" not in response.headers

    drive(partial(read_models_config, config), test)


def test_it_follows_its_configuration_under_load_and_no_request_fails(config: Path, exports: Path) -> None:
    async def test(server: Running) -> None:
        async def ask() -> None:
            while not over.is_set():
                answers.extend(await server.predict("numbers", 1.0))

        over = asyncio.Event()
        clients = [asyncio.create_task(ask()) for _ in range(4)]
        write_config(config, exports / "numbers", 1, 2, champion=1)
        await server.until("Serving numbers version 2.")
        write_config(config, exports / "numbers", 2, champion=2)
        await server.until("numbers version 1 is no longer served.")
        while 2.0 not in answers and not any(client.done() for client in clients):
            await asyncio.sleep(0.02)
        over.set()
        await asyncio.gather(*clients)
        assert await server.predict("numbers", 1.0) == [2.0]
        assert set(answers) == {1.0, 2.0}
        assert "numbers: label champion moved from version 1 to 2." in server.lines
        assert (await server.client.get("/v1/models/colours")).status_code == 404

    answers: list[float] = []
    drive(partial(read_models_config, config), test)


def test_a_configuration_that_cannot_be_read_changes_nothing_and_is_reported_once(config: Path, exports: Path) -> None:
    async def test(server: Running) -> None:
        config.write_text("model_config_list {")
        await server.until("Nothing changes: ")
        assert await server.predict("numbers", 1.0) == [1.0]
        write_config(config, exports / "numbers", 2, champion=2)
        await server.until("The configuration can be read again.")
        assert await server.predict("numbers", 1.0) == [2.0]
        assert sum("Nothing changes" in line for line in server.lines) == 1

    drive(partial(read_models_config, config), test)


def test_running_requests_are_answered_before_it_stops(config: Path) -> None:
    async def test(server: Running) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.serving.address.port)
        body = json.dumps({"instances": [4.0]}).encode()
        head = f"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body[:5])
        await writer.drain()
        await asyncio.sleep(0.1)  # until the server has begun to read the request
        os.kill(os.getpid(), signal.SIGTERM)
        await server.until("Stopping: waiting for the running requests")
        writer.write(body[5:])
        answer = (await reader.read()).decode()
        assert answer.startswith("HTTP/1.1 200") and '"predictions": [4.0]' in answer
        writer.close()
        await server.task

    drive(partial(read_models_config, config), test)


def test_both_interfaces_refuse_new_requests_as_soon_as_it_stops_and_answer_those_that_run(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            with gate.closed():
                rest = asyncio.create_task(server.predict("numbers", 4.0))
                running = asyncio.create_task(predicted(channel, 5.0))
                await gate.reached()
                os.kill(os.getpid(), signal.SIGTERM)
                await server.until("Stopping: waiting for the running requests")
                await asyncio.sleep(0.1)
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await predicted(channel, 6.0, seconds=20.0)
                assert refused.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                assert not rest.done()
                gate.may_go_on.set()
                assert await rest == [4.0] and await running == [5.0]
        await server.task

    drive(partial(read_models_config, config), test)


def test_a_second_stop_signal_does_not_wait_for_running_requests_of_grpc(
    config: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(monkeypatch)

    async def test(server: Running) -> None:
        async with grpc.aio.insecure_channel(server.grpc_address) as channel:
            with gate.closed():
                running = asyncio.create_task(predicted(channel, 5.0))
                await gate.reached()
                os.kill(os.getpid(), signal.SIGTERM)
                await server.until("Stopping")
                await asyncio.sleep(0.3)  # until only gRPC is waited for
                os.kill(os.getpid(), signal.SIGTERM)
                with pytest.raises(Interrupted):
                    await asyncio.wait_for(server.task, 60)
                with pytest.raises(grpc.aio.AioRpcError):
                    await running

    with pytest.raises(Interrupted):
        drive(partial(read_models_config, config), test, limits=Limits(deadline_seconds=3600.0))
    assert "Traceback" not in caplog.text


def test_a_hangup_that_is_ignored_as_nohup_does_stays_ignored(config: Path) -> None:
    async def test(server: Running) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.sleep(0.1)
        assert await server.predict("numbers", 4.0) == [4.0]
        assert not server.lines or "Stopping" not in server.lines[-1]

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        drive(partial(read_models_config, config), test)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_stop_signal_does_not_wait_for_running_requests(
    config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(server: Running) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", server.serving.address.port)
        writer.write(b"POST /v1/models/numbers:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await asyncio.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)
        await server.until("Stopping")
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            await server.task
        writer.close()

    with pytest.raises(Interrupted):
        drive(partial(read_models_config, config), test)
    assert "Traceback" not in caplog.text


def test_a_busy_port_is_reported_before_anything_is_loaded(config: Path) -> None:
    lines: list[str] = []
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        with pytest.raises(ConfigError, match=f"free port on 127.0.0.1, got {port}"):
            asyncio.run(
                serve(
                    partial(read_models_config, config),
                    Address(port=port),
                    follows=True,
                    report=lines.append,
                    on_ready=lambda _serving: None,
                )
            )
    assert not lines


def test_it_does_not_start_without_a_version_that_can_be_loaded(tmp_path: Path) -> None:
    path = write_config(tmp_path / "models.config", tmp_path / "numbers", 1)
    with pytest.raises(WeightsError, match="expected an export written by satx"):
        drive(partial(read_models_config, path), lambda _server: asyncio.sleep(0))


def test_a_single_export_is_served_as_its_manifest_names_it(exports: Path, tmp_path: Path) -> None:
    assert versions_of_export(exports / "colours" / "7") == {"colours": ServedVersions(exports / "colours", (7,), {})}
    renamed = tmp_path / "seven"
    renamed.symlink_to(exports / "colours" / "7")
    with pytest.raises(ConfigError, match="has its version 7 as name, got seven"):
        versions_of_export(renamed)
