#!/bin/bash
# Renew the locks, after a change of infra/constraints.txt or of the dependencies in pyproject.toml. Needs uv (`pip install uv`).
# What infra/constraints.txt does not pin, as CUDA's libraries, stays at its version; `infra/locks/renew.sh --upgrade` moves it.
set -euo pipefail
cd "$(dirname "$0")/../.."
lock() { # name of the lock, then what to lock
  uv pip compile --quiet --generate-hashes --only-binary :all: --emit-build-options --no-emit-index-url --no-annotate \
    --custom-compile-command infra/locks/renew.sh --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --constraint infra/constraints.txt --output-file "infra/locks/$1.txt" "${@:2}"
}
lock worker pyproject.toml --extra fleet --extra gpu "$@"
lock mlflow - "$@" <<< $'mlflow[auth]\npsycopg[binary]\nboto3'
lock build - "$@" <<< 'hatchling>=1.27'
