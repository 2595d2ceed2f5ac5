"""The Optuna study: its database, who works on which trial, how trials end, and what is put right after a crash."""
