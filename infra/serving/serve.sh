#!/bin/bash
# Start TensorFlow Serving on the folder EXPORTS. Arguments are passed on.
#
# A label may only be given to a version that is loaded. At the start none is, so that check is switched off; it still holds
# for moving a label.
set -euo pipefail

exec tensorflow_model_server \
  --port=8500 \
  --rest_api_port=8501 \
  --model_config_file="$EXPORTS/models.config" \
  --model_config_file_poll_wait_seconds=5 \
  --allow_version_labels_for_unavailable_models=true \
  --enable_batching=true \
  --batching_parameters_file="$EXPORTS/batching.conf" \
  --monitoring_config_file=/opt/satx/monitoring.config \
  "$@"
