# MLflow server for compose.yaml, with the versions that satx was tested with.
FROM python:3.11-slim
COPY infra/constraints.txt /tmp/constraints.txt
RUN pip install --no-cache-dir --constraint /tmp/constraints.txt 'mlflow[auth]' 'psycopg[binary]' boto3
RUN useradd --create-home mlflow
USER mlflow
