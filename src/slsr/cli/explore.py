"""`slsr explore`: the options, and what is shown when none are given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from slsr.cli.options import TOOLS
from slsr.errors import InputError

if TYPE_CHECKING:
    from slsr.explore.exhibit import Sources


app = typer.Typer()


@app.command(rich_help_panel=TOOLS)
def explore(
    models: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL", help="checkpoints or folders of them; none: all below artifacts/train/", show_default=False
        ),
    ] = None,
    gallery: Annotated[Path | None, typer.Option(metavar="TABLE", help="images to rank; none: prepare's")] = None,
    query: Annotated[Path | None, typer.Option(metavar="TABLE", help="images to search with; none: prepare's")] = None,
    train: Annotated[Path | None, typer.Option(metavar="TABLE", help="images that were clustered")] = None,
    clusters: Annotated[Path | None, typer.Option(metavar="FOLDER", help="what cluster wrote")] = None,
    generated: Annotated[Path | None, typer.Option(metavar="TABLE", help="what generate wrote")] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8008,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    cache: Annotated[Path, typer.Option(metavar="FOLDER", help="features are kept here")] = Path(".scratch/explore"),
    strict: Annotated[
        bool, typer.Option("--strict", help="end at an image that cannot be read, instead of leaving it out")
    ] = False,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="open the page in a browser")] = False,
    token: Annotated[
        bool, typer.Option("--token", help="ask for a token, on a machine shared with others; always with --expose")
    ] = False,
    expose: Annotated[
        bool, typer.Option("--expose", help="allow a --host that others on the network can reach")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="a name the page is opened by, beside the address; repeat")
    ] = None,
) -> None:
    """A web page on this machine: queries and their ranked galleries, activation maps, clusters, generated images."""
    from slsr.explore.security import is_loopback

    loopback = is_loopback(host)
    if not loopback and not expose:
        raise InputError(
            f"--host {host}: others on the network could open the page and see its images; say --expose if that is "
            "wanted, or reach it through `ssh -L 8008:127.0.0.1:8008`"
        )
    given = {"gallery": gallery, "query": query, "train": train, "clusters": clusters, "generated": generated}
    _check_given(given)

    import secrets
    import socket
    import webbrowser
    from contextlib import closing

    from slsr.explore.app import empty_app, fill_app
    from slsr.explore.exhibit import open_exhibit
    from slsr.explore.security import Doors
    from slsr.explore.serving import address_of, open_server, serve

    sources = _sources(models or [], given)
    names = frozenset(
        name.lower() for name in [*(allowed_host or []), *([] if loopback else [host, socket.gethostname()])]
    )
    doors = Doors(names, not loopback, secrets.token_urlsafe(24) if token or not loopback else None)
    app = empty_app(doors)
    server = open_server(app, host, port)
    address = address_of(server, doors.token)

    def ready() -> None:
        if not loopback:
            typer.echo(
                f"warning: listening on {host}: whoever reaches this machine and has the token sees every image here, "
                "and the connection is not encrypted",
                err=True,
            )
        typer.echo(f"open {address} (Ctrl-C ends it)")
        if browser:
            webbrowser.open(address)

    with closing(server):
        exhibit = open_exhibit(sources, cache, device, lambda text: typer.echo(text, err=True), strict=strict)
        fill_app(app, exhibit)
        serve(server, ready)


def _check_given(given: dict[str, Path | None]) -> None:
    """What is named must be there: a default that is missing is left out, a file that was asked for is not."""
    for option, path in given.items():
        if path is not None and not path.exists():
            raise InputError(f"--{option} {path}: no such file; check the path, or leave --{option} out")
    if given["clusters"] is not None and not given["clusters"].is_dir():
        raise InputError(f"--clusters {given['clusters']}: not a folder; give the one that holds assignments.parquet")


def _sources(models: list[Path], given: dict[str, Path | None]) -> Sources:
    """What was given, and for the rest what the pipeline has written.

    A query table of the pipeline goes with a gallery of the pipeline alone, and so do training images and clusters.
    """
    from slsr.explore.exhibit import Sources
    from slsr.stages.paths import CLUSTERS, GALLERY_TABLE, GENERATED_IMAGES, QUERY_TABLE, TRAIN_TABLE, TRAINED

    def default(path: Path, wanted: bool = True) -> Path | None:
        return path if wanted and path.exists() else None

    gallery = given["gallery"] or default(GALLERY_TABLE)
    clusters = given["clusters"] or default(CLUSTERS, (CLUSTERS / "assignments.parquet").is_file())
    train = given["train"] or default(TRAIN_TABLE)
    if given["clusters"] is not None and train is None:
        raise InputError(f"--clusters {given['clusters']}: the images that were clustered are missing; name --train")
    return Sources(
        models=models or (_trained(TRAINED) if gallery is not None else []),
        gallery=gallery,
        query=given["query"] or default(QUERY_TABLE, given["gallery"] is None),
        train=train,
        clusters=clusters,
        generated=given["generated"] or default(GENERATED_IMAGES),
    )


def _trained(folder: Path) -> list[Path]:
    """The trained networks of the pipeline, that of the method first, the baseline last."""
    found = folder.glob("*/model.safetensors")
    return sorted(found, key=lambda file: (file.parent.name != "slsr", file.parent.name == "none", file.parent.name))
