"""satx: sweep, compare and ship image classifiers for satellite tiles."""

import os

__version__ = "0.1.0"

# These libraries read their environment when they are imported, so it must stand before anything imports them.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # the defaults block a call for four minutes when the server is gone
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # it logs what it raises, with a traceback
    "TF_CPP_MIN_LOG_LEVEL": "2",
}.items():
    os.environ.setdefault(_name, _value)
