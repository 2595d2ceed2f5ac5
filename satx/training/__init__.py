"""Training: views of tiles, trunk features kept for all trials, and the two-phase trainer with its checkpoint."""
