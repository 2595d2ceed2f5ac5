"""The Optuna study: its database, the owners and outcomes of its trials, and the recovery after a crash."""
