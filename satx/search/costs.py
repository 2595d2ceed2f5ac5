"""Cost of a tail epoch, from the catalogue's measured forward passes and counted multiply-adds."""

from __future__ import annotations

from satx.catalogue import BACKBONES, NONE


def epoch_factor(backbone: str, unfreeze: str, *, cached: bool) -> float:
    """Return the time of a tail epoch, in forward passes of the whole backbone over the same tiles.

    The backward pass costs about twice the forward pass of the part that is trained.

    Args:
        backbone: Name of the backbone.
        unfreeze: The part that is trained.
        cached: Whether the outputs of the frozen part come from the trunk cache.
    """
    if unfreeze == NONE:
        return 0.0
    share = BACKBONES[backbone].tail_share(unfreeze)
    return 3.0 * share if cached else 1.0 + 2.0 * share


def scoring_factor(backbone: str, unfreeze: str, *, cached: bool) -> float:
    """Return the time of scoring tiles after a tail epoch, in forward passes of the whole backbone over these tiles."""
    if unfreeze == NONE:
        return 0.0
    return BACKBONES[backbone].tail_share(unfreeze) if cached else 1.0


def saved_by_keeping(backbone: str, cut: str) -> float:
    """Return the core seconds per megapixel that an epoch saves if the trunk cache keeps the maps at the cut."""
    saved = epoch_factor(backbone, cut, cached=False) - epoch_factor(backbone, cut, cached=True)
    return BACKBONES[backbone].core_seconds_per_megapixel * saved


def epoch_cost(backbone: str, unfreeze: str) -> float:
    """Return the core seconds per megapixel of tiles that one cached epoch takes; 0 for a head alone."""
    return BACKBONES[backbone].core_seconds_per_megapixel * epoch_factor(backbone, unfreeze, cached=True)
