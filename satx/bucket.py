"""Folders in S3: whole or not at all, and never other bytes than were put there.

A folder's files go first and its manifest last, so what has a manifest is complete. The manifest names every file with its
SHA-256; whoever fetches the folder knows the manifest's own digest from elsewhere (the study), so nothing that was changed
on the way is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from satx.errors import DataError, TrackerUnavailable
from satx.storage import file_digest, replacing

Client = Any  # of boto3, which makes its clients at run time
MANIFEST = "satx-manifest.json"
MISSING = ("404", "NoSuchKey", "NotFound")
OnProgress = Callable[[int, int], None]


def _silent(_done: int, _total: int) -> None:
    """Tell nobody."""


def put_folder(s3: Client, uri: str, folder: Path, *, on_progress: OnProgress = _silent) -> str:
    """Copy a folder to S3, as `put_files` does; temporary files and locks are left out."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    lasting = {name: path for name, path in paths.items() if not _is_passing(Path(name))}
    return put_files(s3, uri, lasting, on_progress=on_progress)


def put_files(s3: Client, uri: str, files: dict[str, Path], *, on_progress: OnProgress = _silent) -> str:
    """Copy files to S3 as one folder, unless it is there already.

    Args:
        s3: The client.
        uri: `s3://bucket/prefix/name`.
        files: By their names in that folder.
        on_progress: Told how many files of how many are there.

    Returns:
        The manifest's SHA-256.

    Raises:
        TrackerUnavailable: S3 refuses or cannot be reached.
    """
    entries = {name: file_digest(path) for name, path in files.items()}
    text = json.dumps(entries, indent=2, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    bucket, prefix = _parts(uri)
    with _reachable(uri):
        if _manifest(s3, bucket, prefix) == text:
            return digest
        for number, (name, path) in enumerate(files.items()):
            on_progress(number, len(files))
            s3.upload_file(str(path), bucket, f"{prefix}/{name}")
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST}", Body=text)
    on_progress(len(files), len(files))
    return digest


def get_folder(s3: Client, uri: str, folder: Path, digest: str, *, on_progress: OnProgress = _silent) -> None:
    """Fetch a folder from S3; it appears whole, or not at all.

    Args:
        s3: The client.
        uri: Where `put_folder` put it.
        folder: Where it is to be.
        digest: What `put_folder` returned.
        on_progress: Told how many files of how many are there.

    Raises:
        DataError: It is not there, or its bytes are not those that were put.
        TrackerUnavailable: S3 refuses or cannot be reached.
    """
    bucket, prefix = _parts(uri)
    with _reachable(uri):
        text = _manifest(s3, bucket, prefix)
        if text is None or hashlib.sha256(text).hexdigest() != digest:
            raise DataError(
                f"{uri}: expected the folder with manifest {digest[:12]}…, found {'another' if text else 'none'}. Run the "
                f"sweep's command again where its data is; it puts there what is missing."
            )
        entries: dict[str, str] = json.loads(text)
        with replacing(folder) as temporary:
            for number, (name, wanted) in enumerate(entries.items()):
                on_progress(number, len(entries))
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, f"{prefix}/{name}", str(path))
                if file_digest(path) != wanted:
                    raise DataError(
                        f"{uri}/{name}: expected SHA-256 {wanted[:12]}…, got other bytes. Put the folder there anew."
                    )
    on_progress(len(entries), len(entries))


def remove_folder(s3: Client, uri: str) -> None:
    """Delete a folder, its manifest first, so that nobody begins to fetch what is going.

    Raises:
        TrackerUnavailable: S3 refuses or cannot be reached.
    """
    bucket, prefix = _parts(uri)
    with _reachable(uri):
        s3.delete_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST}")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
            keys = [{"Key": item["Key"]} for item in page.get("Contents", [])]
            if keys:
                s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


def _manifest(s3: Client, bucket: str, prefix: str) -> bytes | None:
    try:
        return bytes(s3.get_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST}")["Body"].read())
    except ClientError as error:
        if error.response["Error"]["Code"] in MISSING:
            return None
        raise


def _parts(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def _is_passing(relative: Path) -> bool:
    return relative.suffix == ".lock" or any(part.startswith(".") for part in relative.parts)


@contextmanager
def _reachable(uri: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError, Boto3Error) as error:  # the last is what a refused transfer becomes
        raise TrackerUnavailable(
            f"{uri}: S3 does not give or take it ({error}). Check the bucket's name, its region and the role's rights "
            f"(infra/iam/worker.json), and repeat the command."
        ) from error
