"""What a sweep will take: its plan before it runs, and the time left while it runs."""
