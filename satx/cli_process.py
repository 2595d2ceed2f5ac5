"""How a process of satx begins and ends: what it needs of the machine, Keras without its noise, an exit code that is meant."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Callable
from typing import NoReturn

from satx.errors import ConfigError, Interrupted, SatxError

BACKENDS = ("tensorflow", "jax")
MANY_FILES = 16_384  # shards of 256 tiles in one view


def allow_many_files() -> None:
    """Raise the process's limit of open files: every shard of the trunk cache that is mapped is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def load_keras_quietly() -> None:
    """Import Keras without the lines that TensorFlow's C++ side prints before anyone can configure it.

    Raises:
        ConfigError: It is to run on a backend that satx has no training steps for.
    """
    # the variable alone decides: ~/.keras/keras.json is some other program's
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend not in BACKENDS:
        raise ConfigError(f"KERAS_BACKEND: expected {' or '.join(BACKENDS)}, got {backend!r}. Set it to one of them.")
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # or the first of several processes takes all of a GPU
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    allow_many_files()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import keras

            keras.distribution.list_devices()
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def run_with_exit_code(command: Callable[[], object]) -> None:
    """Run and exit; errors of ours become one message and the exit code that belongs to them."""
    try:
        command()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(Interrupted.exit_code)
    except SatxError as error:
        _exit_with(error)
    except Exception as error:
        # Which classes these are takes heavy imports to say, which `--help` must not pay; the unknown is raised again.
        from satx.study.outages import as_satx_error

        known = as_satx_error(error)
        if known is None:
            raise
        _exit_with(known)


def _exit_with(error: SatxError) -> NoReturn:
    word = "Stopped" if isinstance(error, Interrupted) else "Error"
    print(f"{word}: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
