"""Upload and download of folders in S3, complete or not at all, verified by SHA-256.

`put_files` uploads the manifest after all other files, so a folder with a manifest is complete. The manifest lists
every file with its SHA-256. The digest of the manifest itself comes from elsewhere (the study), so a download detects
any changed bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from satx.errors import DataError, TrackerUnavailable
from satx.storage import file_digest, replacing

Client = Any  # a boto3 client; boto3 creates its client classes at run time
MANIFEST = "satx-manifest.json"
MISSING = ("404", "NoSuchKey", "NotFound")
# for commands that somebody waits for; by default a host that does not answer holds a request for five minutes
BRIEF = Config(connect_timeout=5, read_timeout=8, retries={"total_max_attempts": 3, "mode": "standard"})
WORKER_REMEDY = (
    "Check the bucket's name, its region and the role's permissions (infra/iam/worker.json), and repeat the command."
)
OnProgress = Callable[[int, int], None]


def _silent(_done: int, _total: int) -> None:
    """Report no progress."""


def put_folder(s3: Client, uri: str, folder: Path, *, on_progress: OnProgress = _silent) -> str:
    """Upload a folder to S3 with `put_files`, without temporary and lock files."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    lasting = {name: path for name, path in paths.items() if not _is_temporary(Path(name))}
    return put_files(s3, uri, lasting, on_progress=on_progress)


def put_files(s3: Client, uri: str, files: dict[str, Path], *, on_progress: OnProgress = _silent) -> str:
    """Upload files to S3 as one folder, unless it is there already.

    Args:
        s3: The client.
        uri: Where to put the folder: `s3://bucket/prefix/name`.
        files: Local paths by their names in that folder.
        on_progress: Called with the number of files uploaded and the number of all files.

    Returns:
        The manifest's SHA-256.

    Raises:
        TrackerUnavailable: S3 rejects the request or cannot be reached.
    """
    entries = {name: file_digest(path) for name, path in files.items()}
    text = json.dumps(entries, indent=2, sort_keys=True).encode()
    digest = hashlib.sha256(text).hexdigest()
    bucket, prefix = _parts(uri)
    with reachable(uri):
        if _manifest(s3, bucket, prefix) == text:
            return digest
        for number, (name, path) in enumerate(files.items()):
            on_progress(number, len(files))
            s3.upload_file(str(path), bucket, f"{prefix}/{name}")
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{MANIFEST}", Body=text)
    on_progress(len(files), len(files))
    return digest


def get_folder(s3: Client, uri: str, folder: Path, digest: str, *, on_progress: OnProgress = _silent) -> None:
    """Download a folder from S3; the local folder appears complete, or not at all.

    Args:
        s3: The client.
        uri: Where `put_folder` put the folder.
        folder: The local folder to create.
        digest: The manifest's SHA-256, as `put_folder` returned it.
        on_progress: Called with the number of files downloaded and the number of all files.

    Raises:
        DataError: The folder is not there, its bytes differ from those that were uploaded, or a name in its manifest leads
            out of it.
        TrackerUnavailable: S3 rejects the request or cannot be reached.
    """
    bucket, prefix = _parts(uri)
    with reachable(uri):
        text = _manifest(s3, bucket, prefix)
        if text is None or hashlib.sha256(text).hexdigest() != digest:
            raise DataError(
                f"{uri}: expected the folder with manifest {digest[:12]}…, found {'another' if text else 'none'}. Run the "
                f"sweep's command again on the machine with its data; it uploads what is missing."
            )
        entries = _entries(text, uri)
        with replacing(folder) as temporary:
            for number, (name, wanted) in enumerate(entries.items()):
                on_progress(number, len(entries))
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file(bucket, f"{prefix}/{name}", str(path))
                found = file_digest(path)
                if found != wanted:
                    raise DataError(
                        f"{uri}/{name}: expected SHA-256 {wanted[:12]}…, got {found[:12]}…. Upload the folder again."
                    )
    on_progress(len(entries), len(entries))


def remove_folder(s3: Client, uri: str) -> None:
    """Delete a folder, its manifest first, so that no process starts to download it while it is being deleted.

    Raises:
        TrackerUnavailable: S3 rejects the request or cannot be reached.
    """
    bucket, prefix = _parts(uri)
    with reachable(uri):
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


def _entries(text: bytes, uri: str) -> dict[str, str]:
    """Return the digests of a manifest by file name; raise an error if a name leads out of the folder."""
    entries: dict[str, str] = json.loads(text)
    for name in entries:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.name:
            raise DataError(
                f"{uri}: expected names of files inside the folder, got {name[:200]!r}. Upload the folder again."
            )
    return entries


def _parts(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix


def _is_temporary(relative: Path) -> bool:
    return relative.suffix == ".lock" or any(part.startswith(".") for part in relative.parts)


@contextmanager
def reachable(uri: str, remedy: str = WORKER_REMEDY) -> Iterator[None]:
    """Convert errors of requests to S3.

    Args:
        uri: What is read or written, for the message.
        remedy: What to do, in sentences.

    Raises:
        TrackerUnavailable: S3 rejects a request or cannot be reached.
    """
    try:
        yield
    except (ClientError, BotoCoreError, Boto3Error) as error:  # Boto3Error: a failed transfer
        raise TrackerUnavailable(
            f"{uri}: S3 rejected the transfer or could not be reached ({error}). {remedy}"
        ) from error
