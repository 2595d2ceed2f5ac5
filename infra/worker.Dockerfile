# A worker as a container, for Slurm, Kubernetes or Ray: a worker is one command.
#   docker build --file infra/worker.Dockerfile --tag satx-worker .
#   docker run --rm --gpus all --network host --env-file worker.env satx-worker --study NAME
# worker.env contains NAME=VALUE lines without quotes, and only you may read it (umask 077): SATX_STUDY_URL, MLFLOW_TRACKING_URI,
# PGPASSWORD, MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD, and without a role for S3 also AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION. Exit code 75 means that the worker must be started again, if possible with the
# same SATX_HOME.
FROM python:3.11-slim
WORKDIR /satx
COPY pyproject.toml README.md ./
COPY satx satx
COPY sweeps sweeps
COPY experiments experiments
COPY infra/constraints.txt infra/fleet.yaml infra/user-data.sh infra/
RUN pip install --no-cache-dir --constraint infra/constraints.txt '.[fleet,gpu]'
RUN useradd --create-home worker && mkdir /home/worker/satx && chown worker /home/worker/satx
USER worker
ENV SATX_HOME=/home/worker/satx
ENTRYPOINT ["satx", "worker"]
