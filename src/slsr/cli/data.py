"""Commands for data: draw the sample, and add, check and list archives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import PARAMS, PRESETS, SET_UP, BoxesOption, ProtocolOption, SplitOption
from slsr.errors import CheckFailed, InputError

app = Commands()


@app.command(rich_help_panel=SET_UP, examples=["slsr sample small.zip --identities 8"])
def sample(
    target: Annotated[Path, typer.Argument(metavar="OUT.zip", help="The archive to write.")],
    seed: Annotated[int, typer.Option(metavar="N", help="Seed. The same seed gives the same bytes.")] = 1501,
    identities: Annotated[
        int, typer.Option(metavar="N", help="Number of people for training. The test half has as many.")
    ] = 32,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.zip if it exists.")] = False,
) -> None:
    """Draw a data set of people who do not exist, in the layout of Market-1501."""
    from slsr.sample import draw_archive

    counts = draw_archive(target, seed, identities, force)
    typer.echo(f"wrote {target}: {counts}")


data_app = Commands(help="Add an archive of images, check it, or list what can be read.", no_args_is_help=True)
app.add_typer(data_app, name="data", rich_help_panel=SET_UP)


@data_app.command("add", examples=["slsr data add ~/Downloads/Market-1501-v15.09.15.zip"])
def data_add(
    archive: Annotated[
        Path,
        typer.Argument(
            metavar="ARCHIVE", help="A zip file, cuhk-03.mat, an unpacked folder, or a table of your own images."
        ),
    ],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Name of the file in data/.")] = None,
    link: Annotated[bool, typer.Option("--link", help="Use a reflink or hard link instead of a copy.")] = False,
    allow_unreadable: Annotated[
        bool, typer.Option("--allow-unreadable", help="Accept images that cannot be decoded.")
    ] = False,
) -> None:
    """Copy an archive into data/ and track it with DVC, after checking every image."""
    from slsr.datasets.adding import add_archive, next_steps
    from slsr.datasets.opening import recognize
    from slsr.datasets.survey import render_survey
    from slsr.params.presets import preset_archive

    dataset = recognize(archive).name
    archive_of_preset = preset_archive(PRESETS, dataset)
    added = add_archive(archive, Path(), name, link, allow_unreadable)
    typer.echo(render_survey(added.survey))
    if added.warning:
        typer.echo(f"warning: {added.warning}", err=True)
    typer.echo(f"\nadded {added.target}, tracked by data.dvc; `dvc push` does not upload it. Next:")
    for step in next_steps(added, dataset if archive_of_preset else None, archive_of_preset):
        typer.echo(f"  {step}")


@data_app.command("check", examples=["slsr data check", "slsr data check people.csv"])
def data_check(
    archive: Annotated[
        Path | None,
        typer.Argument(
            metavar="ARCHIVE", help="As for `slsr data add`. By default, the archive that params.yaml names."
        ),
    ] = None,
    protocol: ProtocolOption = None,
    boxes: BoxesOption = None,
    split: SplitOption = None,
) -> None:
    """Check an archive: counts (also against the published ones), sizes, duplicates, leaks, unreadable images."""
    import tempfile

    from slsr.datasets.opening import choose, recognize
    from slsr.datasets.survey import render_survey, survey
    from slsr.params.file import load_params

    halves = None
    if archive is None:
        dataset = load_params(PARAMS).dataset
        halves = dataset.halves()
        archive, variant = Path("data") / dataset.archive, choose(dataset, protocol, boxes, split)
    else:
        variant = choose(recognize(archive), protocol, boxes, split)
    with tempfile.TemporaryDirectory() as scratch:
        found = survey(archive, variant, Path(scratch), halves)
    typer.echo(render_survey(found))
    if found.problems or found.unreadable:
        raise CheckFailed(f"{archive}: not usable; see PROBLEM above")


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
