"""What the stage `cluster` computes, in seconds, against plain scikit-learn on the same features in the same process.

    python benchmarks/clustering.py [--images 12936] [--width 2048] [--ks 2,3,4,5] [--restarts 10] [--repeats 3]

Drawn features of Market-1501's training set at ResNet-50's width: non-negative, 751 people in four groups. Each way
finds k-means with all restarts for every k, in the full dimension and on the first two principal components, with
silhouettes. The two take turns; ratios are medians over the turns, so that other users of the machine matter little.

ours           slsr.clustering.sweep: sweep_clusters, project
scikit-learn   KMeans(k, n_init=restarts), silhouette_score and PCA(2), as a notebook would call them
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score, silhouette_score

from slsr.clustering.sweep import project, sweep_clusters

PEOPLE, GROUPS = 751, 4
Found = dict[int, tuple[NDArray[np.int32], float, float]]
Features = NDArray[np.float32]


def draw_features(images: int, width: int) -> Features:
    generator = np.random.default_rng(0)
    groups = generator.gamma(2.0, 0.15, (GROUPS, width))
    people = groups[generator.integers(GROUPS, size=PEOPLE)] + generator.normal(0, 0.15, (PEOPLE, width))
    features: Features = np.maximum(
        people[generator.integers(PEOPLE, size=images)] + generator.normal(0, 0.3, (images, width)), 0
    ).astype(np.float32)
    return features


def ours(features: Features, ks: Sequence[int], restarts: int) -> tuple[Found, Found]:
    full = sweep_clusters(features, ks, seed=1, restarts=restarts)
    plane = sweep_clusters(project(features), ks, seed=1, restarts=restarts)
    full_found, plane_found = (
        {k: (one.assignments, one.inertia, one.silhouette or 0.0) for k, one in found.items()}
        for found in (full, plane)
    )
    return full_found, plane_found


def plain(features: Features, ks: Sequence[int], restarts: int) -> tuple[Found, Found]:
    def sweep(points: Features) -> Found:
        found = {}
        for k in ks:
            fitted = KMeans(k, n_init=restarts, random_state=1).fit(points)
            silhouette = float(silhouette_score(points, fitted.labels_))
            found[k] = fitted.labels_, float(fitted.inertia_), silhouette
        return found

    return sweep(features), sweep(PCA(2).fit_transform(features))


def timed(way: Callable[[], tuple[Found, Found]]) -> tuple[float, float, tuple[Found, Found]]:
    """Seconds by the clock and of processor time, and what was found."""
    start, processor = time.perf_counter(), time.process_time()
    found = way()
    return time.perf_counter() - start, time.process_time() - processor, found


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("images", 12936), ("width", 2048), ("restarts", 10), ("repeats", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--ks", type=lambda text: [int(k) for k in text.split(",")], default=[2, 3, 4, 5])
    chosen = parser.parse_args()
    features = draw_features(chosen.images, chosen.width)
    print(f"{len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f} before; {chosen.repeats} turns")
    print(f"{chosen.images:,} x {chosen.width:,}, k = {chosen.ks}, {chosen.restarts} restarts")
    turns = []
    for _ in range(chosen.repeats):
        mine = timed(lambda: ours(features, chosen.ks, chosen.restarts))
        print(f"  ours {mine[0]:7.1f} s ({mine[1]:.1f} s of processor time)", end="   ", flush=True)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        theirs = timed(lambda: plain(features, chosen.ks, chosen.restarts))
        turns.append((mine, theirs, peak))
        print(f"scikit-learn {theirs[0]:7.1f} s ({theirs[1]:.1f} s)", flush=True)
    for name, part in (("by the clock", 0), ("processor time", 1)):
        times = [statistics.median(turn[way][part] for turn in turns) for way in (0, 1)]
        ratio = statistics.median(turn[1][part] / turn[0][part] for turn in turns)
        print(f"{name}: ours {times[0]:.1f} s, scikit-learn {times[1]:.1f} s, scikit-learn / ours {ratio:.2f}")
    print(
        f"peak memory of the process after ours alone: {turns[0][2]:,.0f} MB, features {features.nbytes / 2**20:,.0f}"
    )
    for space, mine, theirs in zip(("full", "plane"), turns[0][0][2], turns[0][1][2], strict=True):
        for k in chosen.ks:
            agreement = adjusted_rand_score(mine[k][0], theirs[k][0])
            print(
                f"  {space:5} k = {k}: agreement {agreement:.3f} (adjusted Rand), sum of squares ours / scikit-learn "
                f"{mine[k][1] / theirs[k][1]:.5f}, silhouettes {mine[k][2]:.4f} and {theirs[k][2]:.4f}"
            )


if __name__ == "__main__":
    main()
