"""Small sources of imagery of every kind, all with the same tiles, and an S3 on loopback that answers as it is told."""

from __future__ import annotations

import io
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from satx.imagery.contract import Tile, Unscored
from satx.tiles.decode import decode_tile, pixel_digest

ZOOM, COLUMNS, ROWS, TILE_PX = 12, range(2100, 2104), range(1400, 1404), 32
HALF_WORLD_METERS = 20037508.342789244
ATTRIBUTION = '<a href="https://example.org">Aerial  &copy; Example</a>'
BUCKET = "satx-test"
Files = dict[tuple[int, int], bytes]  # the file of a tile by its column and row


def files_of_tiles(seed: int = 0) -> Files:
    """Return PNG files of noise for 4 x 4 tiles, in the order of their rows."""
    drawn = np.random.default_rng(seed)
    return {(x, y): png(drawn.integers(0, 256, (TILE_PX, TILE_PX, 3), np.uint8)) for y in ROWS for x in COLUMNS}


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, "PNG")
    return file.getvalue()


def tile_at(x: int, y: int, zoom: int = ZOOM, ending: str = ".png") -> Tile:
    """Return a tile whose id is its name in `folder_of`, too."""
    return Tile(f"{zoom}/{x}/{y}{ending}", zoom, x, y)


def shown(fetched: bytes | Unscored) -> str:
    """Return what can be compared: the digest of a tile's pixels, or its status."""
    return fetched.status if isinstance(fetched, Unscored) else pixel_digest(decode_tile(fetched, "tile").pixels)


def folder_of(files: Mapping[tuple[int, int], bytes], folder: Path) -> Path:
    for (x, y), data in files.items():
        path = folder / str(ZOOM) / str(x) / f"{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def mbtiles_of(
    files: Mapping[tuple[int, int], Any],
    path: Path,
    *,
    kind: str = "png",
    zoom: int = ZOOM,
    indexed: bool = True,
    table: str = "tiles",
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE IF NOT EXISTS metadata (name text, value text)")
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)"
        )
        facts = [("format", kind), ("attribution", ATTRIBUTION)]
        database.executemany("INSERT INTO metadata VALUES (?, ?)", facts)
        rows = [(zoom, x, 2**zoom - 1 - y, data) for (x, y), data in files.items()]
        database.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows)
        if indexed:
            database.execute(
                f"CREATE UNIQUE INDEX IF NOT EXISTS tile_index ON {table} (zoom_level, tile_column, tile_row)"
            )
    database.close()
    return path


def pmtiles_of(
    files: Mapping[tuple[int, int], bytes],
    path: Path,
    *,
    zoom: int = ZOOM,
    compress: Callable[[bytes], bytes] | None = None,
    **header: Any,
) -> Path:
    from pmtiles.tile import Compression, TileType, zxy_to_tileid
    from pmtiles.writer import write

    path.parent.mkdir(parents=True, exist_ok=True)
    compression = Compression.GZIP if compress else Compression.NONE
    with write(str(path)) as writer:
        for (x, y), data in files.items():
            writer.write_tile(zxy_to_tileid(zoom, x, y), compress(data) if compress else data)
        writer.finalize(
            {"tile_type": TileType.PNG, "tile_compression": compression} | header, {"attribution": ATTRIBUTION}
        )
    return path


def geotiff_of(files: Mapping[tuple[int, int], bytes], path: Path, **profile: Any) -> Path:
    """Write one image whose pixels at zoom 12 are those of the tiles; black where there is none."""
    import rasterio

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((len(ROWS) * TILE_PX, len(COLUMNS) * TILE_PX, 3), np.uint8)
    for (x, y), data in files.items():
        row, column = (y - ROWS.start) * TILE_PX, (x - COLUMNS.start) * TILE_PX
        pixels[row : row + TILE_PX, column : column + TILE_PX] = decode_tile(data, "tile").pixels
    bands = pixels.transpose(2, 0, 1)
    defaults = {"width": bands.shape[2], "height": bands.shape[1], "count": 3, "dtype": "uint8", "crs": "EPSG:3857"}
    settings = defaults | {"transform": geotransform(), "photometric": "RGB"} | profile
    bands = np.concatenate((bands, bands))[: settings["count"]]
    with rasterio.open(path, "w", driver="GTiff", **settings) as dataset:
        dataset.write(bands.astype(settings["dtype"]))
    return path


def geotransform() -> Any:
    from affine import Affine

    side = 2 * HALF_WORLD_METERS / 2**ZOOM
    west, north = COLUMNS.start * side - HALF_WORLD_METERS, HALF_WORLD_METERS - ROWS.start * side
    return Affine(side / TILE_PX, 0, west, 0, -side / TILE_PX, north)


def bucket_of(files: Mapping[tuple[int, int], bytes], s3: Any, prefix: str) -> str:
    """Upload tiles to a bucket; return the template."""
    s3.create_bucket(Bucket=BUCKET)
    for (x, y), data in files.items():
        s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{ZOOM}/{x}/{y}.png", Body=data)
    return f"s3://{BUCKET}/{prefix}/{{z}}/{{x}}/{{y}}.png"


class ScriptedS3(ThreadingHTTPServer):
    """A server that gives each request the answer of a function, and remembers the headers of all requests."""

    daemon_threads = True

    def __init__(self, answer: Callable[[int], tuple[int, str | bytes]]) -> None:
        """Start with a function from the number of a request to its status, and an error code or a body."""
        super().__init__(("127.0.0.1", 0), _Answers)
        self.answer = answer
        self.requests: list[dict[str, str]] = []
        self.lock = threading.Lock()


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ScriptedS3

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append(dict(self.headers))
            number = len(self.server.requests) - 1
        status, content = self.server.answer(number)
        body = f"<Error><Code>{content}</Code></Error>".encode() if isinstance(content, str) else content
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + (1000 if status == 206 else 0)))  # 206: broken off
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = status == 206

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def scripted_s3(answer: Callable[[int], tuple[int, str | bytes]]) -> Iterator[tuple[str, ScriptedS3]]:
    """Run such a server while the block runs; yield its URL and itself. Status 206 breaks an answer off."""
    with ScriptedS3(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", server
        finally:
            server.shutdown()
            thread.join()
