"""Score features that any tool has computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.options import TOOLS, CamerasOption, accepted_cameras

app = typer.Typer()


@app.command(rich_help_panel=TOOLS)
def score(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz",
            help="arrays query_features, query_identities, query_cameras and the same three for the gallery",
        ),
    ],
    rerank: Annotated[
        bool, typer.Option("--rerank", help="also re-rank by k-reciprocal encoding (k1 20, k2 6, lambda 0.3)")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the numbers here")] = None,
    per_query: Annotated[
        Path | None, typer.Option(metavar="OUT.parquet", help="write the measures of every query here")
    ] = None,
    cameras: CamerasOption = None,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="scale features to length 1")] = True,
) -> None:
    """Compute CMC, average precision and mINP of features from any tool."""
    from slsr.evaluation.scoring import score_file

    accepted = accepted_cameras(cameras)
    typer.echo(
        score_file(
            features, rerank=rerank, normalize=normalize, cameras=accepted, json_path=json_path, per_query=per_query
        )
    )
