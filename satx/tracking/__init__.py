"""MLflow runs: one configuration is one run, opened by its identity and written through explicit run ids."""
