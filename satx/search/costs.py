"""What an epoch of a tail costs, from the catalogue's measured forward passes and counted multiply-adds."""

from __future__ import annotations

from satx.catalogue import BACKBONES, NONE


def epoch_factor(backbone: str, unfreeze: str, *, cached: bool) -> float:
    """Seconds of a tail epoch over those of one forward pass; backward costs about twice the forward of what is trained.

    Args:
        backbone: Its name.
        unfreeze: What is trained.
        cached: Whether what is frozen comes from the trunk cache.
    """
    if unfreeze == NONE:
        return 0.0
    share = BACKBONES[backbone].tail_share(unfreeze)
    return 3.0 * share if cached else 1.0 + 2.0 * share


def scoring_factor(backbone: str, unfreeze: str, *, cached: bool) -> float:
    """Seconds of scoring tiles after such an epoch, over those of one forward pass over the same tiles."""
    if unfreeze == NONE:
        return 0.0
    return BACKBONES[backbone].tail_share(unfreeze) if cached else 1.0


def saved_by_keeping(backbone: str, cut: str) -> float:
    """Core seconds a megapixel that an epoch saves when what enters the cut is kept."""
    saved = epoch_factor(backbone, cut, cached=False) - epoch_factor(backbone, cut, cached=True)
    return BACKBONES[backbone].core_seconds_per_megapixel * saved


def epoch_cost(backbone: str, unfreeze: str) -> float:
    """Core seconds a megapixel of tiles that one cached epoch takes; 0 for a head alone."""
    return BACKBONES[backbone].core_seconds_per_megapixel * epoch_factor(backbone, unfreeze, cached=True)
