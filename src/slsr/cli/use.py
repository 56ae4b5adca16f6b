"""The commands that use a trained model: embed, index, search, export, transfer."""

from __future__ import annotations

import functools
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec

import typer

from slsr.cli.options import USE, CamerasOption, accepted_cameras
from slsr.errors import InputError

if TYPE_CHECKING:
    from slsr.embedding.export import Format
    from slsr.embedding.files import NamedFeatures, Origin, Side
    from slsr.embedding.protocol import DataProtocol
    from slsr.embedding.sources import ImageSources
    from slsr.search.kinds import Kind
    from slsr.search.store import Index

RECALL = 0.95
FORMATS: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".pth": "torchscript", ".ts": "torchscript"}

P = ParamSpec("P")

app = typer.Typer()

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="a .safetensors checkpoint of an encoder, or the folder of one")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
BatchOption = Annotated[int, typer.Option(min=1, help="images that go through the network together")]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="fail on an unreadable image (default: skip and count it)")
]
FlipOption = Annotated[
    bool, typer.Option("--flip/--no-flip", help="add the features of the mirrored image, as the evaluation does")
]
ForceOption = Annotated[bool, typer.Option("--force", help="replace what is there")]
JsonOption = Annotated[Path | None, typer.Option("--json", metavar="OUT", help="write the same as JSON here")]


def _cleans_up(command: Callable[P, None]) -> Callable[P, None]:
    """Let SIGTERM end a command as Ctrl-C does, so that it removes unfinished files."""

    @functools.wraps(command)
    def run(*arguments: P.args, **options: P.kwargs) -> None:
        if threading.current_thread() is not threading.main_thread():  # only the main thread can set a handler
            return command(*arguments, **options)
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            return command(*arguments, **options)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


def _interrupt(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second signal does not interrupt the removal
    raise KeyboardInterrupt


@app.command(rich_help_panel=USE)
@_cleans_up
def embed(
    model: ModelArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES...", help="image files, folders, patterns or image tables (.parquet)")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.npz", help="the file to write")],
    query: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="queries too, so that `slsr score` can score the file; may be repeated"),
    ] = None,
    batch_size: BatchOption = 64,
    device: DeviceOption = "auto",
    flip: FlipOption = True,
    strict: StrictOption = False,
    force: ForceOption = False,
) -> None:
    """Compute features of images, for `slsr score`, `slsr index` and your own programs."""
    from slsr.embedding.checkpoint_file import checkpoint_file
    from slsr.embedding.sources import find_images

    _check_target(out, force, ".npz")
    checkpoint_file(model)
    sources: dict[Side, ImageSources] = {"gallery": find_images(images)}
    if query:
        sources["query"] = find_images(query)
    protocol = _protocol_of(sources.values()) if query else None
    from slsr.embedding.encoder import load_encoder
    from slsr.embedding.stream import embed_into, origin_of

    encoder = load_encoder(model, device, flip=flip)
    counts = embed_into(
        out, encoder, origin_of(encoder, model), sources, batch_size=batch_size, strict=strict, protocol=protocol
    )
    written = " and ".join(f"{count:,} {side}" for side, count in counts.items())
    typer.echo(f"wrote {out}: features of {written} images, {encoder.dimension} dimensions")
    if unknown := sum(source.unknown_cameras for source in sources.values()):
        accepted = protocol is not None and protocol.evaluation.cameras == "unknown"
        then = "marks the numbers" if accepted else "needs --cameras unknown"
        typer.echo(f"the cameras of {unknown:,} images are unknown (-1); `slsr score` {then}")


def _protocol_of(sources: Collection[ImageSources]) -> DataProtocol | None:
    """Find how the data set of the tables is evaluated, and warn if tables with labels do not tell."""
    from slsr.embedding.protocol import protocol_of_tables

    found = protocol_of_tables(part for one in sources for part in one.parts)
    if found is None and all(one.labeled for one in sources):
        typer.echo(
            "warning: no facts.json beside the tables says how their data set is evaluated, so `slsr score` will use "
            "cross-camera unless you give it --protocol",
            err=True,
        )
    return found


