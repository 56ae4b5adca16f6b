"""Score features or distances that any tool has computed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import USE, CamerasOption, accepted_cameras
from slsr.cli.outputs import check_output
from slsr.cli.terminal import fitted
from slsr.datasets.collection import Directions, ProtocolName

app = Commands()


@app.command(rich_help_panel=USE, examples=["slsr score features.npz --rerank --json scores.json"])
def score(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz",
            help="Arrays query_features, query_identities, query_cameras and the same three of the gallery; or "
            "distances in place of the features.",
        ),
    ],
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Re-rank, too, by k-reciprocal encoding (k1 20, k2 6, lambda 0.3).")
    ] = False,
    protocol: Annotated[
        ProtocolName | None,
        typer.Option(
            help="How the data set is evaluated. By default, as the file says, or else cross-camera.",
        ),
    ] = None,
    directions: Annotated[
        Directions | None,
        typer.Option(
            help="Directions of single-gallery-shot: one, or the mean of both. By default, as the file says, or both."
        ),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Write the numbers to this file.")
    ] = None,
    per_query: Annotated[
        Path | None, typer.Option(metavar="OUT.parquet", help="Write the measures of every query to this file.")
    ] = None,
    cameras: CamerasOption = None,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="Scale features to length 1.")] = True,
) -> None:
    """Compute CMC, average precision and mINP of features or distances from any tool."""
    accepted = accepted_cameras(cameras)
    check_output(json_path, ".json", replace=True)
    check_output(per_query, ".parquet", replace=True)
    from slsr.evaluation.scoring import score_file

    text = score_file(
        features,
        rerank=rerank,
        normalize=normalize,
        protocol=protocol,
        directions=directions,
        cameras=accepted,
        json_path=json_path,
        per_query=per_query,
    )
    typer.echo(fitted(text))
