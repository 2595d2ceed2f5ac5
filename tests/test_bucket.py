"""Tests of folders in S3: complete or absent, and downloaded with the uploaded bytes."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from slow_servers import slow_server

from satx.bucket import BRIEF, MANIFEST, get_folder, put_folder, remove_folder
from satx.errors import DataError, TrackerUnavailable

URI = "s3://satx-test/fleet/tiles"


@pytest.fixture
def s3(clients: Any) -> Any:
    client = clients("s3")
    client.create_bucket(Bucket="satx-test")
    return client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tiles"
    (made / "deep").mkdir(parents=True)
    (made / "pixels.npy").write_bytes(b"pixels" * 1000)
    (made / "deep" / "index.json").write_text("{}")
    (made / "pixels.npy.lock").write_text("")
    (made / ".half").write_text("no")
    return made


def keys(s3: Any) -> set[str]:
    return {item["Key"] for item in s3.list_objects_v2(Bucket="satx-test").get("Contents", [])}


def test_a_folder_is_downloaded_as_uploaded_without_temporary_and_lock_files(
    s3: Any, folder: Path, tmp_path: Path
) -> None:
    calls: list[tuple[int, int]] = []
    digest = put_folder(s3, URI, folder, on_progress=lambda *call: calls.append(call))
    assert calls == [(0, 2), (1, 2), (2, 2)]
    manifest = s3.get_object(Bucket="satx-test", Key=f"{URI.removeprefix('s3://satx-test/')}/{MANIFEST}")["Body"].read()
    assert hashlib.sha256(manifest).hexdigest() == digest
    get_folder(s3, URI, tmp_path / "back", digest)
    found = {str(path.relative_to(tmp_path / "back")): path.read_bytes() for path in (tmp_path / "back").rglob("*.*")}
    assert found == {"pixels.npy": b"pixels" * 1000, "deep/index.json": b"{}"}


def test_an_unchanged_folder_is_not_uploaded_again_and_a_changed_one_is(s3: Any, folder: Path) -> None:
    digest = put_folder(s3, URI, folder)
    sent: list[str] = []
    s3.meta.events.register("before-send.s3.PutObject", lambda request, **_: sent.append(request.url))
    assert put_folder(s3, URI, folder) == digest
    assert sent == []
    (folder / "pixels.npy").write_bytes(b"others")
    assert put_folder(s3, URI, folder) != digest
    assert len(sent) == 3


def test_a_refused_transfer_is_one_clear_error(s3: Any, folder: Path) -> None:
    """boto3 raises a different exception for transfers than for other requests."""

    def refused(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    s3.meta.events.register("before-send.s3.PutObject", refused)
    with pytest.raises(TrackerUnavailable) as error:
        put_folder(s3, URI, folder)
    assert URI in str(error.value) and "AccessDenied" in str(error.value)


KILLED = """
import os, signal, sys
from pathlib import Path
import boto3
from satx.bucket import MANIFEST, put_folder
s3 = boto3.Session(region_name="us-east-1").client("s3")
def kill(request, **_):
    if MANIFEST in request.url:
        os.kill(os.getpid(), signal.SIGKILL)
s3.meta.events.register("before-send.s3.PutObject", kill)
put_folder(s3, sys.argv[1], Path(sys.argv[2]))
"""


def test_a_folder_whose_upload_was_killed_before_the_manifest_is_absent(s3: Any, folder: Path, tmp_path: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, URI, folder], capture_output=True, text=True, timeout=120)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(keys(s3)) == 2, "its files were uploaded"
    assert not [key for key in keys(s3) if MANIFEST in key]
    with pytest.raises(DataError, match=f"^{URI}: .*{'0' * 12}"):
        get_folder(s3, URI, tmp_path / "back", "0" * 64)
    assert not (tmp_path / "back").exists()


def test_a_download_with_changed_bytes_is_refused(s3: Any, folder: Path, tmp_path: Path) -> None:
    digest = put_folder(s3, URI, folder)
    s3.put_object(Bucket="satx-test", Key="fleet/tiles/pixels.npy", Body=b"evil")
    with pytest.raises(DataError) as error:
        get_folder(s3, URI, tmp_path / "back", digest)
    assert f"{URI}/pixels.npy" in str(error.value) and hashlib.sha256(b"evil").hexdigest()[:12] in str(error.value)
    s3.put_object(Bucket="satx-test", Key=f"fleet/tiles/{MANIFEST}", Body=b"{}")
    with pytest.raises(DataError) as error:
        get_folder(s3, URI, tmp_path / "back", digest)
    assert digest[:12] in str(error.value)
    assert not (tmp_path / "back").exists()


def test_a_removed_folder_is_gone(s3: Any, folder: Path) -> None:
    put_folder(s3, URI, folder)
    remove_folder(s3, URI)
    assert keys(s3) == set()
    remove_folder(s3, URI)


def test_a_missing_bucket_is_one_clear_error(s3: Any, folder: Path) -> None:
    with pytest.raises(TrackerUnavailable) as error:
        put_folder(s3, "s3://satx-nobodys/x", folder)
    assert "s3://satx-nobodys/x" in str(error.value)


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "deep/../../outside", "a\\..\\b", "", "."])
def test_a_manifest_whose_names_lead_out_of_the_folder_is_refused(s3: Any, tmp_path: Path, name: str) -> None:
    text = json.dumps({name: "0" * 64}).encode()
    s3.put_object(Bucket="satx-test", Key=f"fleet/tiles/{MANIFEST}", Body=text)
    with pytest.raises(DataError, match="inside the folder"):
        get_folder(s3, URI, tmp_path / "deep" / "back", hashlib.sha256(text).hexdigest())
    assert list(tmp_path.rglob("*")) == []


def test_a_command_waits_seconds_for_a_host_that_is_silent(
    aws_session: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BRIEF.connect_timeout * BRIEF.retries["total_max_attempts"] < 30
    assert BRIEF.read_timeout * BRIEF.retries["total_max_attempts"] < 30
    with slow_server("silent") as uri:
        monkeypatch.setenv("AWS_ENDPOINT_URL", uri)
        client = aws_session.client("s3", config=BRIEF.merge(Config(read_timeout=0.2)))
        with pytest.raises(TrackerUnavailable) as caught:
            put_folder(client, URI, folder)
    assert URI in str(caught.value) and uri in str(caught.value)
