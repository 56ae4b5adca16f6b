"""Retrieval: seconds and peak memory of ranking, re-ranking and the bootstrap, beside how it is commonly done.

    python benchmarks/retrieval.py [PART ...] [--threads N] [--repeats R]

ranking     CMC + AP + mINP from a matrix of Market-1501's size (3,368 x 19,732); beside it two evaluators derived from
            how others work: a Python loop over queries that sorts every row, and the same loop compiled
reranking   re-ranking and evaluation from features of Market-1501's size (D = 2,048), and the plain evaluation; beside
            it the symmetric product of features that it cannot do without, in the same run
msmt        the same at MSMT17's size (11,659 x 82,161, D = 512)
growth      the same as the number of images grows (D = 512)
dense       the same with dense matrices, as the publication's code and its copies do it, for as many images as are
            bearable; it grows with the square of their number
bootstrap   intervals of all headline numbers, 10,000 resamples of 3,368 queries

Every case runs in a process of its own, once for compiling and then `repeats` times; medians are shown, ratios being
medians of ratios of neighboring runs. Where others use the machine, compare by processor time, and with one thread:
several threads that wait for each other count as busy. Features are drawn around a center an identity.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from slsr.retrieval import Labels

MARKET = (3368, 19732)
MSMT17 = (11659, 82161)
GROWTH = (2500, 5000, 10000, 20000, 40000)
PARTS = ("ranking", "reranking", "msmt", "growth", "dense", "bootstrap")


Times = tuple[float, float]
Figures = dict[str, Any]


def measured(function: Callable[[], object]) -> Times:
    """Seconds by the clock and of processor time."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


