"""The files of a bulk prediction in S3. An upload is visible only when it is complete, so a file is whole or absent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import boto3
from botocore.exceptions import ClientError

from satx.bucket import BRIEF, MISSING, reachable
from satx.errors import ConfigError

REMEDY = "Finished blocks are kept. Check bucket, region and permissions, and repeat the command."


class S3Files:
    """The files under `s3://bucket/prefix`."""

    def __init__(self, uri: str) -> None:
        """Use a prefix; it need not have files.

        Raises:
            ConfigError: The URI names no bucket.
        """
        self.shown = uri.rstrip("/")
        self._bucket, _, self._prefix = self.shown.removeprefix("s3://").partition("/")
        if not self._bucket or not self._prefix:
            raise ConfigError(f"--out: expected s3://bucket/prefix, got {uri}. Name a bucket and a prefix.")
        with reachable(self.shown, REMEDY):
            self._s3: Any = boto3.client("s3", config=BRIEF)

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Write a local temporary file and upload it."""
        with TemporaryDirectory() as temporary, self._reachable(name):
            path = Path(temporary) / Path(name).name
            write(path)
            self._s3.upload_file(str(path), self._bucket, self._key(name))

    def get(self, name: str, read: Callable[[Path], Any]) -> Any:
        """Download a file and read it."""
        with TemporaryDirectory() as temporary, self._reachable(name):
            path = Path(temporary) / Path(name).name
            try:
                self._s3.download_file(self._bucket, self._key(name), str(path))
            except ClientError as error:
                if error.response["Error"]["Code"] in MISSING:
                    raise FileNotFoundError(f"{self.shown}/{name}") from error
                raise
            return read(path)

    def names(self, folder: str) -> set[str]:
        """Return the names of all files in a folder."""
        prefix = self._key(folder) + "/"
        with self._reachable(folder):
            pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            keys = [item["Key"].removeprefix(prefix) for page in pages for item in page.get("Contents", [])]
        return {key for key in keys if "/" not in key}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _reachable(self, name: str) -> AbstractContextManager[None]:
        return reachable(f"{self.shown}/{name}", REMEDY)
