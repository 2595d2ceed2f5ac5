"""The commands `satx predict` and `satx map`: the champion on millions of tiles, and a page of what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from satx.cli_options import Json
from satx.cli_process import load_keras_quietly, use_device
from satx.errors import ConfigError

Tiles = Annotated[
    Path | None,
    typer.Argument(
        help="Folder of images, CSV or Parquet of z,x,y, GeoJSON area, MBTiles or PMTiles.", show_default=False
    ),
]
Out = Annotated[str | None, typer.Option(help="Folder of the output, or s3://bucket/prefix.", show_default=False)]
Url = Annotated[
    str | None,
    typer.Option(
        help="Where the imagery of a table or an area is: 'https://HOST/{z}/{x}/{y}.jpg?key=${KEY}' in single quotes, an "
        "s3:// template, an MBTiles, PMTiles or GeoTIFF file.",
        show_default=False,
    ),
]
Zoom = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=24,
        help="Zoom of an area (default: 18) or a file (default: its deepest).",
        show_default=False,
    ),
]
Model = Annotated[str | None, typer.Option(help="Name of the model. Needed if there are several.", show_default=False)]
Version = Annotated[int | None, typer.Option(help="Its version. Default: the champion.", show_default=False)]
Endpoint = Annotated[
    str | None,
    typer.Option(help="Score at this server instead: http://127.0.0.1:8501/v1/models/school", show_default=False),
]
Engine = Annotated[Literal["local", "ray"], typer.Option(help="This machine, or a Ray cluster.")]
Address = Annotated[str | None, typer.Option(help="Address of the Ray cluster, or `auto`.", show_default=False)]
Device = Annotated[
    Literal["auto", "cpu", "gpu"], typer.Option(help="Where to score; `auto` takes a GPU if there is one.")
]
Precision = Annotated[
    Literal["auto", "float32", "bfloat16"], typer.Option(help="`auto` is bfloat16 on a GPU, else float32.")
]
Placeholder = Annotated[
    list[Path] | None,
    typer.Option(help="A picture that stands for missing imagery; can be repeated.", show_default=False),
]
Attribution = Annotated[
    str | None,
    typer.Option(help="Text to print beside the imagery. Default: the source's own.", show_default=False),
]
AllowEmbedding = Annotated[
    bool, typer.Option("--allow-embedding", help="Let the map contain small pictures of the imagery.")
]
Flatgeobuf = Annotated[
    bool, typer.Option("--flatgeobuf", help="Write the candidates as FlatGeobuf too. Needs `satx[geo]`.")
]
Verify = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Recount an output from its files alone, and stop.", show_default=False),
]


def predict(
    tiles: Tiles = None,
    out: Out = None,
    url: Url = None,
    zoom: Zoom = None,
    model: Model = None,
    version: Version = None,
    endpoint: Endpoint = None,
    engine: Engine = "local",
    address: Address = None,
    device: Device = "auto",
    precision: Precision = "auto",
    placeholder: Placeholder = None,
    attribution: Attribution = None,
    allow_embedding: AllowEmbedding = False,
    flatgeobuf: Flatgeobuf = False,
    verify: Verify = None,
    as_json: Json = False,
) -> None:
    """Score every tile with the champion; each has a status in the output, and a killed run continues when it is repeated."""
    if verify is not None:
        if tiles is not None or out is not None:
            raise ConfigError(
                "--verify: expected the folder of an output alone, got tiles or --out too. Leave them out."
            )
        from satx.commands.verify import verify_command

        verify_command(verify, as_json=as_json)
        return
    if tiles is None or out is None:
        raise ConfigError("Expected what to predict and --out, as in `satx predict data/tiles --out predictions`.")
    if address is not None and engine != "ray":
        raise ConfigError("--address: expected it with --engine ray, got --engine local. Add --engine ray.")
    from satx.bulk.target import read_target

    target = read_target(tiles, imagery=url, zoom=zoom)
    if endpoint is None:
        use_device(device)
        load_keras_quietly(announced=not as_json)
        _require(device)
    from satx.commands.console import quiet_libraries
    from satx.commands.predict import Request, predict_command

    quiet_libraries()
    request = Request(
        tiles=tiles,
        out=out,
        model=model,
        version=version,
        endpoint=endpoint,
        precision=precision,
        placeholders=tuple(placeholder or ()),
        attribution=attribution,
        allow_embedding=allow_embedding,
        engine=engine,
        address=address,
        flatgeobuf=flatgeobuf,
    )
    predict_command(request, target, as_json=as_json)


def _require(device: str) -> None:
    from satx.training.devices import device_name

    if device == "gpu" and device_name() != "gpu":
        raise ConfigError(
            "--device: expected a GPU, Keras sees none. `satx doctor` checks what is missing; --device cpu does without."
        )


def show_map(
    folder: Annotated[Path, typer.Argument(help="Output of `satx predict`, on this machine.")],
    output: Annotated[
        Path | None, typer.Option(help="File to write. Default: map.html in the folder.", show_default=False)
    ] = None,
    floor: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Lowest probability shown. Default: half the threshold.", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page of a prediction, with a threshold to move; it opens without a network."""
    from satx.commands.map import map_command

    map_command(folder, output=output, floor=floor, as_json=as_json)
