"""What a sweep searches: its space, the sampler, the pruner, and what identifies a study."""
