from __future__ import annotations

import math

import pytest

from satx.catalogue import ALL, BACKBONES, NONE
from satx.config import Configuration
from satx.models.backbones import build_network, learnable
from satx.training.contract import run_params


@pytest.mark.parametrize("dense_units", [0, 32])
@pytest.mark.parametrize("unfreeze", [NONE, "block16", ALL])
def test_a_run_logs_the_sizes_of_the_network_it_trains(unfreeze: str, dense_units: int) -> None:
    values = {"model.backbone": "mobilenetv2", "model.unfreeze": unfreeze, "model.dense_units": dense_units}
    configuration = Configuration().with_values({"image_size_px": 32} | values, source="test")
    network = build_network(configuration.model, image_size_px=32, num_classes=3, weights_file=None)
    tail = sum(math.prod(variable.shape) for variable in learnable(network.tail))
    found = run_params(configuration, 3)
    assert found["backbone_trainable_parameters"] == tail
    assert found["trainable_parameters"] == tail + network.head.count_params()
    parts = [part for part in (network.trunk, network.tail, network.head) if part is not None]
    assert found["total_parameters"] == sum(part.count_params() for part in parts)
    assert found.items() >= configuration.flat().items()


def test_the_catalogue_lists_the_parameter_counts_of_every_backbone() -> None:
    for name, entry in BACKBONES.items():
        assert 0 < entry.trainable_parameters <= entry.total_parameters, name
        shares = [entry.tail_share(unfreeze) for unfreeze in (ALL, *entry.cuts, NONE)]
        assert shares == sorted(set(shares), reverse=True) and (shares[0], shares[-1]) == (1.0, 0.0), name
