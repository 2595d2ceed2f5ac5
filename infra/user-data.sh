#!/bin/bash
# First boot of a worker machine. Rendered by `satx fleet up`. Contains no secrets: the machine reads them from SSM.
set -euo pipefail
umask 077 # only root may read the files written below, which include passwords
export HOME=/root
mkdir -p /opt/satx /etc/satx /var/lib/satx
useradd --system --home-dir /var/lib/satx --shell /usr/sbin/nologin satx # workers run as this user
touch /var/lib/satx/alive
chown -R satx: /var/lib/satx

# The watchdog starts first, so that the machine shuts down whatever fails below.
cat > /opt/satx/watchdog <<'WATCHDOG'
#!/bin/bash
while sleep 30; do
  idle=$(( $(date +%s) - $(stat -c %Y /var/lib/satx/alive) ))
  up=$(cut -d. -f1 /proc/uptime)
  if [ "$idle" -gt {{ lease_seconds }} ] || [ "$up" -gt {{ max_seconds }} ]; then
    shutdown -h now
  fi
done
WATCHDOG
chmod +x /opt/satx/watchdog
cat > /etc/systemd/system/satx-watchdog.service <<'UNIT'
[Service]
ExecStart=/opt/satx/watchdog
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --now satx-watchdog.service

# If this script fails, upload its log to the bucket and shut down the machine.
failed() {
  timeout 60 aws s3 cp --only-show-errors --region {{ region }} /var/log/cloud-init-output.log \
    "{{ bucket }}/logs/$(cat /var/lib/cloud/data/instance-id)-start.log" || true
  shutdown -h now
}
trap failed ERR

# Install satx: the wheel that the launcher built, and the packages of its lock, each verified by its SHA-256.
cd /opt/satx
aws s3 cp --only-show-errors --region {{ region }} "{{ wheel_uri }}" .
aws s3 cp --only-show-errors --region {{ region }} "{{ lock_uri }}" lock.txt
echo "{{ wheel_sha256 }}  {{ wheel_name }}" | sha256sum --check --quiet
echo "{{ lock_sha256 }}  lock.txt" | sha256sum --check --quiet
if ! python3.12 -c 'import ensurepip' 2> /dev/null; then # Ubuntu has it in a separate package
  (
    umask 022
    apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --option DPkg::Lock::Timeout=300 python3.12-venv
  )
fi
python3.12 -m venv venv
venv/bin/pip install --quiet --require-hashes --requirement lock.txt
venv/bin/pip install --quiet --no-index --no-deps "./{{ wheel_name }}"
venv/bin/python -c 'import sys, tensorflow
sys.exit(None if tensorflow.config.list_physical_devices("GPU") else "TensorFlow finds no GPU: driver and CUDA do not match.")'

chmod -R a+rX /opt/satx

# Passwords: a password file for PostgreSQL, two variables for MLflow.
aws ssm get-parameter --region {{ region }} --with-decryption --name {{ secret_prefix }}/pgpass \
  --query Parameter.Value --output text > /etc/satx/pgpass
chown satx: /etc/satx/pgpass
chmod 711 /etc/satx # systemd reads the other files as root
aws ssm get-parameter --region {{ region }} --with-decryption --name {{ secret_prefix }}/mlflow \
  --query Parameter.Value --output text > /etc/satx/secrets.env
cat > /etc/satx/worker.env <<'ENVIRONMENT'
PGPASSFILE=/etc/satx/pgpass
SATX_STUDY_URL={{ study_url }}
MLFLOW_TRACKING_URI={{ tracking_uri }}
SATX_BUCKET={{ bucket }}
AWS_DEFAULT_REGION={{ region }}
SATX_HOME=/var/lib/satx/home
SATX_ALIVE=/var/lib/satx/alive
ENVIRONMENT

gpus=$(nvidia-smi --list-gpus | wc -l)
echo "SATX_WORKERS_HERE=$gpus" >> /etc/satx/worker.env

# One worker per GPU. systemd restarts a worker that crashes. When the last worker has ended, the machine shuts down.
cat > /opt/satx/last-one-out <<'LAST'
#!/bin/bash
systemctl list-units --plain --no-legend --state=active,activating,reloading 'satx-worker@*' | grep -q . && exit
journalctl --no-pager --unit 'satx-worker@*' | timeout 60 aws s3 cp --only-show-errors --region {{ region }} - \
  "{{ bucket }}/logs/$(cat /var/lib/cloud/data/instance-id)-workers.log"
shutdown -h now # even if the upload failed
LAST
chmod +x /opt/satx/last-one-out
cat > /etc/systemd/system/satx-worker@.service <<'UNIT'
[Unit]
After=network-online.target
StartLimitIntervalSec=600
StartLimitBurst=4
[Service]
User=satx
NoNewPrivileges=yes
EnvironmentFile=/etc/satx/worker.env
EnvironmentFile=/etc/satx/secrets.env
Environment=CUDA_VISIBLE_DEVICES=%i
ExecStart=/opt/satx/venv/bin/satx worker --study {{ study }} --lease-minutes {{ lease_minutes }}
ExecStopPost=+/bin/systemd-run --on-active=15 /opt/satx/last-one-out
Restart=on-failure
RestartPreventExitStatus=130
RestartSec=5
KillSignal=SIGTERM
TimeoutStopSec=60
UNIT
systemctl daemon-reload
for gpu in $(seq 0 $((gpus - 1))); do
  systemctl start --no-block "satx-worker@$gpu.service"
done
