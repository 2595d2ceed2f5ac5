from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from satx.config import AugmentationConfig
from satx.training.augmentation import flipped, random_views, variant, view_name, views

FLIPS = range(8)
recipes = st.builds(
    AugmentationConfig,
    num_flips=st.sampled_from([1, 4, 8]),
    num_variants=st.integers(1, 3),
    rotation_degrees=st.sampled_from([0.0, 10.0, 180.0]),
    zoom=st.sampled_from([0.0, 0.2, 0.8]),
    brightness=st.sampled_from([0.0, 0.3]),
    channel_shift=st.sampled_from([0.0, 20.0]),
)


def noise(size: int = 16, num_tiles: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (num_tiles, size, size, 3)).astype(np.uint8)


def smooth(size: int, centre_x: float, centre_y: float, spread: float) -> np.ndarray:
    """Return a bright blob on black, the same in all channels."""
    y, x = np.mgrid[:size, :size]
    blob = 250 * np.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * spread**2))
    return np.repeat(blob[:, :, None], 3, axis=2).astype(np.uint8)


def centre_of_mass(tile: np.ndarray) -> tuple[float, float]:
    weight = tile[:, :, 0].astype(float)
    y, x = np.mgrid[: tile.shape[0], : tile.shape[1]]
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())


def drawn(seed: int) -> np.ndarray:
    """Return the six amounts, in -1..1, that a variant with this seed draws."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, 6)


def turned_by(tile: np.ndarray, degrees: float) -> np.ndarray:
    config = AugmentationConfig().model_copy(update={"rotation_degrees": degrees / drawn(0)[0]})
    return variant(tile, config, np.random.default_rng(0))


def test_the_eight_flips_are_distinct_symmetries_that_form_a_group() -> None:
    tile = noise()[0]
    images = [flipped(tile, flip).tobytes() for flip in FLIPS]
    assert len(set(images)) == 8
    for first in FLIPS:
        for second in FLIPS:
            assert flipped(flipped(tile, first), second).tobytes() in images
    for flip in FLIPS:
        assert any(np.array_equal(flipped(flipped(tile, flip), back), tile) for back in FLIPS)


def test_a_flip_moves_pixels_and_changes_none() -> None:
    tile = noise()[0]
    for flip in FLIPS:
        image = flipped(tile, flip)
        assert image.shape == tile.shape
        assert sorted(image.reshape(-1, 3).tolist()) == sorted(tile.reshape(-1, 3).tolist())
    assert np.array_equal(flipped(tile, 0), tile)


@settings(max_examples=40)
@given(recipes, st.data())
def test_a_view_depends_only_on_its_tile_and_number(recipe: AugmentationConfig, data: st.DataObject) -> None:
    tiles = noise()
    rows = np.array(data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=6)))
    chosen = np.array(data.draw(st.lists(st.integers(0, recipe.num_views - 1), min_size=len(rows), max_size=len(rows))))
    together = views(tiles, rows, chosen, config=recipe)
    alone = [views(tiles, rows[[i]], chosen[[i]], config=recipe)[0] for i in range(len(rows))]
    assert together.dtype == np.uint8
    assert np.array_equal(together, np.stack(alone))


@given(recipes)
def test_the_first_variant_is_the_tile_itself_flipped(recipe: AugmentationConfig) -> None:
    tiles = noise(num_tiles=2)
    for flip in range(recipe.num_flips):
        found = views(tiles, np.array([1]), np.array([flip]), config=recipe)[0]
        assert np.array_equal(found, flipped(tiles[1], flip))


@settings(max_examples=40)
@given(recipes)
def test_every_view_has_its_own_name_and_another_rotation_changes_it(recipe: AugmentationConfig) -> None:
    assert len({view_name(view, config=recipe) for view in range(recipe.num_views)}) == recipe.num_views
    other = recipe.model_copy(update={"rotation_degrees": recipe.rotation_degrees + 1e-7})
    last = recipe.num_views - 1
    if recipe.num_variants > 1:
        assert view_name(last, config=other) != view_name(last, config=recipe)


@settings(max_examples=30)
@given(recipes, st.integers(0, 5), st.integers(1, 50))
def test_random_views_depend_only_on_seed_step_and_tile(recipe: AugmentationConfig, seed: int, step: int) -> None:
    tiles = noise()
    rows = np.array([4, 0, 2])
    together = random_views(tiles, rows, config=recipe, seed=seed, step=step)
    backwards = random_views(tiles, rows[::-1], config=recipe, seed=seed, step=step)
    assert np.array_equal(together, backwards[::-1])


def test_random_views_differ_between_steps_seeds_and_tiles() -> None:
    recipe = AugmentationConfig(mode="random", rotation_degrees=180, brightness=0.5)
    tiles = np.repeat(noise(num_tiles=1), 2, axis=0)
    found = {
        random_views(tiles, np.array([row]), config=recipe, seed=seed, step=step).tobytes()
        for row in (0, 1)
        for seed in (0, 1)
        for step in (1, 2)
    }
    assert len(found) == 8


@pytest.mark.parametrize("size", [32, 33])
@pytest.mark.parametrize("quarter_turns", [1, -1, 2])
def test_a_rotation_by_right_angles_equals_numpys_without_a_shift(size: int, quarter_turns: int) -> None:
    tile = noise(size)[0]
    found = turned_by(tile, 90.0 * quarter_turns)
    expected = np.rot90(tile, -quarter_turns)  # satx rotates clockwise
    assert np.abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("degrees", [10, -35, 45, 120])
def test_a_rotation_moves_a_blob_clockwise_around_the_middle(degrees: float) -> None:
    size, middle, radius = 65, 32.0, 10.0
    found_x, found_y = centre_of_mass(turned_by(smooth(size, middle + radius, middle, 3), degrees))
    radians = np.deg2rad(degrees)
    assert found_x == pytest.approx(middle + radius * np.cos(radians), abs=0.3)
    assert found_y == pytest.approx(middle + radius * np.sin(radians), abs=0.3)  # y points down


@settings(max_examples=40)
@given(st.integers(0, 1000), st.sampled_from([64, 65]), st.sampled_from([0.0, 180.0]), st.sampled_from([0.0, 0.4]))
def test_a_blob_in_the_middle_stays_in_the_middle(seed: int, size: int, rotation: float, zoom: float) -> None:
    middle = (size - 1) / 2
    config = AugmentationConfig(rotation_degrees=rotation, zoom=zoom)
    found = variant(smooth(size, middle, middle, 4), config, np.random.default_rng(seed))
    assert centre_of_mass(found[size // 4 : -(size // 4), size // 4 : -(size // 4)]) == pytest.approx(
        (middle - size // 4, middle - size // 4), abs=0.3
    )


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_zoom_scales_a_blob_by_the_drawn_amount(seed: int) -> None:
    config = AugmentationConfig(zoom=0.5)
    tile = smooth(129, 64, 64, 8)
    found = variant(tile, config, np.random.default_rng(seed))
    scale = 1 + 0.5 * drawn(seed)[1]
    above_half = [(image[:, :, 0] > 125).sum() for image in (tile, found)]
    assert above_half[1] / above_half[0] == pytest.approx(scale**2, rel=0.1)


@settings(max_examples=60)
@given(
    st.integers(0, 1000),
    st.sampled_from([32, 33]),
    st.sampled_from([0.0, 45.0, 180.0]),
    st.sampled_from([0.0, 0.3, 0.8]),
)
def test_rotation_and_zoom_leave_no_corner_empty(seed: int, size: int, rotation: float, zoom: float) -> None:
    white = np.full((size, size, 3), 255, np.uint8)
    found = variant(white, AugmentationConfig(rotation_degrees=rotation, zoom=zoom), np.random.default_rng(seed))
    assert found.min() >= 254


@given(st.integers(0, 1000), st.floats(0, 0.99), st.floats(0, 128))
def test_brightness_and_channel_shift_stay_within_their_bounds(seed: int, brightness: float, shift: float) -> None:
    tile = np.full((4, 4, 3), 120, np.uint8)
    config = AugmentationConfig(brightness=brightness, channel_shift=shift)
    found = variant(tile, config, np.random.default_rng(seed)).astype(float)
    assert found.max() <= min(255, 120 * (1 + brightness) + shift) + 0.5
    assert found.min() >= max(0, 120 * (1 - brightness) - shift) - 0.5
    assert (found == found[0, 0]).all()  # all pixels are equal


def test_a_change_of_one_bound_does_not_change_the_other_drawn_amounts() -> None:
    tile = noise()[0]
    bright = [
        variant(tile, AugmentationConfig(brightness=0.4, channel_shift=shift), np.random.default_rng(3)).mean()
        for shift in (0.0, 1e-9)
    ]
    assert bright[0] == pytest.approx(bright[1], abs=0.1)


def test_without_bounds_a_variant_is_the_tile() -> None:
    tile = noise()[0]
    assert np.array_equal(variant(tile, AugmentationConfig(), np.random.default_rng(0)), tile)
