"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Session = Annotated[str, typer.Option("--session", "-s", help="Session, as in `experiments/session<N>.yaml`.")]
Data = Annotated[Path | None, typer.Option(help="Folder of tiles. Default: the session's own.", show_default=False)]
Weights = Annotated[
    str | None,
    typer.Option(help="Folder of `<backbone>_notop.weights.h5`, or `none` for random weights.", show_default=False),
]
Size = Annotated[int | None, typer.Option(help="Edge of the tiles in pixels; overrides the YAML.", show_default=False)]
Budget = Annotated[
    float | None, typer.Option(min=0.01, help="Machines terminate when this much is spent.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
