"""Tests of decoding the images of a request."""

import asyncio
import io
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import pytest
from PIL import Image

from satx.serving import decoding
from satx.serving.contract import ServingError
from satx.serving.decoding import decoded
from satx.tiles.decode import DecodedTile, decode_tile, resize_tile


def tiles_of(files: Sequence[bytes], image_size_px: int = 16) -> np.ndarray:
    with ThreadPoolExecutor(2) as pool:
        return asyncio.run(decoded(files, image_size_px, pool=pool))


def encoded(kind: str, *, mode: str = "RGB", size: tuple[int, int] = (16, 16), seed: int = 20) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_every_format_that_satx_reads_gives_the_pixels_of_the_tile_store(kind: str) -> None:
    data = encoded(kind, size=(20, 12))
    expected = resize_tile(decode_tile(data, "image").pixels, 16)
    assert (tiles_of([data]) == expected[None]).all()


def test_many_images_keep_their_order() -> None:
    files = [encoded("PNG", seed=seed) for seed in range(19)]
    tiles = tiles_of(files)
    assert tiles.shape == (len(files), 16, 16, 3) and tiles.dtype == np.uint8
    assert all((tile == decode_tile(data, "image").pixels).all() for tile, data in zip(tiles, files, strict=True))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"<html><body>404</body></html>", "not an image that satx reads"),
        (encoded("JPEG")[:-40], "damaged JPEG"),
        (encoded("PNG")[:60], "PNG"),
        (b"\0\0\0\x0cjP  \r\n", "JPEG 2000 image; satx reads"),
    ],
)
def test_a_broken_image_is_refused_with_its_number_and_the_reason(data: bytes, reason: str) -> None:
    files = [encoded("PNG")] * 10 + [data]
    with pytest.raises(ServingError) as raised:
        tiles_of(files)
    assert raised.value.status == 400
    assert raised.value.message.startswith("Image 10 of the request: ")
    assert reason in raised.value.message


def test_an_image_that_declares_far_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    header = bytearray(encoded("BMP"))
    header[18:26] = (50_000).to_bytes(4, "little") * 2
    with pytest.raises(ServingError, match="50000x50000 px; expected at most"):
        tiles_of([bytes(header)])


def test_the_images_of_a_request_have_a_limit_of_pixels_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_REQUEST_PIXELS", 4 * 16 * 16)
    assert len(tiles_of([encoded("PNG")] * 4)) == 4
    with pytest.raises(ServingError, match="at most 1,024 pixels together") as raised:
        tiles_of([encoded("PNG")] * 5)
    assert raised.value.status == 400


@dataclass
class SlowDecoder:
    """A decoder that goes on with an image only when it may, and notes the names of images."""

    started: list[bytes] = field(default_factory=list)
    may_go_on: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def decode(self, data: bytes, name: str) -> DecodedTile:
        self.started.append(data)
        if data == b"broken":
            return decode_tile(data, name)
        assert self.may_go_on.acquire(timeout=60)
        return decode_tile(encoded("PNG"), name)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowDecoder:
    slow = SlowDecoder()
    monkeypatch.setattr(decoding, "decode_tile", slow.decode)
    monkeypatch.setattr(decoding, "num_processors", lambda: 2)
    return slow


def test_a_small_request_does_not_wait_for_all_images_of_a_large_one(slow: SlowDecoder) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        large = asyncio.create_task(decoded([b"large"] * 20, 16, pool=pool))
        while not slow.started:
            await asyncio.sleep(0.001)
        small = asyncio.create_task(decoded([b"small"], 16, pool=pool))
        while not small.done():
            slow.may_go_on.release()
            await asyncio.sleep(0.01)
        assert slow.started.count(b"large") < 10
        slow.may_go_on.release(30)
        await large

    with ThreadPoolExecutor(1) as pool:
        asyncio.run(scenario(pool))


def test_a_request_leaves_a_processor_to_the_others(slow: SlowDecoder) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        large = asyncio.create_task(decoded([b"large"] * 20, 16, pool=pool))
        small = asyncio.create_task(decoded([b"small"], 16, pool=pool))
        while len(slow.started) < 2:
            await asyncio.sleep(0.001)
        assert slow.started == [b"large", b"small"]
        slow.may_go_on.release(30)
        await asyncio.gather(large, small)

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(asyncio.wait_for(scenario(pool), 60))


def test_of_a_request_that_is_cancelled_no_further_image_is_decoded(slow: SlowDecoder) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        task = asyncio.create_task(decoded([b"x"] * 20, 16, pool=pool))
        while not slow.started:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))
        slow.may_go_on.release(30)
    assert len(slow.started) == 1


def test_after_a_broken_image_no_further_image_of_the_request_is_decoded(
    slow: SlowDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(pool: ThreadPoolExecutor) -> None:
        with pytest.raises(ServingError, match="Image 1 of the request"):
            await decoded([b"x", b"broken", *[b"x"] * 20], 16, pool=pool)
        slow.may_go_on.release(30)
        await asyncio.sleep(0.2)

    monkeypatch.setattr(decoding, "num_processors", lambda: 3)
    with ThreadPoolExecutor(2) as pool:
        asyncio.run(scenario(pool))
    assert slow.started.count(b"x") == 1


def test_too_little_memory_is_not_the_fault_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_data: bytes, _name: str) -> None:
        raise MemoryError

    monkeypatch.setattr(decoding, "decode_tile", no_memory)
    with pytest.raises(ServingError) as raised:
        tiles_of([encoded("PNG")])
    assert raised.value.status == 503 and raised.value.retry_after_seconds == 1
