"""The registry: the promotion gate, the champion of each task, and their history."""
