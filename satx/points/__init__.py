"""From points to tiles: reading points, drawing negatives, fetching a tile or a window for each point."""
