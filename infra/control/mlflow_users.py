"""Give MLflow's server the user of the workers, with the rights of a worker and no more.

The service `mlflow-users` of compose.yaml runs this at each `up`; running it again changes nothing but the password, which it
sets to the one in the environment. MLFLOW_TRACKING_URI, _USERNAME and _PASSWORD are the server's and its administrator's,
MLFLOW_WORKER_PASSWORD is the workers'. Needs only MLflow.
"""

from __future__ import annotations

import os

from mlflow.exceptions import MlflowException
from mlflow.server import get_app_client

USER = "satx-worker"  # also the name of its role
WORKSPACE = "default"  # MLflow's only one, unless workspaces are enabled
RIGHTS = {
    "experiment": "EDIT",  # create runs, and log to them; without the right to delete an experiment or to share it
    "run": "MANAGE",  # remove the models of overtaken trials, which are files of runs; MLflow asks for this right
    # MLflow lets every user create these, unless they are denied
    "registered_model": "DENY",  # nor read or change models, or the aliases that name champions
    "prompt": "DENY",
    "gateway_secret": "DENY",
    "gateway_endpoint": "DENY",  # the server would send requests to any address
    "gateway_model_definition": "DENY",
    "mcp_server": "DENY",
}


def main() -> None:
    """Create or update the user, its role and the role's rights."""
    client = get_app_client("basic-auth", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
    password = os.environ["MLFLOW_WORKER_PASSWORD"]
    try:
        client.create_user(USER, password)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        client.update_user_password(USER, password)
        client.update_user_admin(USER, False)
    role = next((role for role in client.list_roles(WORKSPACE) if role.name == USER), None)
    role = role or client.create_role(WORKSPACE, USER)
    found = {(one.resource_type, one.permission): one.id for one in client.list_role_permissions(role.id)}
    for right in found.keys() - RIGHTS.items():
        client.remove_role_permission(found[right])
    for kind, permission in RIGHTS.items() - found.keys():
        client.add_role_permission(role.id, kind, "*", permission)
    if USER not in {each.name for each in client.list_user_roles(USER)}:
        client.assign_role(USER, role.id)


if __name__ == "__main__":
    main()
