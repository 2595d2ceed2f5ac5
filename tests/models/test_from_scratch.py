from __future__ import annotations

import keras
import numpy as np
import pytest

from satx.config import ModelConfig
from satx.models.backbones import build_network


@pytest.mark.parametrize(("from_scratch", "learns"), [(True, True), (False, False)])
def test_only_a_tail_from_random_weights_learns_its_statistics(from_scratch: bool, learns: bool) -> None:
    model = ModelConfig(backbone="mobilenetv2", unfreeze="block16")
    network = build_network(model, image_size_px=32, num_classes=2, weights_file=None, from_scratch=from_scratch)

    def statistics(part: keras.Model) -> list[np.ndarray]:
        return [keras.ops.convert_to_numpy(each).copy() for each in part.variables if "moving" in each.path]

    trunk_before, tail_before = statistics(network.trunk), statistics(network.tail)
    network.trunk.trainable = False  # `train_on_batch` of Keras reads this flag
    network.compile(optimizer="adam", loss="categorical_crossentropy", jit_compile=False)
    tiles = np.random.default_rng(0).integers(0, 255, (8, 32, 32, 3), dtype=np.uint8)
    network.train_on_batch(tiles, np.eye(2, dtype=np.float32)[np.arange(8) % 2])
    assert trunk_before and all(
        np.array_equal(*pair) for pair in zip(trunk_before, statistics(network.trunk), strict=True)
    )
    same = [np.array_equal(*pair) for pair in zip(tail_before, statistics(network.tail), strict=True)]
    assert same and all(same) != learns
