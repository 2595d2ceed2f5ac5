#!/bin/bash
# Ask a running server for the status of a model and for one prediction. Works with TensorFlow Serving and `satx serve`.
# Usage: smoke.sh TILE [MODEL [URL]], for example: smoke.sh tile.jpg school http://127.0.0.1:8501
set -euo pipefail

if [[ $# -lt 1 || ! -r $1 ]]; then
  echo "Usage: $0 TILE [MODEL [URL]]; TILE is a JPEG, PNG, GIF or BMP file." >&2
  exit 2
fi
tile=$1
model=${2:-school}
url=${3:-http://127.0.0.1:8501}
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# Usage: expect STATUS PATTERN CURL_ARGUMENT...
expect() {
  local expected=$1 pattern=$2 status
  shift 2
  status=$(curl --silent --show-error --max-time 30 --output "$answer" --write-out '%{http_code}' "$@")
  if [[ $status != "$expected" ]] || ! tr -d ' \n' <"$answer" | grep -Eq "$pattern"; then
    echo "${*: -1}: expected status $expected and $pattern, got status $status and:" >&2
    cat "$answer" >&2
    exit 1
  fi
  echo "${*: -1}: $status"
}

number='[0-9][0-9.eE+-]*'
image=$(base64 <"$tile" | tr -d '\n')
request="{\"instances\":[{\"image_bytes\":{\"b64\":\"$image\"}}]}"
expect 200 '"state":"AVAILABLE"' "$url/v1/models/$model"
expect 200 "^\{\"predictions\":\[\[$number(,$number)+\]\]\}$" --data-binary @- "$url/v1/models/$model:predict" <<<"$request"
cat "$answer"
expect 200 '"predictions":\[\[' --data-binary @- "$url/v1/models/$model/labels/champion:predict" <<<"$request"
expect 400 '"error":' --data-binary '{"instances":[{"image_bytes":{"b64":"bm8gaW1hZ2U="}}]}' "$url/v1/models/$model:predict"
