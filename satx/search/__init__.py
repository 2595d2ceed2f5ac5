"""Search: the space, the study and its identity, the worker that runs trials, and the driver that runs workers."""