@app.command(rich_help_panel=USE)
@_cleans_up
def index(
    features: Annotated[list[Path], typer.Argument(metavar="FEATURES.npz...", help="files that `slsr embed` wrote")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="INDEX", help="the file of the index")],
    add: Annotated[bool, typer.Option("--add", help="add to an index that is there already")] = False,
    kind: Annotated[
        str, typer.Option(help="auto, flat, hnsw or ivf-pq; auto: flat up to 100,000 images, then by memory")
    ] = "auto",
    memory: Annotated[
        float | None,
        typer.Option(min=0.001, show_default="half of the machine's", help="GB that the index may take"),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(min=0, max=1, show_default=str(RECALL), help="recall at 10 that an approximate index must reach"),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Build a FAISS index of features, or add to one. An interruption leaves the index as it was."""
    from slsr.search import store

    chosen = _chosen_kind(kind)
    given = {"--kind": chosen, "--force": force or None, "--memory": memory, "--recall": recall}
    if add:
        _refuse_idle(given, "--add keeps the kind and the settings of the index, and replaces nothing")
    elif chosen in ("flat", "hnsw"):
        idle = ("--memory", "--recall") if chosen == "flat" else ("--memory",)
        _refuse_idle({name: given[name] for name in idle}, f"--kind {chosen} does not use it")
    _check_writable(out.parent)
    origin, parts = _read_parts(features)
    wanted = RECALL if recall is None else recall
    if add:
        built, known = store.add(out, origin, parts)
        typer.echo(f"added {sum(len(part.names) for part in parts) - known:,} images; {known:,} were there already")
    else:
        space = int(memory * 1e9) if memory is not None else _physical_memory() // 2
        built = store.build(out, origin, parts, kind=chosen, memory=space, recall=wanted, force=force)
    _describe_index(out, built, None if add else wanted)


def _chosen_kind(kind: str) -> Kind | None:
    from slsr.search.kinds import KINDS

    chosen = next((one for one in KINDS if one == kind), None)
    if chosen is None and kind != "auto":
        raise InputError(f"--kind {kind}: choose auto, {', '.join(KINDS)}")
    return chosen


def _read_parts(paths: list[Path]) -> tuple[Origin, list[NamedFeatures]]:
    """Read the gallery features of files, which must come from one model."""
    from slsr.embedding.files import read_features, read_origin

    origin = read_origin(paths[0])
    for path in paths[1:]:
        if not origin.agrees(other := read_origin(path)):
            raise InputError(f"{path}: features of {other}, but the features in {paths[0]} are of {origin}")
    return origin, [read_features(path) for path in paths]


def _describe_index(path: Path, index: Index, wanted: float | None) -> None:
    """Print the kind, size and recall of an index, and warn if it should be built in another way."""
    from slsr.search.kinds import index_bytes
    from slsr.search.store import advice

    size = index_bytes(index.kind, len(index), index.dimension) / 1e6
    typer.echo(f"{path}: {index.kind} index of {len(index):,} images, {index.dimension} dimensions, {size:,.1f} MB")
    recall = index.recall
    if recall.effort:
        typer.echo(f"recall at 10 was {recall.at_10:.3f} when it was built, measured on {recall.sample} of its images")
        if wanted is not None and recall.at_10 < wanted:
            typer.echo(f"warning: the recall is below {wanted:g}, even with the largest search effort", err=True)
    if found := advice(index):
        typer.echo(f"warning: {found}", err=True)


@app.command(rich_help_panel=USE)
@_cleans_up
def search(
    path: Annotated[Path, typer.Argument(metavar="INDEX", help="the file that `slsr index` wrote")],
    query: Annotated[
        list[str],
        typer.Argument(metavar="QUERY...", help="image files, folders, patterns, image tables, or one .npz of `embed`"),
    ],
    depth: Annotated[int, typer.Option("-k", min=1, help="images to find for each query")] = 10,
    rerank: Annotated[bool, typer.Option("--rerank", help="k-reciprocal re-ranking of the nearest candidates")] = False,
    candidates: Annotated[
        int | None, typer.Option(min=1, show_default="100", help="how many of the nearest images are re-ranked")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(show_default="the path given to `embed`", help="the model of the index")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, show_default="64", help="queries that go through the network at once")
    ] = None,
    device: Annotated[str | None, typer.Option(show_default="auto", help="auto, cpu, cuda, cuda:1, ...")] = None,
    strict: StrictOption = False,
    json_path: JsonOption = None,
) -> None:
    """Find the images of an index that are nearest to each query, and print them as a table."""
    from slsr.files import write_json
    from slsr.search.query_features import are_embedded, embedded_queries
    from slsr.search.ranked_lists import CANDIDATES, as_json, ranked_lists, render
    from slsr.search.store import open_index

    if not rerank:
        _refuse_idle({"--candidates": candidates}, "nothing is re-ranked without --rerank")
    if are_embedded(query):
        given = {"--model": model, "--device": device, "--batch-size": batch_size, "--strict": strict or None}
        _refuse_idle(given, "an .npz query is embedded already")
    if json_path is not None:
        _check_json(json_path)
    index = open_index(path)
    names, features = embedded_queries(
        path, index, query, model=model, device=device or "auto", batch_size=batch_size or 64, strict=strict
    )
    lists = ranked_lists(index, features, depth, reranked=rerank, candidates=candidates or CANDIDATES)
    _warn_if_fewer(index, min(map(len, lists)), depth)
    if json_path is not None:
        write_json(json_path, as_json(index, names, lists))
    typer.echo(render(names, lists))


def _warn_if_fewer(index: Index, found: int, depth: int) -> None:
    """Warn if an approximate index found fewer images than it holds and than were asked for."""
    wanted = min(depth, len(index))
    if found < wanted:
        typer.echo(
            f"warning: only {found} of the {wanted} images of -k were found for some query: an {index.kind} index "
            "searches near a query only; build it again with a higher --recall, or with --kind flat",
            err=True,
        )


@app.command(rich_help_panel=USE)
@_cleans_up
def export(
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="the file to write: .onnx, or .pt, .pth or .ts (TorchScript)"),
    ],
    flip: FlipOption = True,
    force: ForceOption = False,
) -> None:
    """Write the network as ONNX or TorchScript, after checking that its features are the same."""
    from slsr.embedding.checkpoint_file import checkpoint_file

    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out}: the suffix chooses the format; name the file .onnx, or .pt for TorchScript")
    _check_target(out, force)
    checkpoint_file(model)
    from slsr.embedding.encoder import load_encoder
    from slsr.embedding.export import export as write

    parity = write(load_encoder(model, "cpu", flip=flip), out, FORMATS[out.suffix.lower()])
    typer.echo(
        f"wrote {out}: cosine similarity to the model's own features at least {parity.cosine:.7f} over "
        f"{parity.images} images, largest difference {parity.difference:.1e}"
    )


@app.command(rich_help_panel=USE)
@_cleans_up
def transfer(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="an archive, or a folder of prepared tables")],
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT", help="write the measures to this file")
    ] = None,
    protocol: Annotated[str | None, typer.Option(help="CUHK03: classic or np")] = None,
    boxes: Annotated[str | None, typer.Option(help="CUHK03: detected or labeled")] = None,
    split: Annotated[int | None, typer.Option(help="CUHK03 classic: 1 to 20; VIPeR: 1 to 10")] = None,
    split_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="VIPeR: published halves, of which --split is one")
    ] = None,
    cameras: CamerasOption = None,
    params: Annotated[
        Path | None, typer.Option(metavar="params.yaml", help="read the block `evaluate` from this file")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a model on another data set (cross-domain): CMC, mAP, re-ranking, intervals."""
    from slsr.embedding.checkpoint_file import checkpoint_file
    from slsr.files import write_json
    from slsr.params.file import load_params

    if json_path is not None:
        _check_json(json_path)
    checkpoint_file(model)
    if not data.exists():
        raise InputError(f"{data}: no such file or folder; give an archive, or the folder that `prepare` wrote")
    given = load_params(params).evaluate if params is not None else None
    from slsr.embedding.encoder import load_encoder
    from slsr.evaluation import transfer as stage

    settings = given or stage.PUBLISHED
    encoder = load_encoder(model, device, flip=settings.flip)
    test = stage.read_evaluation_set(data, protocol, boxes, split, halves=split_file, cameras=accepted_cameras(cameras))
    measured = stage.transfer(encoder, test, settings)
    if json_path is not None:
        write_json(json_path, stage.as_json(encoder, test, measured, settings))
    typer.echo(stage.render(test, measured))


def _check_target(target: Path, force: bool, suffix: str | None = None) -> None:
    """Refuse an output file that cannot be written or exists already, before any work is done."""
    if suffix is not None and target.suffix != suffix:
        raise InputError(f"{target}: the suffix must be {suffix}; name the file so")
    if target.is_dir() or not target.parent.is_dir():
        raise InputError(f"{target}: {'a folder' if target.is_dir() else 'its folder does not exist'}; name a file")
    if target.exists() and not force:
        raise InputError(f"{target}: exists already; name another file, or replace it with --force")
    _check_writable(target.parent)


def _check_json(target: Path) -> None:
    """Refuse to write JSON into a file of another kind; JSON of an earlier run is replaced."""
    _check_target(target, True)
    if target.suffix.lower() != ".json":
        raise InputError(f"{target}: the suffix must be .json; name the file so")


def _check_writable(folder: Path) -> None:
    """Refuse a folder, existing or new, in which no file can be created."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{folder}: no file can be created in {place} ({reason}); name another folder") from error


def _refuse_idle(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that were given (are not None), but have no effect."""
    if given := [name for name, value in options.items() if value is not None]:
        raise InputError(f"{', '.join(given)}: no effect, because {reason}; leave out {', '.join(given)}")


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
