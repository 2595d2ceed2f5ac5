"""Training: views of tiles, the trunk cache shared by all trials, and the two-phase trainer with its checkpoint."""