def drawn(queries: int, gallery: int, dimensions: int, noise: float = 4.0) -> tuple[NDArray[Any], Labels]:
    """Features and labels; about 15 right matches a query, a fifth of the gallery junk."""
    import numpy as np

    from slsr.retrieval import Labels

    random = np.random.default_rng(0)
    total = queries + gallery
    identities = random.integers(0, max(2, total // 20), total)
    centers = random.standard_normal((identities.max() + 1, dimensions), dtype=np.float32)
    features = np.empty((total, dimensions), np.float32)
    for start in range(0, total, 1024):
        rows = slice(start, start + 1024)
        random.standard_normal(dtype=np.float32, out=features[rows])
        features[rows] *= np.float32(noise)
        features[rows] += centers[identities[rows]]
    cameras = random.integers(0, 6, total)
    in_gallery = np.where(random.random(gallery) < 0.2, -1, identities[queries:])
    return features, Labels(identities[:queries], in_gallery, cameras[:queries], cameras[queries:])


def repeated(repeats: int, *functions: Callable[[], object]) -> list[list[Times]]:
    """For each repeat, what each function took, one after the other."""
    return [[measured(function) for function in functions] for _ in range(repeats)]


def case_reranking(queries: int, gallery: int, dimensions: int, repeats: int) -> Figures:
    """The symmetric product of features, re-ranking with evaluation, plain evaluation."""
    from slsr.retrieval import evaluate, evaluate_reranked
    from slsr.retrieval.distances import feature_pair
    from slsr.retrieval.neighbors import QueryAndGallery

    features, labels = drawn(queries, gallery, dimensions)
    query, others = features[:queries], features[queries:]
    few, few_labels = drawn(40, 200, dimensions)
    evaluate_reranked(few[:40], few[40:], few_labels)
    images = QueryAndGallery(*feature_pair(query, others, normalize=True))

    def product() -> None:
        for _ in images.tiles():
            pass

    runs = repeated(
        repeats,
        product,
        lambda: evaluate_reranked(query, others, labels),
        lambda: evaluate(query, others, labels),
    )
    return named(("product", "reranking", "plain"), runs)


def case_ranking(queries: int, gallery: int, repeats: int) -> Figures:
    """Ranking from a matrix; the two others on a part of the queries, scaled up."""
    import numba
    import numpy as np

    from slsr.retrieval import evaluate_distances

    _, labels = drawn(queries, gallery, 1)
    distances = np.random.default_rng(0).random((queries, gallery), dtype=np.float32)

    def one_query(row: Any, query_identity: int, query_camera: int, identities: Any, cameras: Any) -> Any:
        order = np.argsort(row)
        found, ranked, precision, first = 0, 0, 0.0, 0
        for image in order:
            if identities[image] == -1 or (identities[image] == query_identity and cameras[image] == query_camera):
                continue
            ranked += 1
            if identities[image] == query_identity:
                found += 1
                precision += found / ranked
                first = first or ranked
        return precision / max(found, 1), first

    def python_query(row: Any, query_identity: int, query_camera: int, identities: Any, cameras: Any) -> Any:
        order = np.argsort(row)
        same = identities[order] == query_identity
        keep = ~(same & (cameras[order] == query_camera)) & (identities[order] != -1)
        right = same[keep].astype(np.int32)
        hits = right.cumsum()
        precision = np.asarray([hit / (place + 1) for place, hit in enumerate(hits)]) * right
        return precision.sum() / max(right.sum(), 1), hits

    compiled = numba.njit(one_query)
    arguments = (labels.gallery_identities, labels.gallery_cameras)

    def loop(function: Callable[..., Any], rows: int) -> None:
        for query in range(rows):
            function(distances[query], labels.query_identities[query], labels.query_cameras[query], *arguments)

    loop(compiled, 1)
    evaluate_distances(distances, labels)
    few = max(1, queries // 40)
    runs = repeated(
        repeats,
        lambda: evaluate_distances(distances, labels),
        lambda: loop(compiled, queries // 8),
        lambda: loop(python_query, few),
    )
    scaled = [[run[0], times(run[1], 8), times(run[2], queries / few)] for run in runs]
    return named(("slsr", "compiled sort", "python loop"), scaled)


def times(pair: Times, factor: float) -> Times:
    """Estimate the time for this many times the work."""
    return pair[0] * factor, pair[1] * factor


def case_dense(queries: int, gallery: int, dimensions: int, repeats: int) -> Figures:
    """Re-ranking with dense matrices."""
    features, _ = drawn(queries, gallery, dimensions)
    return named(("dense",), repeated(repeats, lambda: dense_rerank(features, queries)))


def dense_rerank(features: NDArray[Any], queries: int, k1: int = 20, k2: int = 6, weight: float = 0.3) -> NDArray[Any]:
    """The published algorithm over N x N matrices, a Python loop an image."""
    import numpy as np

    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances = 2 - 2 * unit @ unit.T
    distances /= distances.max(axis=1, keepdims=True)
    ranked = np.argsort(distances, axis=1).astype(np.int32)
    encoded = np.zeros_like(distances)

    def reciprocal(image: int, count: int) -> NDArray[Any]:
        near = ranked[image, :count]
        return near[(ranked[near, :count] == image).any(axis=1)]

    for image in range(len(features)):
        own = reciprocal(image, k1 + 1)
        parts = [own]
        for other in own:
            more = reciprocal(other, k1 // 2 + 1)
            if len(np.intersect1d(more, own)) > 2 / 3 * len(more):
                parts.append(more)
        members = np.unique(np.concatenate(parts))
        weights = np.exp(-distances[image, members])
        encoded[image, members] = weights / weights.sum()
    encoded = np.stack([encoded[ranked[image, :k2]].mean(axis=0) for image in range(len(features))])
    inverted = [np.flatnonzero(encoded[:, image]) for image in range(len(features))]
    result = np.empty((queries, len(features) - queries), np.float32)
    for query in range(queries):
        shared = np.zeros(len(features), np.float32)
        for member in np.flatnonzero(encoded[query]):
            images = inverted[member]
            shared[images] += np.minimum(encoded[query, member], encoded[images, member])
        jaccard = 1 - shared / (2 - shared)
        result[query] = ((1 - weight) * jaccard + weight * distances[query])[queries:]
    return result


def case_bootstrap(queries: int, repeats: int) -> Figures:
    """Intervals of as many numbers as `slsr score` prints, with every query a person of its own: the slowest case."""
    import numpy as np

    from slsr.retrieval import QueryValues, intervals

    values = QueryValues(np.random.default_rng(0).random((queries, 7)), tuple("abcdefg"))
    intervals(values, resamples=10)
    return named(("intervals",), repeated(repeats, lambda: intervals(values)))


def named(names: tuple[str, ...], runs: list[list[Times]]) -> Figures:
    """Runs by name, and the peak memory of this process in MB."""
    columns = dict(zip(names, zip(*runs, strict=True), strict=True))
    return columns | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


CASES = {
    "ranking": case_ranking,
    "reranking": case_reranking,
    "dense": case_dense,
    "bootstrap": case_bootstrap,
}


def run(case: str, sizes: tuple[int, ...], threads: int, repeats: int) -> Figures:
    """Run a case in its own process, on this many processors."""
    processors = sorted(os.sched_getaffinity(0))[:threads]
    command = [sys.executable, __file__, "--case", case, *map(str, (*sizes, repeats))]
    result = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, preexec_fn=lambda: os.sched_setaffinity(0, processors)
    )
    return json.loads(result.stdout)


def seconds(runs: list[Times]) -> str:
    """Median seconds by the clock, and of processor time."""
    return f"{median(clock for clock, _ in runs):8.2f} {median(processor for _, processor in runs):8.2f}"


def ratios(above: list[Times], below: list[Times]) -> str:
    """Medians over runs of the ratio by the clock, and by processor time."""
    return " ".join(f"{median(a[kind] / b[kind] for a, b in zip(above, below, strict=True)):6.2f}" for kind in (0, 1))


def show(title: str, rows: list[tuple[str, str]]) -> None:
    """Print a small table."""
    print(f"\n{title}")
    for name, figures in rows:
        print(f"  {name:44s} {figures}", flush=True)


def show_reranking(title: str, queries: int, gallery: int, dimensions: int, threads: int, repeats: int) -> None:
    """Print what re-ranking takes beside its product of features."""
    found = run("reranking", (queries, gallery, dimensions), threads, repeats)
    operations = (queries + gallery) ** 2 * dimensions / 1e9
    speed = operations / median(processor for _, processor in found["product"])
    rows = [
        (f"symmetric product ({speed:.0f} GFLOP a processor second)", seconds(found["product"])),
        ("re-ranking and evaluation", seconds(found["reranking"])),
        ("    in products", ratios(found["reranking"], found["product"])),
        ("plain evaluation", seconds(found["plain"])),
        ("peak memory, MB, features included", f"{found['peak']:8.0f}"),
    ]
    show(title, rows)


def show_growth(threads: int, repeats: int) -> None:
    """Print what re-ranking takes for more and more images."""
    rows = [("N", "re-ranking, clock and processor; product; in products; MB")]
    for images in GROWTH:
        found = run("reranking", (images // 7, images - images // 7, 512), threads, repeats)
        parts = (seconds(found["reranking"]), seconds(found["product"]), ratios(found["reranking"], found["product"]))
        rows.append((f"{images:,}", " | ".join((*parts, f"{found['peak']:6.0f}"))))
    show("growth, D = 512", rows)


def main() -> None:
    """Run the parts that were asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--repeats", type=int, default=3)
    choices = parser.parse_args()
    unknown = set(choices.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    parts, threads, repeats = choices.parts or PARTS, choices.threads, choices.repeats
    print(f"{threads} threads, {repeats} repeats; seconds by the clock, seconds of processor time")
    if "ranking" in parts:
        found = run("ranking", MARKET, threads, repeats)
        show("ranking, 3,368 x 19,732", [(name, seconds(found[name])) for name in found if name != "peak"])
    if "reranking" in parts:
        show_reranking("re-ranking, 3,368 + 19,732, D = 2,048", *MARKET, 2048, threads, repeats)
    if "msmt" in parts:
        show_reranking("re-ranking, 11,659 + 82,161, D = 512", *MSMT17, 512, threads, repeats)
    if "growth" in parts:
        show_growth(threads, repeats)
    if "dense" in parts:
        for images in (1250, 2500, 5000):
            found = run("dense", (images // 7, images - images // 7, 512), threads, 1)
            show(
                f"dense re-ranking, {images:,} images",
                [("seconds", seconds(found["dense"])), ("MB", f"{found['peak']:8.0f}")],
            )
    if "bootstrap" in parts:
        found = run("bootstrap", (MARKET[0],), threads, repeats)
        show("bootstrap, 10,000 x 3,368 queries, 7 numbers", [("intervals", seconds(found["intervals"]))])


if __name__ == "__main__":
    if "--case" in sys.argv:
        print(json.dumps(CASES[sys.argv[2]](*map(int, sys.argv[3:]))))
    else:
        main()
