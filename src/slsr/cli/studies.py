"""Commands on many experiments at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import EXPERIMENTS
from slsr.cli.outputs import check_output, check_writable
from slsr.cli.terminal import fitted
from slsr.experiments.seeds import Over, SeedsOf

app = Commands()

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A file such as studies/table4.yaml, or its name, table4; or a new name, for a study that the options "
        "describe.",
    ),
]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set-param",
        "-S",
        metavar="KEY=VALUE,...",
        help="Values of a parameter, such as cluster.k=2,3,4. With several parameters, every combination is run.",
    ),
]
RegularizersOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,...", help="Regularizers of dvc.yaml and studies/dvc.yaml to train. By default, none,lsro,slsr."
    ),
]
StepsOption = Annotated[
    Literal["as-given", "equal"] | None,
    typer.Option(help="With equal, every regularizer trains for as many steps as one with generated images."),
]
ExperimentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT",
        help="Names, patterns such as 'table4-*', git revisions, `workspace`, folders that --save wrote. By default, "
        "those of the last study.",
    ),
]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EXPERIMENT",
        help="Subtract the baseline of this experiment from every row, even if its settings differ. May be repeated.",
    ),
]


@app.command(
    rich_help_panel=EXPERIMENTS,
    examples=["slsr study table4 --dry-run", "slsr study clusters -S cluster.k=2,3,4 --seeds 1-5"],
)
def study(
    name: StudyArgument,
    vary: VaryOption = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N-M", help="Seeds, such as 1-5 or 1,3,7. By default, 1-5.")
    ] = None,
    seeds_of: Annotated[
        SeedsOf | None,
        typer.Option(help="What a seed sets: only `train.seed` (the default), or the seeds of all stages."),
    ] = None,
    regularizers: RegularizersOption = None,
    steps: StepsOption = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the commands of the experiments that are not finished; run nothing."),
    ] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Put the experiments into DVC's queue instead of running them now.")
    ] = False,
) -> None:
    """Run the experiments of a study; given again, continue where it stopped."""
    from slsr.experiments.study import names, numbers, read_study, values_of_parameters

    given: dict[str, Any] = {
        "vary": values_of_parameters(vary) if vary else None,
        "seeds": numbers(seeds, "--seeds") if seeds is not None else None,
        "seeds_of": seeds_of,
        "regularizers": names(regularizers) if regularizers is not None else None,
        "steps": steps,
    }
    options = {key: value for key, value in given.items() if value is not None}
    title, found = read_study(Path(), name, options)
    from slsr.experiments.study_runs import plan, run_study

    run_study(Path(), title, plan(Path(), title, found), dry_run=dry_run, queue=queue, say=typer.echo)


@app.command(
    rich_help_panel=EXPERIMENTS,
    examples=["slsr compare", "slsr compare workspace main", "slsr compare 'table4-*' --markdown table.md"],
)
def compare(
    experiments: ExperimentsArgument = None,
    ranking: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Way of ranking: single_query, single_query_rerank, multi_query, ..., single_gallery_shot.",
        ),
    ] = "single_query",
    baseline: Annotated[str, typer.Option(metavar="NAME", help="Regularizer to subtract from the others.")] = "none",
    against: AgainstOption = None,
    seeds_of: Annotated[
        SeedsOf,
        typer.Option(help="What differs between the seeds of a row: only `train.seed`, or the seeds of all stages."),
    ] = "training",
    over: Annotated[
        Over, typer.Option(help="What a row is the mean of: seeds, or the splits of VIPeR and CUHK03 classic, too.")
    ] = "seeds",
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="OUT.csv", help="Write every measure to this file.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option(metavar="OUT.md", help="Write the table as Markdown to this file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="OUT.png", help="Draw the table into this file.")] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the numbers of each network into this folder, for git to keep."),
    ] = None,
) -> None:
    """Compare experiments in one table: means and deviations over seeds, differences to the baseline."""
    from slsr.experiments.saved import find_sources, save_networks, without_names
    from slsr.experiments.study_runs import finished_of_last_study
    from slsr.files import write_bytes

    for path, suffix in ((csv_path, ".csv"), (markdown, ".md"), (plot, ".png")):
        check_output(path, suffix, replace=True)
    if save is not None:
        check_writable(save)
    root = Path()
    sources = find_sources(root, experiments or finished_of_last_study(root))
    others = find_sources(root, against or [])
    from slsr.experiments.comparison import compare_networks
    from slsr.experiments.networks import files_of
    from slsr.experiments.splits import compare_over_splits
    from slsr.experiments.tables import draw_comparison, render_csv, render_markdown

    if save is not None:
        found_files = [files for revision in sources.revisions for files in files_of(revision)]
        typer.echo(f"saved in {save}: {len(save_networks(found_files, save))} networks", err=True)
    networks, controls = sources.read(ranking), others.read(ranking)
    if sources.folders or others.folders:  # saved queries have no names
        networks, controls = without_names(networks), without_names(controls)
    compare_rows = compare_over_splits if over == "splits" else compare_networks
    found = compare_rows(networks, ranking, baseline, controls or None, seeds_of=seeds_of)
    text = render_markdown(found)
    if csv_path is not None:
        write_bytes(csv_path, render_csv(found).encode())
    if markdown is not None:
        write_bytes(markdown, text.encode())
    if plot is not None:
        draw_comparison(plot, found)
    typer.echo(fitted(text))
