"""What a comparison says: its numbers, figure and page."""
