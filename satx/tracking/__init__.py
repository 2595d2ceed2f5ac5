"""MLflow runs. One configuration is one run, found by its identity and written to by explicit run id."""
