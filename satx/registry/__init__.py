"""The registry: the gate a candidate passes, the champion of each task, and the history of both."""
