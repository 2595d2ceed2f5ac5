#!/bin/bash
# Succeed if every model of models.config has a version that answers. Needs no curl, which the image does not contain.
# Usage: healthcheck.sh [PORT]
set -euo pipefail

port=${1:-8501}
names=$(sed -n 's/^ *name: "\(.*\)"$/\1/p' "$EXPORTS/models.config")
if [[ -z $names ]]; then
  echo "$EXPORTS/models.config: expected at least one model, found none. Promote a run first." >&2
  exit 1
fi
while read -r name; do
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'GET /v1/models/%s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$name" >&3
  status=$(cat <&3)
  exec 3>&-
  if ! grep -q '"state": *"AVAILABLE"' <<<"$status"; then
    echo "$name: expected a version in the state AVAILABLE, got: $status" >&2
    exit 1
  fi
done <<<"$names"
