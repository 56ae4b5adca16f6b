"""Commands on many experiments at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from slsr.experiments.study import Setting
from slsr.cli.options import PARAMS, TOOLS

app = typer.Typer()

study_app = typer.Typer(
    help="Many experiments in one command; given again, it goes on where it stopped.", no_args_is_help=True
)


app.add_typer(study_app, name="study", rich_help_panel=TOOLS)


SeedsOption = Annotated[str, typer.Option(help="such as 1-5 or 1,3,7")]


SeedsOf = Literal["training", "pipeline"]  # that of study.py, which is imported only when it is needed


SeedsOfOption = Annotated[
    SeedsOf,
    typer.Option(help="what a seed moves: the re-ID network's training, or encoder, clusters and generators as well"),
]


RegularizersOption = Annotated[str, typer.Option(help="comma-separated, of those in dvc.yaml and studies/dvc.yaml")]


ImagesOption = Annotated[
    str | None, typer.Option(help="N, comma-separated; none: multiples of generate.images in params.yaml")
]


DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="print the commands of what is not finished, run nothing")
]


QueueOption = Annotated[
    bool, typer.Option("--queue", help="put them into DVC's queue instead of running them one after the other")
]


def _study(name: str, settings: list[Setting], dry_run: bool, queue: bool) -> None:
    from slsr.experiments.study import plan, run_study

    run_study(name, plan(name, settings), dry_run=dry_run, queue=queue, say=typer.echo)


@study_app.command("regularizers")
def study_regularizers(
    seeds: SeedsOption = "1-5",
    backbones: Annotated[str | None, typer.Option(help="comma-separated; none: that of params.yaml")] = None,
    regularizers: RegularizersOption = "none,lsro,slsr",
    seeds_of: SeedsOfOption = "training",
    dry_run: DryRunOption = False,
    queue: QueueOption = False,
) -> None:
    """Regularizer x backbone (Table 4 of the paper), over seeds."""
    from slsr.experiments.study import names, numbers, regularizer_settings
    from slsr.params.file import load_params

    chosen = names(backbones) if backbones else [load_params(PARAMS).train.backbone]
    settings = regularizer_settings(numbers(seeds, "--seeds"), chosen, names(regularizers), seeds_of)
    _study("regularizers", settings, dry_run, queue)


@study_app.command("clusters")
def study_clusters(
    seeds: SeedsOption = "1-3",
    clusters: Annotated[str, typer.Option("--clusters", "-k", help="K, comma-separated")] = "2,3,4",
    images: ImagesOption = None,
    regularizers: RegularizersOption = "none,slsr",
    seeds_of: SeedsOfOption = "training",
    dry_run: DryRunOption = False,
    queue: QueueOption = False,
) -> None:
    """Number of clusters x number of generated images (Table 2 of the paper), over seeds."""
    from slsr.experiments.study import cluster_settings, names, numbers
    from slsr.params.file import load_params

    params = load_params(PARAMS)
    n = numbers(images, "--images") if images else [params.generate.images * times for times in (1, 2, 3)]
    ks, over = numbers(clusters, "--clusters"), numbers(seeds, "--seeds")
    settings = cluster_settings(over, ks, n, names(regularizers), params.cluster.sweep, seeds_of)
    _study("clusters", settings, dry_run, queue)


@study_app.command("generated")
def study_generated(
    seeds: SeedsOption = "1-3",
    images: ImagesOption = None,
    regularizers: RegularizersOption = "none,lsro,slsr",
    seeds_of: SeedsOfOption = "training",
    dry_run: DryRunOption = False,
    queue: QueueOption = False,
) -> None:
    """Number of generated images, from 0 (the baseline) upwards, over seeds."""
    from slsr.experiments.study import image_settings, names, numbers
    from slsr.params.file import load_params

    whole = load_params(PARAMS).generate.images
    n = numbers(images, "--images") if images else [0, whole // 2, whole, 2 * whole, 3 * whole]
    settings = image_settings(numbers(seeds, "--seeds"), n, names(regularizers), seeds_of)
    _study("generated", settings, dry_run, queue)


@study_app.command("epochs")
def study_epochs(
    epochs: Annotated[str, typer.Option(help="numbers of epochs, comma-separated")],
    seeds: SeedsOption = "1-3",
    regularizers: RegularizersOption = "none,lsro,slsr",
    seeds_of: SeedsOfOption = "training",
    dry_run: DryRunOption = False,
    queue: QueueOption = False,
) -> None:
    """Number of epochs, over seeds: is it the method, or the steps that generated images add to an epoch?"""
    from slsr.experiments.study import epoch_settings, names, numbers

    settings = epoch_settings(numbers(seeds, "--seeds"), numbers(epochs, "--epochs"), names(regularizers), seeds_of)
    _study("epochs", settings, dry_run, queue)


@app.command(rich_help_panel=TOOLS)
def compare(
    experiments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="EXPERIMENT",
            help="names, patterns such as 'regularizers-*', git revisions, `workspace`; none: the last study",
        ),
    ] = None,
    ranking: Annotated[str, typer.Option(help="single_query, single_query_rerank, multi_query, ...")] = "single_query",
    baseline: Annotated[str, typer.Option(help="the regularizer that differences are taken to")] = "none",
    against: Annotated[
        list[str] | None,
        typer.Option(
            metavar="EXPERIMENT",
            help="take the baseline of these experiments for every row, though its settings differ; can be repeated",
        ),
    ] = None,
    seeds_of: Annotated[
        SeedsOf,
        typer.Option(help="which seeds differ within a row: the training's, or each experiment's own of every stage"),
    ] = "training",
    csv_path: Annotated[Path | None, typer.Option("--csv", metavar="OUT", help="write every measure here")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="OUT", help="write the table here")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="OUT.png", help="draw it here")] = None,
) -> None:
    """One table of any experiments: means and deviations over seeds, differences to the baseline with intervals."""
    from slsr.experiments.comparison import compare_experiments, finished_of_last_study
    from slsr.experiments.tables import draw_comparison, render_csv, render_markdown
    from slsr.files import write_bytes
    from slsr.project.revisions import find_revisions

    revisions = find_revisions(Path(), experiments or finished_of_last_study(Path()))
    found = compare_experiments(revisions, ranking, baseline, find_revisions(Path(), against or []), seeds_of=seeds_of)
    text = render_markdown(found)
    if csv_path is not None:
        write_bytes(csv_path, render_csv(found).encode())
    if markdown is not None:
        write_bytes(markdown, text.encode())
    if plot is not None:
        draw_comparison(plot, found)
    typer.echo(text, nl=False)
