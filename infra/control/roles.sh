#!/bin/bash
# Runs once, when PostgreSQL's volume is created: one role for studies and one for MLflow. Neither is a superuser, and each can
# connect to its own databases only. The passwords come from the environment, since every user can read command lines.
set -euo pipefail
psql --quiet --no-psqlrc --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'SQL'
\getenv studies STUDIES_PASSWORD
\getenv mlflow MLFLOW_DATABASE_PASSWORD
CREATE ROLE satx LOGIN PASSWORD :'studies';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow';
CREATE DATABASE satx OWNER satx;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT ON DATABASE satx, mlflow, mlflow_auth, postgres FROM PUBLIC;
SQL
