"""The command line of the original: `sat_xception train -model=mobilenetv2 -train=train -valid=valid`.

Every argument of the original has its meaning, or is refused with what to use instead. `train` trains the whole network
once, with default settings; `-trials=100` runs the original's search. Resume, curves, test scores and promotion, which
the original did not have, come from satx.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from satx import __version__
from satx.catalogue import ALL, BACKBONES
from satx.cli_checks import check_original
from satx.cli_process import load_keras_quietly, run_with_exit_code
from satx.errors import ConfigError

EXAMPLE = "example: sat_xception train -model=mobilenetv2 -train=train -valid=valid -test=test"
LEVELS = range(6)  # of `--log`


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--version", action="version", version=f"satx {__version__}", help="print the version and stop")
    shared.add_argument(
        "--log",
        type=int,
        choices=LEVELS,
        default=2,
        metavar="N",
        help="least level of messages: 0 all, 1 debug, 2 info, 3 warning, 4 error, 5 critical; default 2",
    )
    parser = argparse.ArgumentParser(
        prog="sat_xception", description="The command line of Sat-Xception, run by satx.", epilog=EXAMPLE
    )
    parser.add_argument("--version", action="version", version=f"satx {__version__}", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", parents=[shared], help="train the model", epilog=EXAMPLE)
    _add_folders(train)
    train.add_argument(
        "-trials", "--trials", type=int, default=1, metavar="N", help="search N configurations instead of training one"
    )
    train.add_argument(
        "-unfreeze",
        "--unfreeze",
        default=ALL,
        metavar="CUT",
        help="train the backbone from this cut; none for the head alone; default all, as the original did",
    )
    train.add_argument(
        "-weights", "--weights", metavar="DIR", help="folder of <backbone>_notop.weights.h5, or none for random weights"
    )
    train.add_argument(
        "-size",
        "--size",
        type=int,
        metavar="PX",
        help="edge of the tiles; default: the original's, 256 for xception and 224 for mobilenetv2",
    )
    commands.add_parser("predict", parents=[shared], help="not in this version; says what to use instead")
    return parser


def _add_folders(train: argparse.ArgumentParser) -> None:
    train.add_argument("-model", "--model_id", required=True, metavar="NAME", help=", ".join(BACKBONES))
    train.add_argument("-train", "--train_dir", required=True, type=Path, metavar="DIR", help="a folder for each class")
    train.add_argument(
        "-valid",
        "--validation_dir",
        required=True,
        type=Path,
        metavar="DIR",
        help="likewise; the best epoch is chosen here",
    )
    train.add_argument(
        "-test", "--test_dir", type=Path, metavar="DIR", help="likewise, optional; the model is scored here at the end"
    )


def _train(arguments: argparse.Namespace) -> None:
    if arguments.command == "predict":
        raise ConfigError(
            "sat_xception predict: expected `train`, since this version does not predict whole folders. Export the model with "
            "`satx promote --run-id RUN`, and send tiles to the TensorFlow Serving command that it prints."
        )
    settings = check_original(
        arguments.model_id,
        arguments.unfreeze,
        trials=arguments.trials,
        size=arguments.size,
        folders=[
            folder
            for folder in (arguments.train_dir, arguments.validation_dir, arguments.test_dir)
            if folder is not None
        ],
    )
    load_keras_quietly(announced=True)
    from satx.commands.console import quiet_libraries
    from satx.commands.sat_xception import train_original

    quiet_libraries()
    show_messages_from(arguments.log)
    train_original(
        settings,
        train_dir=arguments.train_dir,
        valid_dir=arguments.validation_dir,
        test_dir=arguments.test_dir,
        trials=arguments.trials,
        weights=arguments.weights,
        image_size_px=arguments.size,
    )


def show_messages_from(number: int) -> None:
    """Show satx's messages from a level of `--log` on."""
    level = max(1, 10 * number)  # 0 would mean the level of the root logger
    logging.getLogger("satx").setLevel(level)
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)


def main() -> None:
    """Run the command line of `sat_xception`."""
    arguments = _parser().parse_args(sys.argv[1:])
    run_with_exit_code(lambda: _train(arguments))
