"""`slsr explore`: its options, and what it shows without them."""

from __future__ import annotations

import secrets
import socket
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import USE, DeviceOption
from slsr.cli.terminal import progress
from slsr.errors import InputError

if TYPE_CHECKING:
    from slsr.explore.security import Doors

app = Commands()


def _table(text: str, stage: str) -> Any:
    return typer.Option(metavar="TABLE", help=f"{text} By default, the table that `{stage}` wrote.")


@app.command(
    rich_help_panel=USE,
    examples=[
        "slsr explore --open",
        "slsr explore artifacts/train/slsr --gallery gallery.parquet --query query.parquet",
    ],
)
def explore(
    models: Annotated[
        list[Path] | None,
        typer.Argument(metavar="MODEL", help="Checkpoints, or their folders. By default, all in artifacts/train/."),
    ] = None,
    gallery: Annotated[Path | None, _table("Images to rank.", "prepare")] = None,
    query: Annotated[Path | None, _table("Images to search with.", "prepare")] = None,
    train: Annotated[Path | None, _table("Images that were clustered.", "prepare")] = None,
    clusters: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Clusters to show. By default, the folder that `cluster` wrote."),
    ] = None,
    generated: Annotated[Path | None, _table("Generated images to show.", "generate")] = None,
    host: Annotated[str, typer.Option(metavar="NAME", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8008,
    device: DeviceOption = "auto",
    cache: Annotated[Path, typer.Option(metavar="FOLDER", help="Keep features in this folder.")] = Path(
        ".scratch/explore"
    ),
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail on an unreadable image. By default, leave it out and count it.")
    ] = False,
    browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in a browser.")] = False,
    token: Annotated[
        bool, typer.Option("--token", help="Ask for a token, on a shared machine. Always on with --expose.")
    ] = False,
    expose: Annotated[
        bool, typer.Option("--expose", help="Allow a --host that others on the network can reach.")
    ] = False,
    allowed_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Another name of this server. May be repeated.")
    ] = None,
) -> None:
    """Browse results in a local web page: ranked galleries, activation maps, clusters, generated images."""
    given = {"gallery": gallery, "query": query, "train": train, "clusters": clusters, "generated": generated}
    _check_host(host, expose)
    _check_given(given)
    files = _files(models or [], given)
    _check_files(files, host, port)
    progress("loading the networks ...")
    from slsr.explore.app import empty_app, fill_app
    from slsr.explore.exhibit import Sources, open_exhibit
    from slsr.explore.serving import address_of, open_server, serve

    doors = _doors(host, token, allowed_host or [])
    page = empty_app(doors)
    with closing(open_server(page, host, port)) as server:
        exhibit = open_exhibit(Sources(**files), cache, device, lambda text: typer.echo(text, err=True), strict=strict)
        fill_app(page, exhibit)
        address = address_of(server, doors.token)
        serve(server, lambda: _announce(address, host if doors.exposed else None, browser))


def _check_host(host: str, expose: bool) -> None:
    """Refuse an address that others can reach, unless that was asked for."""
    from slsr.explore.security import is_loopback

    if not is_loopback(host) and not expose:
        raise InputError(
            f"--host {host}: others on the network could open the page and see its images; add --expose if you want "
            "that, or use `ssh -L 8008:127.0.0.1:8008`"
        )


def _doors(host: str, token: bool, allowed: list[str]) -> Doors:
    """Decide which names a request may be addressed to, and whether it needs a token."""
    from slsr.explore.security import Doors, is_loopback

    exposed = not is_loopback(host)
    names = [*allowed, *([host, socket.gethostname()] if exposed else [])]
    secret = secrets.token_urlsafe(24) if token or exposed else None
    return Doors(frozenset(name.lower() for name in names), exposed, secret)


def _announce(address: str, exposed: str | None, browser: bool) -> None:
    """Print the address of the page, with a warning if others can reach it, and open it if wanted."""
    if exposed is not None:
        typer.echo(
            f"warning: listening on {exposed}: anyone who reaches this machine and has the token sees every image, and "
            "the connection is not encrypted",
            err=True,
        )
    typer.echo(f"open {address} (Ctrl-C ends it)")
    if browser:
        webbrowser.open(address)


def _check_given(given: dict[str, Path | None]) -> None:
    """Refuse a file that was asked for and does not exist; a missing default is left out instead."""
    for option, path in given.items():
        if path is not None and not path.exists():
            raise InputError(f"--{option} {path}: no such file; check the path, or leave --{option} out")
    if given["clusters"] is not None and not given["clusters"].is_dir():
        raise InputError(f"--clusters {given['clusters']}: not a folder; give the folder of assignments.parquet")


def _check_files(files: dict[str, Any], host: str, port: int) -> None:
    """Refuse files that cannot be shown, and an address that cannot be opened, before torch is loaded."""
    from slsr.explore.addresses import check_address
    from slsr.explore.checks import check_files, check_shown

    tables = {name: files[name] for name in ("gallery", "query", "train", "generated")}
    check_shown(files["models"], files["gallery"], files["train"], files["clusters"], files["generated"])
    check_files(files["models"], [table for table in tables.values() if table is not None])
    check_address(host, port)


def _files(models: list[Path], given: dict[str, Path | None]) -> dict[str, Any]:
    """Take the files that were given, and for the others those that the pipeline has written: fields of `Sources`.

    The query table of the pipeline is used only with the gallery of the pipeline.
    """
    from slsr.stages.paths import (
        CLUSTERS,
        ENCODER_MODEL,
        GALLERY_TABLE,
        GENERATED_IMAGES,
        QUERY_TABLE,
        TRAIN_FEATURES,
        TRAIN_TABLE,
        TRAINED,
    )

    def default(path: Path, wanted: bool = True) -> Path | None:
        return path if wanted and path.exists() else None

    gallery = given["gallery"] or default(GALLERY_TABLE)
    clusters = given["clusters"] or default(CLUSTERS, (CLUSTERS / "assignments.parquet").is_file())
    train = given["train"] or default(TRAIN_TABLE)
    if given["clusters"] is not None and train is None:
        raise InputError(f"--clusters {given['clusters']}: the images that were clustered are missing; name --train")
    return {
        "models": models or (_trained(TRAINED) if gallery is not None else []),
        "gallery": gallery,
        "query": given["query"] or default(QUERY_TABLE, given["gallery"] is None),
        "train": train,
        "clusters": clusters,
        "generated": given["generated"] or default(GENERATED_IMAGES),
        "encoder": default(ENCODER_MODEL),
        "train_features": default(TRAIN_FEATURES, given["train"] is None),
    }


def _trained(folder: Path) -> list[Path]:
    """Find the trained networks of the pipeline; the method comes first, the baseline last."""
    found = folder.glob("*/model.safetensors")
    return sorted(found, key=lambda file: (file.parent.name != "slsr", file.parent.name == "none", file.parent.name))
