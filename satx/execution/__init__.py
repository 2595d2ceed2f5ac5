"""The parts that run a sweep: plan, driver, workers, trials, shared caches and confirmation."""
