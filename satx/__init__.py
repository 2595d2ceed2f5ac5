"""satx: sweep, compare and ship image classifiers for satellite tiles."""

import os

__version__ = "0.2.0"

# These libraries read their environment variables on import, so set them before anything imports the libraries.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # with the defaults a call blocks for four minutes when the server is down
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "25",  # satx limits a whole request to it (tracking/client.py)
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # MLflow also logs the exceptions it raises, with a traceback
    "RAY_USAGE_STATS_ENABLED": "0",
    "TF_CPP_MIN_LOG_LEVEL": "3",  # its errors are raised as exceptions too
}.items():
    os.environ.setdefault(_name, _value)
