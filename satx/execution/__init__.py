"""The parts that run a sweep: driver, workers, trials, shared caches and confirmation."""
