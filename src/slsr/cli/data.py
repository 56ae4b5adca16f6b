"""Commands on data: the drawn sample, and the archives in data/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.options import PARAMS, PRESETS, TOOLS
from slsr.errors import CheckFailed, InputError

app = typer.Typer()


@app.command(rich_help_panel=TOOLS)
def sample(
    target: Annotated[Path, typer.Argument(metavar="OUT.zip", help="the archive to write")],
    seed: Annotated[int, typer.Option(help="the same seed gives the same bytes")] = 1501,
    identities: Annotated[int, typer.Option(help="people in the training half, and as many in the test half")] = 32,
) -> None:
    """Draw the sample data set: pedestrians that show nobody, packed as Market-1501 is."""
    from slsr.sample import draw_archive

    counts = draw_archive(target, seed, identities)
    typer.echo(f"wrote {target}: {counts}")


data_app = typer.Typer(help="Archives: add one, check what is in it, list what can be read.", no_args_is_help=True)


app.add_typer(data_app, name="data", rich_help_panel=TOOLS)


ProtocolOption = Annotated[str | None, typer.Option(help="CUHK03: classic or np")]


BoxesOption = Annotated[str | None, typer.Option(help="CUHK03: detected or labeled")]


SplitOption = Annotated[int | None, typer.Option(help="CUHK03 classic: 1 to 20; VIPeR: 1 to 10")]


@data_app.command("add")
def data_add(
    archive: Annotated[
        Path, typer.Argument(help="zip file, cuhk-03.mat, unpacked folder, or table of your own images")
    ],
    name: Annotated[str | None, typer.Option(help="file name in data/")] = None,
    link: Annotated[bool, typer.Option("--link", help="reflink or hard link instead of a copy")] = False,
    allow_unreadable: Annotated[
        bool, typer.Option("--allow-unreadable", help="accept images that do not decode")
    ] = False,
) -> None:
    """Recognize an archive, verify every image, put it into data/ and track it with DVC."""
    from slsr.datasets.adding import add_archive, next_steps
    from slsr.datasets.opening import recognize
    from slsr.datasets.survey import render_survey
    from slsr.params.presets import preset_archive

    dataset = recognize(archive).name
    archive_of_preset = preset_archive(PRESETS, dataset)
    added = add_archive(archive, Path(), name, link, allow_unreadable)
    typer.echo(render_survey(added.survey))
    for warning in added.warnings:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(f"\nadded {added.target}, tracked by data.dvc, which `dvc push` leaves here. Next:")
    for step in next_steps(added, dataset if archive_of_preset else None, archive_of_preset):
        typer.echo(f"  {step}")


@data_app.command("check")
def data_check(
    archive: Annotated[Path | None, typer.Argument(help="as for add; none: the one that params.yaml names")] = None,
    protocol: ProtocolOption = None,
    boxes: BoxesOption = None,
    split: SplitOption = None,
) -> None:
    """Print what prepare would find: counts, sizes, duplicates, leaks, unreadable images, the published counts."""
    import tempfile

    from slsr.datasets.opening import Choice, choose, recognize
    from slsr.datasets.survey import render_survey, survey
    from slsr.params.file import load_params

    if archive is None:
        dataset = load_params(PARAMS).dataset
        archive = Path("data") / dataset.archive
        named = Choice(dataset.name, dataset.protocol, dataset.boxes, dataset.split)
    else:
        named = recognize(archive)
    choice = choose(named, protocol, boxes, split)
    with tempfile.TemporaryDirectory() as scratch:
        found = survey(archive, choice, Path(scratch))
    typer.echo(render_survey(found))
    if found.problems or found.unreadable:
        raise CheckFailed(f"{archive}: not usable as it is; see PROBLEM above")


@data_app.command("list")
def data_list() -> None:
    """List the data sets that can be read, and the archives in data/."""
    from slsr.datasets.survey import render_list
    from slsr.params.file import load_params

    try:
        used = load_params(PARAMS).dataset.archive
    except InputError:
        used = None
    typer.echo(render_list(Path("data"), used))
