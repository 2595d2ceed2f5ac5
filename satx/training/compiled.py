"""Objects that a process compiles once and all its trials share: a backbone with its cuts, and the steps of each cut.

The cost of building a backbone and tracing a step, and Keras's memory leaks, occur once per cut, not once per trial.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from satx.catalogue import BACKBONES
from satx.errors import StateMismatch
from satx.models.backbones import Network, build_backbone, split_backbone
from satx.models.faster import faster
from satx.models.weights_file import Weights
from satx.training.devices import precision_policy

if TYPE_CHECKING or keras.backend.backend() != "jax":
    from satx.training.compiled_tensorflow import CompiledSteps
else:
    from satx.training.compiled_jax import CompiledSteps

__all__ = ["CompiledSteps", "Workbench", "head_steps", "workbench"]

NUM_BACKBONES = 2  # kept in memory at a time; a sweep over more backbones rebuilds some of them


@dataclass(frozen=True)
class Workbench:
    """One backbone on which trials train their tails, one after another.

    Attributes:
        weights: Starting weights.
        precision: Precision of the computation.
        backbone: The network, converted by `faster`.
        original: Starting values of its variables, by path.
    """

    weights: Weights
    precision: str
    backbone: Any
    original: dict[str, np.ndarray]
    _steps: dict[str, CompiledSteps] = field(default_factory=dict)

    def steps(self, unfreeze: str, input_shape: tuple[int, ...], dtype: str) -> CompiledSteps:
        """Return the compiled steps of a tail.

        Raises:
            StateMismatch: The steps would train another number of parameters than the catalogue lists for this cut.
        """
        if unfreeze not in self._steps:
            name = self.weights.backbone
            trunk, tail = split_backbone(self.backbone, name, unfreeze)
            network = Network(name, trunk, tail, None, from_scratch=self.weights.source == "random")
            steps = CompiledSteps(network, input_shape, dtype)
            expected = BACKBONES[name].tail_parameters(unfreeze)
            found = sum(math.prod(variable.shape) for variable in steps.learnable)
            if found != expected:
                raise StateMismatch(
                    f"{name}, cut {unfreeze}: expected {expected:,} trainable parameters, got {found:,}. This is a bug in satx "
                    f"or in this version of Keras; nothing was trained. Please report it."
                )
            self._steps[unfreeze] = steps
        return self._steps[unfreeze]

    def tail_values(self, steps: CompiledSteps) -> list[np.ndarray]:
        """Return the starting values of the variables of the steps' tail."""
        return [self.original[variable.path] for variable in steps.tail_variables]


@lru_cache(NUM_BACKBONES)
def workbench(weights: Weights, image_size_px: int, precision: str) -> Workbench:
    """Return this process's workbench for these weights."""
    with precision_policy(precision):
        from_scratch = weights.source == "random"
        built = build_backbone(weights.backbone, image_size_px, weights.verified_file(), from_scratch=from_scratch)
        is_float32 = keras.config.dtype_policy().name == "float32"  # `precision` may be `auto`
        backbone = faster(built, fold=is_float32 and not from_scratch)
    original = {variable.path: np.array(variable) for variable in backbone.variables}
    return Workbench(weights, precision, backbone, original)


@lru_cache(2 * NUM_BACKBONES)
def head_steps(num_features: int, dtype: str) -> CompiledSteps:
    """Return the compiled steps of a head on pooled features."""
    return CompiledSteps(None, (num_features,), dtype)
