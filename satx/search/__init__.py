"""The search of a sweep: its space, sampler and pruner, and the identity of its study."""
