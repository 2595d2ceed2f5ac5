"""MLflow runs and what is drawn from them: one configuration is one run, made through explicit run ids."""
