"""The commands that use a trained model: embed, index, search, export, transfer."""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, NoReturn, ParamSpec

import typer

from slsr.cli.commands import Commands
from slsr.cli.options import (
    USE,
    BoxesOption,
    CamerasOption,
    DeviceOption,
    ProtocolOption,
    SplitOption,
    accepted_cameras,
    known_device,
)
from slsr.cli.outputs import check_output, check_writable
from slsr.cli.terminal import fitted, progress
from slsr.errors import InputError

if TYPE_CHECKING:
    from slsr.embedding.export import Format
    from slsr.embedding.files import NamedFeatures, Origin, Side
    from slsr.embedding.protocol import DataProtocol
    from slsr.embedding.sources import ImageSources
    from slsr.search.kinds import Kind
    from slsr.search.ranked_lists import Match
    from slsr.search.store import Index

RECALL = 0.95
KINDS: tuple[Kind, ...] = ("flat", "hnsw", "ivf-pq")  # those of slsr.search.kinds, which loads FAISS
FORMATS: dict[str, Format] = {".onnx": "onnx", ".pt": "torchscript", ".pth": "torchscript", ".ts": "torchscript"}

P = ParamSpec("P")

app = Commands()

ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A .safetensors checkpoint of an encoder, or the folder of one.")
]
BatchOption = Annotated[
    int, typer.Option(metavar="N", min=1, help="Number of images that go through the network together.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Fail on an unreadable image. By default, skip and count it.")
]
FlipOption = Annotated[
    bool, typer.Option("--flip/--no-flip", help="Add the features of the mirrored image, as the evaluation does.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]


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


@app.command(
    rich_help_panel=USE,
    examples=[
        "slsr embed artifacts/train/slsr photos/ -o gallery.npz",
        "slsr embed artifacts/train/slsr gallery.parquet --query query.parquet -o test.npz",
    ],
)
@_cleans_up
def embed(
    model: ModelArgument,
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Image files, folders, patterns or image tables (.parquet)."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.npz", help="File to write.")],
    query: Annotated[
        list[str] | None,
        typer.Option(metavar="IMAGES", help="Queries, so that `slsr score` can score the file. May be repeated."),
    ] = None,
    batch_size: BatchOption = 64,
    device: DeviceOption = "auto",
    flip: FlipOption = True,
    strict: StrictOption = False,
    force: ForceOption = False,
) -> None:
    """Compute features of images, for `slsr index`, `slsr score` and your own programs."""
    from slsr.embedding.checkpoint_file import check_encoder

    check_output(out, ".npz", replace=force)
    check_encoder(model)
    from slsr.embedding.sources import find_images

    sources: dict[Side, ImageSources] = {"gallery": find_images(images)}
    if query:
        sources["query"] = find_images(query)
    protocol = _protocol_of(sources.values()) if query else None
    progress("loading the network ...")
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


