"""Commands on many experiments at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from slsr.cli.options import TOOLS
from slsr.experiments.seeds import Over, SeedsOf

app = typer.Typer()

StudyArgument = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="a file such as studies/table4.yaml; its name, table4; or a new name, for a study that the options "
        "describe. The names of experiments begin with it",
    ),
]
VaryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set-param",
        "-S",
        metavar="KEY=VALUE,...",
        help="the values of a parameter, such as cluster.k=2,3,4; with several, every combination is run",
    ),
]
RegularizersOption = Annotated[
    str | None, typer.Option(help="comma-separated, of those in dvc.yaml and studies/dvc.yaml; default none,lsro,slsr")
]
StepsOption = Annotated[
    Literal["as-given", "equal"] | None,
    typer.Option(help="equal: every regularizer trains for as many steps as one with generated images, as a control"),
]
ExperimentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="EXPERIMENT",
        help="names, patterns such as 'table4-*', git revisions, `workspace`; by default those of the last study",
    ),
]
AgainstOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="EXPERIMENT",
        help="subtract the baseline of these experiments from every row, even if its settings differ; can be repeated",
    ),
]


@app.command(rich_help_panel=TOOLS)
def study(
    name: StudyArgument,
    vary: VaryOption = None,
    seeds: Annotated[str | None, typer.Option(help="such as 1-5 or 1,3,7; default 1-5")] = None,
    seeds_of: Annotated[
        SeedsOf | None,
        typer.Option(help="what a seed sets: only `train.seed` (the default), or the seeds of all stages"),
    ] = None,
    regularizers: RegularizersOption = None,
    steps: StepsOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the commands of the experiments that are not finished, run nothing")
    ] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="put the experiments into DVC's queue instead of running them now")
    ] = False,
) -> None:
    """Run many experiments; given again, continue where it stopped."""
    from slsr.experiments.study import names, numbers, read_study, values_of_parameters
    from slsr.experiments.study_runs import plan, run_study

    given: dict[str, Any] = {
        "vary": values_of_parameters(vary) if vary else None,
        "seeds": numbers(seeds, "--seeds") if seeds is not None else None,
        "seeds_of": seeds_of,
        "regularizers": names(regularizers) if regularizers is not None else None,
        "steps": steps,
    }
    options = {key: value for key, value in given.items() if value is not None}
    title, found = read_study(Path(), name, options)
    run_study(Path(), title, plan(Path(), title, found), dry_run=dry_run, queue=queue, say=typer.echo)


@app.command(rich_help_panel=TOOLS)
def compare(
    experiments: ExperimentsArgument = None,
    ranking: Annotated[
        str, typer.Option(help="single_query, single_query_rerank, multi_query, ...; single_gallery_shot")
    ] = "single_query",
    baseline: Annotated[str, typer.Option(help="the regularizer that is subtracted from the others")] = "none",
    against: AgainstOption = None,
    seeds_of: Annotated[
        SeedsOf,
        typer.Option(help="what differs between the seeds of a row: only `train.seed`, or the seeds of all stages"),
    ] = "training",
    over: Annotated[
        Over, typer.Option(help="what a row is the mean of: seeds, or the splits of VIPeR and CUHK03 classic, too")
    ] = "seeds",
    csv_path: Annotated[Path | None, typer.Option("--csv", metavar="OUT", help="write every measure here")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="OUT", help="write the table here")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="OUT.png", help="draw it here")] = None,
) -> None:
    """Print one table of experiments: means and deviations over seeds, and differences to the baseline."""
    from slsr.experiments.comparison import compare_networks
    from slsr.experiments.networks import read_networks
    from slsr.experiments.splits import compare_over_splits
    from slsr.experiments.study_runs import finished_of_last_study
    from slsr.experiments.tables import draw_comparison, render_csv, render_markdown
    from slsr.files import write_bytes
    from slsr.project.revisions import find_revisions

    root = Path()
    networks = read_networks(find_revisions(root, experiments or finished_of_last_study(root)), ranking)
    controls = read_networks(find_revisions(root, against), ranking) if against else None
    compare_rows = compare_over_splits if over == "splits" else compare_networks
    found = compare_rows(networks, ranking, baseline, controls, seeds_of=seeds_of)
    text = render_markdown(found)
    if csv_path is not None:
        write_bytes(csv_path, render_csv(found).encode())
    if markdown is not None:
        write_bytes(markdown, text.encode())
    if plot is not None:
        draw_comparison(plot, found)
    typer.echo(text, nl=False)
