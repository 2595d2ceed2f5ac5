# MLflow server for compose.yaml, with the versions that satx was tested with; the digest is PYTHON_DIGEST in .env.
ARG PYTHON_DIGEST
FROM python:3.11-slim@${PYTHON_DIGEST}
COPY infra/locks/mlflow.txt /tmp/mlflow.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/mlflow.txt
RUN useradd --create-home mlflow
USER mlflow
