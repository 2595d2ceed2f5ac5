from __future__ import annotations

import subprocess
import sys

from satx.catalogue import ALL, BACKBONES, NONE


def test_the_catalogue_and_the_configuration_import_no_keras() -> None:
    code = "import satx.catalogue, satx.config, sys; print('keras' in sys.modules or 'tensorflow' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "False"


def test_every_backbone_can_be_unfrozen_not_at_all_at_each_cut_or_completely() -> None:
    for backbone in BACKBONES.values():
        assert backbone.unfreeze_names == (NONE, *backbone.cuts, ALL)
        assert len(set(backbone.unfreeze_names)) == len(backbone.unfreeze_names)
        assert len(set(backbone.cuts.values())) == len(backbone.cuts)


def test_the_catalogue_contains_the_expected_backbones() -> None:
    assert set(BACKBONES) >= {"xception", "mobilenetv2", "efficientnetv2b0", "efficientnetv2s", "convnexttiny"}
