"""Running a sweep: the plan, the driver, its workers, each trial, the caches they share, and the confirmation."""
