from __future__ import annotations

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictured import encoded, window
from PIL import Image

from satx.splits.pictures import (
    MAX_HASH_DISTANCE,
    MIN_CORRELATION,
    NUM_TURNS,
    REDUCED_PX,
    encoded_again,
    perceptual_hashes,
    sketch_of,
    turned,
    turned_digest,
)
from satx.tiles.decode import decode_tile, pixel_digest


def reduced_of(*pictures: np.ndarray) -> np.ndarray:
    return np.array([sketch_of(pixels, "").reduced for pixels in pictures])


def noise(seed: int, height_px: int = 20, width_px: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def test_the_eight_transformations_are_all_flips_and_turns_each_once() -> None:
    pixels = np.arange(4).reshape(2, 2, 1)
    found = {turned(pixels, turn).tobytes() for turn in range(NUM_TURNS)}
    assert len(found) == NUM_TURNS
    assert {np.flipud(pixels).tobytes(), pixels.transpose(1, 0, 2).tobytes(), np.rot90(pixels, 3).tobytes()} <= found


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.integers(0, NUM_TURNS - 1))
def test_digest_and_marks_are_the_same_for_every_flip_and_turn(
    seed: int, height_px: int, width_px: int, turn: int
) -> None:
    pixels = noise(seed, height_px, width_px)
    other = np.ascontiguousarray(turned(pixels, turn))
    assert turned_digest(other) == turned_digest(pixels)
    assert sketch_of(other, "").marks == sketch_of(pixels, "").marks


def test_other_pictures_have_other_digests_and_marks_and_shapes_count() -> None:
    pixels = noise(1)
    changed = pixels.copy()
    changed[7, 3] ^= 1
    flat = np.zeros((4, 6, 3), np.uint8)
    assert turned_digest(changed) != turned_digest(pixels)
    assert sketch_of(noise(2), "").marks != sketch_of(pixels, "").marks
    assert turned_digest(flat) != turned_digest(flat.reshape(3, 8, 3))
    assert sketch_of(flat, "").marks != sketch_of(flat.reshape(3, 8, 3), "").marks
    assert turned_digest(pixels) in {pixel_digest(turned(pixels, turn)) for turn in range(NUM_TURNS)}


def test_hashes_of_all_flips_and_turns_are_those_of_imagehash() -> None:
    reduced = reduced_of(*(window(900 * number, 0) for number in range(NUM_TURNS)))
    for small, hashes in zip(reduced, perceptual_hashes(reduced), strict=True):
        images = [Image.fromarray(np.ascontiguousarray(turned(small, turn))) for turn in range(NUM_TURNS)]
        assert [f"{int(found):016x}" for found in hashes] == [str(imagehash.phash(image)) for image in images]


@pytest.mark.parametrize("size_px", [REDUCED_PX, 75, 128])
def test_a_flip_or_turn_of_a_picture_is_reduced_to_that_of_its_reduction(size_px: int) -> None:
    pixels = window(0, 0)[:size_px, :size_px]
    (small,) = reduced_of(pixels)
    for turn in range(NUM_TURNS):
        (other,) = reduced_of(np.ascontiguousarray(turned(pixels, turn)))
        # resampling rounds after each axis
        assert np.abs(other.astype(int) - turned(small, turn)).max() <= 2


def test_a_picture_that_was_encoded_again_is_found_under_every_flip_and_turn() -> None:
    pictures = [window(900 * number, 0) for number in range(NUM_TURNS)]
    copies = [
        decode_tile(encoded(turned(pixels, turn), brightness=1.15, size_px=100), "copy.jpg").pixels
        for turn, pixels in enumerate(pictures)
    ]
    found = encoded_again(reduced_of(*pictures, *copies))
    assert [(likeness.first, likeness.second) for likeness in found] == [(n, n + 8) for n in range(NUM_TURNS)]
    assert all(likeness.correlation >= MIN_CORRELATION for likeness in found)


def test_pictures_of_one_color_and_of_its_noise_are_in_no_pair() -> None:
    flat = np.full((64, 64, 3), (20, 60, 90), np.uint8)
    rough = [decode_tile(encoded(flat + noise(seed, 64, 64) // 64), "sea.jpg").pixels for seed in range(4)]
    assert encoded_again(reduced_of(flat, flat, *rough)) == []


def test_pictures_whose_hashes_are_near_by_chance_are_told_apart_by_their_correlation() -> None:
    pixels = reduced_of(window(0, 0))[0]
    likely = perceptual_hashes(pixels[None])[0, 0]
    other = pixels.astype(np.float32)
    other = other + np.where(np.indices(other.shape).sum(0) % 2, 60, -60)  # above the frequencies of the hash
    other = np.clip(other, 0, 255).astype(np.uint8)
    distance = int(likely ^ perceptual_hashes(other[None])[0, 0]).bit_count()
    assert distance <= MAX_HASH_DISTANCE
    assert encoded_again(np.stack([pixels, other])) == []


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 63), max_size=12))
def test_near_hashes_are_those_of_a_comparison_of_all_with_all(seed: int, flipped: list[int]) -> None:
    from satx.splits.pictures import _near

    random = np.random.default_rng(seed)
    hashes = random.integers(0, 2**64, (12, NUM_TURNS), dtype=np.uint64)
    for number, bit in enumerate(flipped[:11]):
        hashes[number + 1] = hashes[number, random.permutation(NUM_TURNS)] ^ np.uint64(1 << bit)
    expected = {
        (first, second): min(distances)
        for first in range(12)
        for second in range(first + 1, 12)
        if min(distances := [int(hashes[first, 0] ^ other).bit_count() for other in hashes[second]])
        <= MAX_HASH_DISTANCE
    }
    found = _near(hashes)
    assert [(first, second) for first, second, _ in found] == sorted(expected)
    for first, second, turn in found:
        assert int(hashes[first, 0] ^ hashes[second, turn]).bit_count() == expected[first, second]
