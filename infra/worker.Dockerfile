# A worker as a container, for Slurm, Kubernetes or Ray: a worker is one command.
#   docker buildx imagetools inspect --format '{{.Manifest.Digest}}' python:3.11-slim          # the digest: sha256:…
#   docker build --file infra/worker.Dockerfile --build-arg PYTHON_DIGEST=sha256:… --tag satx-worker .
#   docker run --rm --gpus all --network host --env-file worker.env satx-worker --study NAME
# worker.env contains NAME=VALUE lines without quotes, and only you may read it (umask 077): SATX_STUDY_URL, MLFLOW_TRACKING_URI,
# PGPASSWORD, MLFLOW_TRACKING_USERNAME=satx-worker, MLFLOW_TRACKING_PASSWORD, and without a role for S3 also AWS_ACCESS_KEY_ID,
# AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION. Exit code 75 means that the worker must be started again, if possible with the
# same SATX_HOME.
ARG PYTHON_DIGEST
FROM python:3.11-slim@${PYTHON_DIGEST} AS wheel
WORKDIR /satx
COPY infra/locks/build.txt infra/locks/
RUN pip install --no-cache-dir --require-hashes --requirement infra/locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY satx satx
COPY sweeps sweeps
COPY experiments experiments
COPY infra/fleet.yaml infra/user-data.sh infra/
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /wheels .

FROM python:3.11-slim@${PYTHON_DIGEST}
COPY infra/locks/worker.txt /tmp/worker.txt
RUN pip install --no-cache-dir --require-hashes --requirement /tmp/worker.txt
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir --no-index --no-deps /wheels/satx-*.whl
RUN useradd --create-home worker && mkdir /home/worker/satx && chown worker /home/worker/satx
USER worker
ENV SATX_HOME=/home/worker/satx
ENTRYPOINT ["satx", "worker"]
