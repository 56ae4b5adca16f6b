"""The command `slsr`: one subcommand a pipeline stage, and the tools around it.

Every command imports what it needs when it runs, so that `slsr --help` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from slsr import cli_use
from slsr.cli_explore import explore
from slsr.errors import CheckFailed, InputError, Interrupted

if TYPE_CHECKING:
    from slsr.experiments.study import Setting

STAGES_IN_PROCESSES = {"train_encoder", "train", "train_gan", "extract_features", "evaluate"}
# What a path that the user named can run into; anything else is our fault, or the machine's, and is shown whole.
REFUSALS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EFBIG,
}
MEMORY_KNOBS = {
    "cluster": "cluster.minibatch_above",
    "train-encoder": "encoder.batch_size",
    "extract-features": "evaluate.batch_size",
    "train-gan": "gan.batch_size",
    "generate": "generate.images",
    "floors": "evaluate.batch_size",
    "train": "train.batch_size",
    "evaluate": "evaluate.batch_size",
    "embed": "--batch-size",
    "search": "--batch-size",
}
PARAMS = Path("params.yaml")
PRESETS = Path("presets")

app = typer.Typer(
    help="Person re-identification with sparse label smoothing: the stages of the pipeline and the tools around it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


STAGES = "Stages of the pipeline (run them with `dvc repro`)"
TOOLS = "Tools"

RegularizerArgument = Annotated[
    str, typer.Argument(metavar="REGULARIZER", help="none, lsr, lsro, slsr, slsr-weighted, one-hot or mprl")
]


def _run_stage(name: str, *arguments: str) -> None:
    """Validate params.yaml, then run a stage in the current folder."""
    from slsr.params import load_params

    params = load_params(PARAMS)
    if name in STAGES_IN_PROCESSES:
        _in_processes()
    importlib.import_module(f"slsr.stages.{name}").run(params, *arguments)
    if name in STAGES_IN_PROCESSES:
        from slsr.training.launch import leave_processes

        leave_processes()


class AllEnded(SystemExit):
    """The processes that this one started have ended, and have said what there is to say."""


def _in_processes() -> None:
    """Hand over to one process a device, unless this is one of them or one is enough."""
    from slsr.training.launch import join_processes, launched, processes_wanted, start_processes

    if launched(os.environ):
        join_processes(os.environ)
    elif (count := processes_wanted(os.environ)) > 1:
        raise AllEnded(start_processes(count, sys.argv[1:]))


def _regularizer(name: str) -> str:
    from typing import get_args

    from slsr.params import Regularizer

    if name not in get_args(Regularizer):
        raise InputError(f"regularizer {name!r}: choose one of {', '.join(get_args(Regularizer))}")
    return name


@app.command(rich_help_panel=STAGES)
def prepare() -> None:
    """An archive in data/ to image tables, checked and counted."""
    _run_stage("prepare")


@app.command(rich_help_panel=STAGES)
def train_encoder() -> None:
    """The network whose features are clustered."""
    _run_stage("train_encoder")


@app.command(rich_help_panel=STAGES)
def extract_features() -> None:
    """Features of all training images."""
    _run_stage("extract_features")


@app.command(rich_help_panel=STAGES)
def cluster() -> None:
    """K-means over the features, and the identities of each cluster."""
    _run_stage("cluster")


@app.command(rich_help_panel=STAGES)
def train_gan() -> None:
    """One DCGAN a cluster."""
    _run_stage("train_gan")


@app.command(rich_help_panel=STAGES)
def generate() -> None:
    """Images with a sparse label from every cluster, and how good they are."""
    _run_stage("generate")


@app.command(rich_help_panel=STAGES)
def floors() -> None:
    """What an untrained network and a colour histogram reach."""
    _run_stage("floors")


@app.command(rich_help_panel=STAGES)
def train(regularizer: RegularizerArgument) -> None:
    """The re-ID network, on real and generated images."""
    _run_stage("train", _regularizer(regularizer))


@app.command(rich_help_panel=STAGES)
def evaluate(regularizer: RegularizerArgument) -> None:
    """CMC, average precision and re-ranking of one trained network."""
    _run_stage("evaluate", _regularizer(regularizer))


@app.command(rich_help_panel=STAGES)
def report() -> None:
    """The metrics and the table that git keeps."""
    _run_stage("report")


@app.command(rich_help_panel=TOOLS)
def preset(
    name: Annotated[str | None, typer.Argument(help="name of a file in presets/; none lists them")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a params.yaml that you have edited")] = False,
) -> None:
    """Write params.yaml from presets/defaults.yaml and a preset, comments included."""
    from slsr.presets import preset_names, write_preset

    if name is None:
        typer.echo("\n".join(preset_names(PRESETS)))
        return
    write_preset(PRESETS, name, PARAMS, force)
    typer.echo(f"wrote {PARAMS} from the preset {name}")


@app.command(rich_help_panel=TOOLS)
def sample(
    target: Annotated[Path, typer.Argument(metavar="OUT.zip", help="the archive to write")],
    seed: Annotated[int, typer.Option(help="the same seed gives the same bytes")] = 1501,
    identities: Annotated[int, typer.Option(help="people in the training half, and as many in the test half")] = 32,
) -> None:
    """Draw the sample data set: pedestrians that show nobody, packed as Market-1501 is."""
    from slsr.datasets.drawn import draw_archive

    counts = draw_archive(target, seed, identities)
    typer.echo(f"wrote {target}: {counts}")


@app.command(rich_help_panel=TOOLS)
def score(
    features: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.npz",
            help="arrays query_features, query_identities, query_cameras and the same three of the gallery",
        ),
    ],
    rerank: Annotated[
        bool, typer.Option("--rerank", help="k-reciprocal re-ranking too: k1 20, k2 6, lambda 0.3")
    ] = False,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the numbers here")] = None,
    per_query: Annotated[
        Path | None, typer.Option(metavar="OUT.parquet", help="write the measures of every query here")
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize/--no-normalize", help="scale features to length 1")] = True,
) -> None:
    """CMC, average precision and mINP of features from any tool."""
    from slsr.retrieval.scoring import score_file

    typer.echo(score_file(features, rerank=rerank, normalize=normalize, json_path=json_path, per_query=per_query))


@app.command(rich_help_panel=TOOLS)
def fresh(
    rev: Annotated[str | None, typer.Option(help="a commit; by default the working tree, edits included")] = None,
) -> None:
    """Check that the committed metrics are those of the committed code, parameters and data; pulls and runs nothing."""
    from slsr.fresh import describe, freshness

    found = freshness(Path(), rev)
    typer.echo(describe(found))
    if found.stale:
        raise CheckFailed("the metrics are not those of this code, params.yaml and data; `dvc repro`, then commit")
    if found.unknown:
        raise InputError("some data cannot be checked from here; see above")


@app.command(rich_help_panel=TOOLS)
def remote(
    name: Annotated[str | None, typer.Argument(help="a DVC remote; by default the one that each out goes to")] = None,
    rev: Annotated[
        str | None, typer.Option(help="a commit, branch, tag or experiment; by default the working tree")
    ] = None,
    send: Annotated[bool, typer.Option("--send", help="send what is missing and lies in this clone's cache")] = False,
) -> None:
    """Check that every object of the outs lies in the remote, and have DVC forget what a killed command noted."""
    from slsr.remote_objects import describe, forget_notes, holdings, send_lacking

    forget_notes(Path())
    found = (send_lacking if send else holdings)(Path(), name, rev)
    typer.echo(describe(found))
    if found.lacking:
        remedy = "from a clone that has them" if send else "`slsr remote --send`"
        raise CheckFailed(f"{len(found.lacking)} objects are not in the remote; {remedy}")


@app.command(rich_help_panel=TOOLS)
def gate(
    against: Annotated[
        str | None, typer.Option(metavar="REV", help="commit to compare with; by default where HEAD leaves main")
    ] = None,
    rev: Annotated[str | None, typer.Option(help="commit to judge; by default the working tree")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write every verdict here")] = None,
    markdown: Annotated[Path | None, typer.Option(metavar="OUT", help="write the whole table here")] = None,
    despite_protocol: Annotated[
        bool, typer.Option("--despite-protocol", help="compare although test data or protocol differ")
    ] = False,
) -> None:
    """Compare metrics with those of another commit, by the rules in its metrics/gate.yaml."""
    from slsr.files import write_bytes, write_json
    from slsr.gate import compare_revisions
    from slsr.gate_text import as_json, render, verdict

    comparison = compare_revisions(Path(), against, rev, despite_protocol)
    whole = render(comparison, every_row=True)
    typer.echo(render(comparison, every_row=False))
    if json_path is not None:
        write_json(json_path, as_json(comparison))
    if markdown is not None:
        write_bytes(markdown, whole.encode())
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(whole)
    if comparison.judgement.failures:
        raise CheckFailed(f"{verdict(comparison)}; docs/gate.md says how to accept a drop")


@app.command(rich_help_panel=TOOLS)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds that each remote may take to answer")] = 10.0,
) -> None:
    """What the machine offers, what a run will use, and what stands in the way: ends with 1 where something does."""
    from slsr import doctor as clinic

    findings = clinic.examine(Path(), os.environ, timeout)
    typer.echo(clinic.as_json(findings) if as_json else clinic.render(findings))
    if problems := clinic.problems(findings):
        raise CheckFailed(f"{len(problems)} in the way of work: {', '.join(one.topic for one in problems)}")


@app.command(rich_help_panel=TOOLS)
def card(
    model: Annotated[str, typer.Argument(help="encoder, baseline, lsro, slsr or generators, as in dvc.yaml")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE.md", help="write it here")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a file that is there")] = False,
) -> None:
    """The model card of an artifact: data, recipe, numbers with intervals, limits, ethics."""
    from slsr.files import write_bytes
    from slsr.model_card import model_card

    text = model_card(model, Path())
    if out is None:
        typer.echo(text, nl=False)
        return
    if out.exists() and not force:
        raise InputError(f"{out}: is there already; name another file, or say --force to replace it")
    write_bytes(out, text.encode())
    typer.echo(f"wrote {out}")


app.command(rich_help_panel=TOOLS)(explore)

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
    """Recognise an archive, verify every image, put it into data/ and track it with DVC."""
    from slsr.datasets.adding import add_archive, next_steps
    from slsr.datasets.readers import recognise
    from slsr.datasets.survey import render_survey
    from slsr.presets import preset_archive

    dataset = recognise(archive).name
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

    from slsr.datasets.readers import Choice, choose, recognise
    from slsr.datasets.survey import render_survey, survey
    from slsr.params import load_params

    if archive is None:
        dataset = load_params(PARAMS).dataset
        archive = Path("data") / dataset.archive
        named = Choice(dataset.name, dataset.protocol, dataset.boxes, dataset.split)
    else:
        named = recognise(archive)
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
    from slsr.params import load_params

    try:
        used = load_params(PARAMS).dataset.archive
    except InputError:
        used = None
    typer.echo(render_list(Path("data"), used))


app.add_typer(cli_use.app)

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
    """Regulariser x backbone (Table 4 of the paper), over seeds."""
    from slsr.experiments.study import names, numbers, regularizer_settings
    from slsr.params import load_params

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
    from slsr.params import load_params

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
    from slsr.params import load_params

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
    from slsr.experiments.revisions import find_revisions
    from slsr.experiments.tables import draw_comparison, render_csv, render_markdown
    from slsr.files import write_bytes

    revisions = find_revisions(experiments or finished_of_last_study())
    found = compare_experiments(revisions, ranking, baseline, find_revisions(against or []), seeds_of=seeds_of)
    text = render_markdown(found)
    if csv_path is not None:
        write_bytes(csv_path, render_csv(found).encode())
    if markdown is not None:
        write_bytes(markdown, text.encode())
    if plot is not None:
        draw_comparison(plot, found)
    typer.echo(text, nl=False)


def main() -> None:
    """Run a command; end with 2 on bad input, 1 on a failed check, and a message instead of a traceback."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("slsr").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # about images that slsr itself refuses, or reads all the same
    try:
        with logging_redirect_tqdm():
            _run_app()
    except InputError as error:
        sys.exit(_say(error, 2))
    except CheckFailed as error:
        sys.exit(_say(error, 1))
    except Interrupted as error:
        sys.exit(_say(error, 130))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; nothing half-written was left behind", 130))
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        sys.exit(_say(_explain(error), 2))
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        knob = MEMORY_KNOBS.get(next(iter(sys.argv[1:]), ""), "batch_size")
        remedy = f"lower {knob} or the image size in params.yaml, or use precision: bf16"
        remedy += "; `nvidia-smi` shows what else uses a GPU" if "CUDA" in str(error) else ""
        if knob == "--batch-size":
            remedy = "give a smaller --batch-size"
        elif knob == "cluster.minibatch_above":
            remedy = f"lower {knob} below the number of training images, or try fewer k in cluster.sweep"
        sys.exit(_say(f"out of memory ({str(error).splitlines()[0] if str(error) else 'host'}); {remedy}", 2))


