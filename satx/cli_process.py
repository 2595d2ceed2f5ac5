"""Start and end of a satx process: the limit of open files, a quiet import of Keras, and exit codes."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import NoReturn

from satx.environment import THREADS, environment
from satx.errors import ConfigError, Interrupted, SatxError

BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX"}
MANY_FILES = 16_384  # trunk cache shards, each 256 tiles in one view


def allow_many_files() -> None:
    """Raise the process's limit of open files: every memory-mapped shard of the trunk cache is an open file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def use_threads_of(tags: Mapping[str, str]) -> None:
    """Use as many threads as a run did, to repeat it exactly. Call this before Keras is loaded.

    Args:
        tags: Tags of the run. Without the tag `threads` nothing changes.
    """
    if "threads" in tags:
        os.environ[THREADS] = tags["threads"]
        environment.cache_clear()


def use_device(device: str) -> None:
    """Let Keras use the GPU or not. Call this before Keras is loaded.

    Args:
        device: `cpu` hides the GPU; `auto` and `gpu` use it. whether there is one is known after loading.
    """
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        os.environ["JAX_PLATFORMS"] = "cpu"


def retry_nothing_in_mlflow() -> None:
    """Turn off the retries of MLflow's client, for a worker.

    The client would also repeat the creation of a run that exists already. A worker writes through the spool, which
    retries too, but searches for the run first.
    """
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"


def load_keras_quietly(*, announced: bool = False) -> None:
    """Import Keras without the lines that TensorFlow's C++ code prints before logging can be configured.

    Args:
        announced: Whether to print that it is loading.

    Raises:
        ConfigError: `KERAS_BACKEND` names a backend that satx has no training steps for.
    """
    # only the variable counts: ~/.keras/keras.json belongs to other programs
    backend = environment().keras_backend
    if backend not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND: expected {' or '.join(BACKENDS)}, got {backend!r}. Set it to one of them.")
    os.environ["KERAS_BACKEND"] = backend
    if announced:
        print(f"Loading {BACKENDS[backend]} …", flush=True)  # it takes many seconds
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # else the first process allocates the whole GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    allow_many_files()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import keras

            # ~/.keras/keras.json may set others for other programs
            keras.config.set_image_data_format("channels_last")
            keras.config.set_floatx("float32")
            keras.config.set_epsilon(1e-7)
            keras.distribution.list_devices()
        except KeyboardInterrupt:
            raise  # what TensorFlow said is no reason for it
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def run_with_exit_code(command: Callable[[], object]) -> None:
    """Run a command; on an error of satx, print one message and exit with the error's exit code.

    Processes that the command starts do not import modules from the current folder, which may hold anybody's files.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        command()
    except (KeyboardInterrupt, SystemExit) as stop:  # Typer turns the first into the second, and says nothing
        if isinstance(stop, SystemExit) and stop.code != Interrupted.exit_code:
            raise
        print("\nStopped." if sys.stderr.isatty() else "Stopped.", file=sys.stderr)  # below the terminal's ^C
        sys.exit(Interrupted.exit_code)
    except SatxError as error:
        _exit_with(error)
    except (
        Exception
    ) as error:  # libraries have no common base; what a user can fix gets a message, the rest is raised again
        # Imported here because the imports are slow and `--help` does not need them.
        from satx.study.outages import as_satx_error

        known = as_satx_error(error)
        if known is None:
            raise
        _exit_with(known)


def _exit_with(error: SatxError) -> NoReturn:
    print(error if isinstance(error, Interrupted) else f"Error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