@app.command(
    rich_help_panel=USE,
    examples=["slsr index gallery.npz -o gallery.index", "slsr index more.npz -o gallery.index --add"],
)
@_cleans_up
def index(
    features: Annotated[list[Path], typer.Argument(metavar="FEATURES.npz", help="Files that `slsr embed` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="INDEX", help="File of the index.")],
    add: Annotated[bool, typer.Option("--add", help="Add to an index that exists.")] = False,
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND", help="Kind of index: flat, hnsw or ivf-pq. auto: flat up to 100,000 images, then by memory."
        ),
    ] = "auto",
    memory: Annotated[
        float | None,
        typer.Option(metavar="GB", min=0.001, help="Memory for the index. By default, half of the machine's."),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE", min=0, max=1, help=f"Recall at 10 of an approximate index. By default, {RECALL:g}."
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an index that exists.")] = False,
) -> None:
    """Build a FAISS index of features, or add to one."""
    chosen = _chosen_kind(kind)
    given = {"--kind": chosen, "--force": force or None, "--memory": memory, "--recall": recall}
    if add:
        _refuse_idle(given, "--add keeps the kind and the settings of the index, and replaces nothing")
    elif chosen in ("flat", "hnsw"):
        idle = ("--memory", "--recall") if chosen == "flat" else ("--memory",)
        _refuse_idle({name: given[name] for name in idle}, f"--kind {chosen} does not use it")
    check_writable(out.parent)
    origin, parts = _read_parts(features)
    from slsr.search import store

    wanted = RECALL if recall is None else recall
    if add:
        built, known = store.add(out, origin, parts)
        typer.echo(f"added {sum(len(part.names) for part in parts) - known:,} images; {known:,} were there already")
    else:
        space = int(memory * 1e9) if memory is not None else _physical_memory() // 2
        built = store.build(out, origin, parts, kind=chosen, memory=space, recall=wanted, force=force)
    _describe_index(out, built, None if add else wanted)


def _chosen_kind(kind: str) -> Kind | None:
    """Return the kind, or None for auto, which is chosen by the number of images."""
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


@app.command(
    rich_help_panel=USE,
    examples=[
        "slsr search gallery.index query.jpg -k 20 --rerank",
        "slsr search gallery.index queries/ --html found.html",
    ],
)
@_cleans_up
def search(
    path: Annotated[Path, typer.Argument(metavar="INDEX", help="The file that `slsr index` wrote.")],
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY", help="Image files, folders, patterns, image tables, or one .npz of `slsr embed`."
        ),
    ],
    depth: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Number of images to find for each query.")] = 10,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Re-rank the nearest candidates by k-reciprocal encoding.")
    ] = False,
    candidates: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Number of images that are re-ranked. By default, 100.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Model of the index. By default, the path given to `slsr embed`."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Number of queries that go through the network together. By default, 64."
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", callback=known_device, help="Device to compute on. By default, auto."),
    ] = None,
    strict: StrictOption = False,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Write the ranked lists to this file.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="OUT.html", help="Write the ranked lists with their pictures as a web page.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGES",
            help="Folder or image table with the pictures of the index, for --html. By default, the paths given to "
            "`slsr embed`. May be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a web page that exists.")] = False,
) -> None:
    """Find the images of an index that are nearest to each query."""
    check_output(json_path, ".json", replace=True)
    check_output(html, ".html", ".htm", replace=force)
    if not rerank:
        _refuse_idle({"--candidates": candidates}, "nothing is re-ranked without --rerank")
    if html is None:
        _refuse_idle({"--images": images, "--force": force or None}, "no page is written without --html")
    from slsr.search.query_features import are_embedded, embedded_queries
    from slsr.search.store import open_index

    if are_embedded(query):
        given = {"--model": model, "--device": device, "--batch-size": batch_size, "--strict": strict or None}
        _refuse_idle(given, "an .npz query is embedded already")
    index = open_index(path)
    from slsr.files import write_json
    from slsr.search.ranked_lists import CANDIDATES, as_json, check_depth, ranked_lists, render

    check_depth(depth, (candidates or CANDIDATES) if rerank else None)
    pictures = _pictures(query, images) if html is not None else None
    if not are_embedded(query):
        progress("loading the network ...")
    queries = embedded_queries(
        path, index, query, model=model, device=device or "auto", batch_size=batch_size or 64, strict=strict
    )
    lists = ranked_lists(index, queries.features, depth, reranked=rerank, candidates=candidates or CANDIDATES)
    _warn_if_fewer(index, min(map(len, lists)), depth)
    if json_path is not None:
        write_json(json_path, as_json(index, queries.names, lists))
    typer.echo(render(queries.names, lists))
    if html is not None and pictures is not None:
        _write_page(html, path, queries, lists, pictures)


class _Pictures(NamedTuple):
    """Where the pictures of queries and of the index are; None: at the paths that are their names."""

    of_queries: ImageSources | None
    of_index: ImageSources | None


def _pictures(query: list[str], images: list[str] | None) -> _Pictures:
    """Find the pictures for a page, before any feature is computed."""
    from slsr.embedding.sources import find_images
    from slsr.search.query_features import are_embedded

    return _Pictures(None if are_embedded(query) else find_images(query), find_images(images) if images else None)


