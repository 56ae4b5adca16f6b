"""Draw docs/montage.png from a run of the drawn sample: ranked galleries, and clusters beside their generated images.

Run it in the root of a clone, after `dvc repro`: python tools/montage.py. The picture is for git, so data sets of real
people are refused.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from slsr import load_encoder
from slsr.errors import InputError
from slsr.evaluation.measures import Images, labels_of
from slsr.files import read_json, read_npy, write_bytes
from slsr.images.decoding import Pixels, decode_resized
from slsr.images.tables import column_numpy, read_table
from slsr.params.dataset import SAMPLE
from slsr.project.lock import LOCK, all_outputs, chain, dependencies, other_inputs, parse_lock
from slsr.reporting.figures import QUERY, RIGHT, WRONG, RankedRow
from slsr.retrieval import euclidean_distances, evaluate_distances, top_matches
from slsr.stages.paths import (
    ASSIGNMENTS,
    CLUSTER_IDENTITIES,
    DATA,
    GALLERY_TABLE,
    GENERATED_IMAGES,
    QUERY_TABLE,
    TRAIN_FEATURES,
    TRAIN_TABLE,
    TRAINED,
)

TARGET, MODEL = Path("docs/montage.png"), TRAINED / "slsr"
TABLES = (TRAIN_TABLE, QUERY_TABLE, GALLERY_TABLE, GENERATED_IMAGES)  # whose images are shown
QUANTILES = {"easy": 0.9, "typical": 0.5, "hard": 0.1}  # of average precision: whose queries are shown
DEPTH, MEMBERS, CLUSTERS = 6, 4, 3
IMAGE, PITCH = (64, 128), (70, 144)  # width and height of an image and of its place, in pixels
WIDTH, HEIGHT, TOP = 1300, 516, 88
LEFT, MIDDLE = 66, 706  # where the images of the two halves begin
DOTS_PER_INCH, COLOR_STEP = 100, 4


@dataclass(frozen=True)
class ClusterRow:
    """A cluster with some of its real and of its generated images, uint8 [n, H, W, 3]."""

    caption: str
    real: Pixels
    generated: Pixels


def ranked_rows() -> list[RankedRow]:
    """Rank the gallery for an easy, a typical and a hard query, by quantiles of their average precision."""
    query, gallery = Images.read(QUERY_TABLE), Images.read(GALLERY_TABLE)
    encoder, labels = load_encoder(MODEL, device="cpu"), labels_of(query, gallery)
    distances = euclidean_distances(encoder.embed(query.encoded), encoder.embed(gallery.encoded))
    evaluated = evaluate_distances(distances, labels)
    values = evaluated.query_values()
    precision = values.values[:, values.keys.index("map_standard")]
    order = np.flatnonzero(evaluated.valid)[np.argsort(precision, kind="stable")]
    chosen = {name: int(order[round(share * (len(order) - 1))]) for name, share in QUANTILES.items()}
    found = top_matches(distances, labels, list(chosen.values()), DEPTH)
    return [
        RankedRow(name, _decode(query.encoded, [number])[0], _decode(gallery.encoded, rows), right)
        for (name, number), rows, right in zip(chosen.items(), found.indices, found.right, strict=True)
    ]


def cluster_rows() -> list[ClusterRow]:
    """Show clusters: real images from the centroid outwards, one per person, and the first generated ones."""
    train = read_table(TRAIN_TABLE, ["image", "identity"])
    clusters, features = column_numpy(read_table(ASSIGNMENTS), "cluster"), read_npy(TRAIN_FEATURES)
    generated = read_table(GENERATED_IMAGES, ["image", "cluster"])
    identities, rows = column_numpy(train, "identity"), []
    for cluster, described in enumerate(read_json(CLUSTER_IDENTITIES)["clusters"][:CLUSTERS]):
        people = len(described["labels"])
        members = np.flatnonzero(clusters == cluster)
        outwards = members[np.argsort(np.linalg.norm(features[members] - features[members].mean(0), axis=1))]
        first = np.sort(np.unique(identities[outwards], return_index=True)[1])[:MEMBERS]
        drawn = np.flatnonzero(column_numpy(generated, "cluster") == cluster)[:MEMBERS]
        rows.append(
            ClusterRow(
                f"{described['images']} images\n{people} people\nlabel: 1/{people}",
                _decode(train.column("image").to_pylist(), outwards[first]),
                _decode(generated.column("image").to_pylist(), drawn),
            )
        )
    return rows


def _decode(encoded: Sequence[bytes], rows: Sequence[int] | NDArray[np.int64]) -> Pixels:
    return decode_resized([encoded[int(row)] for row in rows], *IMAGE[::-1])


def draw(ranked: Sequence[RankedRow], clusters: Sequence[ClusterRow]) -> Figure:
    """Put ranked galleries on the left and clusters on the right."""
    figure = plt.figure(figsize=(WIDTH / DOTS_PER_INCH, HEIGHT / DOTS_PER_INCH), dpi=DOTS_PER_INCH)
    _write(figure, LEFT, 22, "Search: the gallery, nearest images first", 15, weight="bold")
    _write(
        figure, LEFT, 46, "solid green: the person of the query; dashed orange: somebody else", 10.5, color="#444444"
    )
    _write(figure, LEFT, 72, "query", 10.5)
    _write(figure, MIDDLE, 22, "Training: clusters and their generated images", 15, weight="bold")
    _write(figure, MIDDLE, 46, "a generated image is labeled with all people of its cluster", 10.5, color="#444444")
    _write(figure, MIDDLE, 72, "real", 10.5)
    _write(figure, MIDDLE + (MEMBERS + 0.3) * PITCH[0], 72, "generated", 10.5)
    for rank in range(DEPTH):
        _write(figure, LEFT + (rank + 1.3) * PITCH[0] + IMAGE[0] / 2, 72, str(rank + 1), 10.5, ha="center")
    for line, row in enumerate(ranked):
        _write(figure, LEFT - 10, _middle(line), row.caption, 10.5, ha="right")
        _show(figure, LEFT, line, row.query, QUERY, "solid")
        for rank, (pixels, right) in enumerate(zip(row.gallery, row.right, strict=True)):
            color, style = (RIGHT, "solid") if right else (WRONG, (0, (3, 1.5)))
            _show(figure, LEFT + (rank + 1.3) * PITCH[0], line, pixels, color, style)
    for line, cluster in enumerate(clusters):
        _write(figure, MIDDLE - 12, _middle(line), cluster.caption, 9.5, ha="right", linespacing=1.5)
        for column, pixels in enumerate(cluster.real):
            _show(figure, MIDDLE + column * PITCH[0], line, pixels)
        for column, pixels in enumerate(cluster.generated):
            _show(figure, MIDDLE + (MEMBERS + 0.3 + column) * PITCH[0], line, pixels)
    return figure


def _middle(line: int) -> float:
    return TOP + line * PITCH[1] + IMAGE[1] / 2


def _write(figure: Figure, x: float, y: float, text: str, size: float, **style: Any) -> None:
    """Write text with its middle at y, in pixels from the upper left corner."""
    figure.text(x / WIDTH, 1 - y / HEIGHT, text, fontsize=size, va="center", **style)


def _show(figure: Figure, x: float, line: int, pixels: Pixels, color: str = "none", style: Any = "solid") -> None:
    """Draw an image at x in a line of images, in pixels, with a frame."""
    top = TOP + line * PITCH[1]
    box = (x / WIDTH, 1 - (top + IMAGE[1]) / HEIGHT, IMAGE[0] / WIDTH, IMAGE[1] / HEIGHT)
    axis = figure.add_axes(box, xticks=[], yticks=[])
    axis.imshow(pixels, aspect="auto", interpolation="none")
    for spine in axis.spines.values():
        spine.set(edgecolor=color, linewidth=2.5, linestyle=style)


def encode(figure: Figure) -> bytes:
    """Return a PNG with coarser colors, in steps that the eye does not see: less than two thirds of the bytes."""
    drawn, buffer = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS_PER_INCH)
    plt.close(figure)
    pixels = np.asarray(Image.open(drawn).convert("RGB")).astype(np.int64)
    coarse = np.minimum((pixels + COLOR_STEP // 2) // COLOR_STEP * COLOR_STEP, 255).astype(np.uint8)
    Image.fromarray(coarse).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def require_sample() -> None:
    """Refuse tables that were not made of the drawn sample, by what dvc.lock records of them, not by params.yaml.

    Raises
    ------
    InputError
        `prepare` read another archive, or a table is not the one that the run of this archive wrote.
    """
    if not Path(LOCK).is_file():
        raise InputError(f"{LOCK}: no such file, so nothing says which people the images show; run `dvc repro`")
    stages, sample = parse_lock(Path(LOCK).read_bytes(), LOCK), f"{DATA}/{SAMPLE}"
    archives = [path for path in dependencies(stages.get("prepare", {})) if path.startswith(f"{DATA}/")]
    if archives != [sample]:
        found = ", ".join(archives) or "no archive"
        raise InputError(f"{LOCK}: prepare read {found}, which may show people; this picture is for {sample} alone")
    recorded = all_outputs(stages)
    for table in TABLES:
        stage, md5 = recorded.get(table.as_posix(), ("", None))
        content = table.read_bytes() if table.is_file() else b""
        if md5 != hashlib.md5(content, usedforsecurity=False).hexdigest():
            raise InputError(f"{table}: not the file that {LOCK} records, so it may show people; run `dvc repro`")
        if others := [path for name in chain(stages, stage) for path, _ in other_inputs(stages, name)]:
            raise InputError(f"{table}: made of another {others[0]}, which may show people; run `dvc repro`")


def main() -> None:
    """Write the picture, if the images are drawn."""
    require_sample()
    write_bytes(TARGET, encode(draw(ranked_rows(), cluster_rows())))
    print(f"wrote {TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"montage: {error}")
