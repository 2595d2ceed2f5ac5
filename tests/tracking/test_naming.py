from __future__ import annotations

import re
from itertools import pairwise

import pytest
from matplotlib.colors import to_hex

from satx.catalogue import BACKBONES, NONE
from satx.evaluation.style import backbone_color
from satx.tracking.naming import run_color, run_name


def test_a_name_says_first_what_tells_runs_apart() -> None:
    assert run_name("mobilenetv2", "block14", "#12") == "mobilenetv2 block14 #12"
    assert run_name("xception", NONE, "#3") == "xception head only #3"


@pytest.mark.parametrize("backbone", [*BACKBONES, "hypermodel"])
def test_neighboring_runs_have_different_shades_of_the_color_of_their_backbone(backbone: str) -> None:
    colors = [run_color(backbone, number) for number in range(9)]
    assert colors[0] == run_color(backbone) == to_hex(backbone_color(backbone))
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
    assert all(one != other for one, other in pairwise(colors))


def test_shades_of_different_backbones_are_never_the_same() -> None:
    shades = [{run_color(backbone, number) for number in range(9)} for backbone in BACKBONES]
    assert len(set.union(*shades)) == sum(map(len, shades))