def _explain(error: OSError) -> str:
    """One line on what the file system refused."""
    if error.errno == errno.ENOSPC:
        where = f" while writing {error.filename}" if error.filename else ""
        return f"no space left on the disk{where}; free some (`dvc gc -w` drops unused cache) and run again"
    path = error.filename2 or error.filename  # of a rename, what the temporary file was to become
    name = _shortened(os.fsdecode(path)) if isinstance(path, str | bytes) else "a file"
    return f"{name}: {(error.strerror or str(error)).lower()}; name another file or folder, or mend its permissions"


def _shortened(text: str, longest: int = 200) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def _out_of_memory(error: Exception) -> bool:
    """Whether the host's memory or a GPU's is exhausted; asks torch only where it is loaded already."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    signs = ("can't allocate memory", "_STATUS_ALLOC_FAILED", "CUDA error: out of memory", "HIP error: out of memory")
    return any(sign in str(error) for sign in signs)


def _run_app() -> None:
    """Typer turns Ctrl-C into an exit with 130, which says nothing."""
    try:
        app()
    except SystemExit as end:
        if end.code == 130 and not isinstance(end, AllEnded):
            raise KeyboardInterrupt from end
        raise


def _say(message: object, code: int) -> int:
    rank = os.environ.get("RANK")
    print(f"slsr: {message}" if rank is None else f"slsr, process {rank}: {message}", file=sys.stderr)
    if rank is not None:
        from slsr.training.launch import write_status

        write_status(code)
    return code


if __name__ == "__main__":
    main()
