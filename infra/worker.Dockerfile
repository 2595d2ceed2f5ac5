# A worker as a container, for Slurm, Kubernetes or Ray: a worker is one command.
#   docker build --file infra/worker.Dockerfile --tag satx-worker .
#   docker run --rm --gpus all --network host --env-file worker.env satx-worker --study NAME
FROM python:3.11-slim
WORKDIR /satx
COPY pyproject.toml README.md ./
COPY satx satx
COPY sweeps sweeps
COPY experiments experiments
COPY infra infra
RUN pip install --no-cache-dir --constraint infra/constraints.txt '.[fleet,gpu]'
RUN useradd --create-home worker && mkdir /home/worker/satx && chown worker /home/worker/satx
USER worker
ENV SATX_HOME=/home/worker/satx
ENTRYPOINT ["satx", "worker"]