def _write_page(
    target: Path, index: Path, queries: NamedFeatures, lists: list[list[Match]], pictures: _Pictures
) -> None:
    """Write the web page of ranked lists."""
    from slsr.files import write_bytes
    from slsr.reporting.gallery_page import gallery_page
    from slsr.search.gallery import gallery_rows

    rows = gallery_rows(queries, lists, pictures.of_queries, pictures.of_index)
    write_bytes(target, gallery_page(f"Queries and their nearest images in {index.name}", rows).encode())
    typer.echo(f"\nwrote {target}: the pictures of {len(rows):,} queries and of their ranked lists")


def _warn_if_fewer(index: Index, found: int, depth: int) -> None:
    """Warn if an approximate index found fewer images than it holds and than were asked for."""
    wanted = min(depth, len(index))
    if found < wanted:
        typer.echo(
            f"warning: only {found} of the {wanted} images of -k were found for some query: an {index.kind} index "
            "searches near a query only; build it again with a higher --recall, or with --kind flat",
            err=True,
        )


@app.command(rich_help_panel=USE, examples=["slsr export artifacts/train/slsr -o encoder.onnx"])
@_cleans_up
def export(
    model: ModelArgument,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="File to write: .onnx, or .pt, .pth or .ts (TorchScript)."),
    ],
    flip: FlipOption = True,
    force: ForceOption = False,
) -> None:
    """Export the network as ONNX or TorchScript, and check that its features are the same."""
    from slsr.embedding.checkpoint_file import check_encoder

    if out.suffix.lower() not in FORMATS:
        raise InputError(f"{out}: the suffix chooses the format; name the file .onnx, or .pt for TorchScript")
    check_output(out, replace=force)
    check_encoder(model)
    progress("loading the network ...")
    from slsr.embedding.encoder import load_encoder
    from slsr.embedding.export import export as write

    parity = write(load_encoder(model, "cpu", flip=flip), out, FORMATS[out.suffix.lower()])
    typer.echo(
        f"wrote {out}: cosine similarity to the model's own features at least {parity.cosine:.7f} over "
        f"{parity.images} images, largest difference {parity.difference:.1e}"
    )


@app.command(
    rich_help_panel=USE,
    examples=["slsr transfer artifacts/train/slsr DukeMTMC-reID.zip --json transfer.json"],
)
@_cleans_up
def transfer(
    model: ModelArgument,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="An archive, or a folder of prepared tables.")],
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="OUT.json", help="Write the measures to this file.")
    ] = None,
    protocol: ProtocolOption = None,
    boxes: BoxesOption = None,
    split: SplitOption = None,
    split_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Published halves of VIPeR; --split chooses one of them.")
    ] = None,
    cameras: CamerasOption = None,
    params: Annotated[
        Path | None,
        typer.Option(metavar="params.yaml", help="Read the settings, its block `evaluate`, from this file."),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Measure a model on another data set (cross-domain): CMC, mAP, re-ranking, intervals."""
    from slsr.embedding.checkpoint_file import check_encoder
    from slsr.params.file import load_params

    accepted = accepted_cameras(cameras)
    check_output(json_path, ".json", replace=True)
    check_encoder(model)
    if not data.exists():
        raise InputError(f"{data}: no such file or folder; give an archive, or the folder that `prepare` wrote")
    given = load_params(params).evaluate if params is not None else None
    if not (data / "facts.json").is_file():
        from slsr.datasets.opening import recognize

        recognize(data)  # refuses what is no data set, sooner than the reading below
    from slsr.evaluation import transfer as stage
    from slsr.files import write_json

    settings = given or stage.PUBLISHED
    progress(f"reading {data} ...")
    test = stage.read_evaluation_set(data, protocol, boxes, split, halves=split_file, cameras=accepted)
    progress("loading the network ...")
    from slsr.embedding.encoder import load_encoder

    encoder = load_encoder(model, device, flip=settings.flip)
    measured = stage.transfer(encoder, test, settings)
    if json_path is not None:
        write_json(json_path, stage.as_json(encoder, test, measured, settings))
    typer.echo(fitted(stage.render(test, measured)))


def _refuse_idle(options: Mapping[str, object], reason: str) -> None:
    """Refuse options that were given (are not None), but have no effect."""
    if given := [name for name, value in options.items() if value is not None]:
        raise InputError(f"{', '.join(given)}: no effect, because {reason}; leave out {', '.join(given)}")


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
