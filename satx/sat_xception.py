"""The original's command line, unchanged: `sat_xception train -model=mobilenetv2 -train=train -valid=valid`.

`train` runs one training with default settings on the given folders, relative to the current directory; `-trials=100`
runs the original's search instead. Resume, curves and promotion, which the original did not have, come from satx.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from satx.catalogue import BACKBONES
from satx.cli_process import load_keras_quietly, run_with_exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sat_xception", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the model", allow_abbrev=False)
    train.add_argument("-model", "--model_id", required=True, metavar="NAME", help=", ".join(BACKBONES))
    train.add_argument("-train", "--train_dir", required=True, type=Path, metavar="DIR", help="a folder for each class")
    train.add_argument("-valid", "--validation_dir", required=True, type=Path, metavar="DIR", help="likewise")
    train.add_argument(
        "-trials", type=int, default=1, metavar="N", help="search N configurations instead of training one"
    )
    train.add_argument(
        "-weights", metavar="DIR", help="folder of <backbone>_notop.weights.h5, or none for random weights"
    )
    train.add_argument(
        "-size", type=int, metavar="PX", help="edge of the tiles; the original's size of the backbone if left out"
    )
    return parser


def _train(arguments: argparse.Namespace) -> None:
    load_keras_quietly(announced=True)
    from satx.commands.console import quiet_libraries
    from satx.commands.sat_xception import train_original

    quiet_libraries()
    train_original(
        backbone=arguments.model_id,
        train_dir=arguments.train_dir,
        valid_dir=arguments.validation_dir,
        trials=arguments.trials,
        weights=arguments.weights,
        image_size_px=arguments.size,
    )


def main() -> None:
    """Run the command line of `sat_xception`."""
    arguments = _parser().parse_args(sys.argv[1:])
    run_with_exit_code(lambda: _train(arguments))
