"""Score features or distances that any tool has computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.options import TOOLS, CamerasOption, accepted_cameras
from slsr.datasets.collection import Directions, ProtocolName

app = typer.Typer()


@app.command(rich_help_panel=TOOLS)
def score(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz",
            help="arrays query_features, query_identities, query_cameras and the same three for the gallery; or "
            "distances in place of the features",
        ),
    ],
    rerank: Annotated[
        bool, typer.Option("--rerank", help="also re-rank by k-reciprocal encoding (k1 20, k2 6, lambda 0.3)")
    ] = False,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(show_default="what the file says, else cross-camera", help="how the data set is evaluated"),
    ] = None,
    directions: Annotated[
        Directions | None,
        typer.Option(
            show_default="what the file says, else both", help="of single-gallery-shot: one, or the mean of both"
        ),
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the numbers here")] = None,
    per_query: Annotated[
        Path | None, typer.Option(metavar="OUT.parquet", help="write the measures of every query here")
    ] = None,
    cameras: CamerasOption = None,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="scale features to length 1")] = True,
) -> None:
    """Compute CMC, average precision and mINP of features or distances from any tool."""
    from slsr.evaluation.scoring import score_file

    typer.echo(
        score_file(
            features,
            rerank=rerank,
            normalize=normalize,
            protocol=protocol,
            directions=directions,
            cameras=accepted_cameras(cameras),
            json_path=json_path,
            per_query=per_query,
        )
    )
