"""Search: recall, queries per second, memory and building time of each kind of index.

    python benchmarks/search.py [--images 10000 ...] [--dimensions 512 2048] [--kinds flat hnsw ivf-pq] [--threads 2]
                                [--queries 1000] [--intrinsic 64] [--memory 4] [--folder DIR] [--out FILE.jsonl]
    python benchmarks/search.py --on-paper

Features are synthetic and have length 1: 20 images per person around a center. Centers and deviations are drawn in a
space of `--intrinsic` dimensions that is rotated into D dimensions, with a little noise in all of them, since
features of trained networks vary in few of their dimensions. Recall at 10 is the share of the 10 nearest images,
found by comparing everything, that an index finds for queries that it does not hold; `hnsw` and `ivf-pq` search with
the effort that `slsr index` chose for a recall of 0.95 on its own images. Queries per second are measured one at a
time and in batches of 100. Memory is what the process grew by when it opened the index, names included, and searched
it; pages of mapped files, which the system can drop, are counted separately. Every case runs in its own process. With
--out, a case that is in the file is not run again, so that an interrupted run continues. 10^6 images of 2,048
dimensions take 8 GB in `--folder` (by default that of temporary files); their flat index takes the same again, and as
much memory.

--on-paper prints what the formulas of `slsr.search.kinds` give for 10^8 images.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("flat", "hnsw", "ivf-pq")
AROUND_A_CENTER = 20
DEVIATION, NOISE = 0.7, 0.2  # of an image from its person's center, in the intrinsic dimensions and in all
BATCH = 100
CHUNK = 8192
PAPER = 10**8
COLUMNS = {
    "kind": "kind",
    "images": "images",
    "dimension": "D",
    "recall": "recall@10",
    "single": "queries/s, one by one",
    "batched": f"queries/s, by {BATCH}",
    "grown": "memory, MB",
    "mapped": "mapped, MB",
    "disk": "on disk, MB",
    "build": "to build, s",
    "choose": "of it to measure, s",
    "effort": "effort",
}


def write_gallery(path: Path, images: int, dimension: int, queries: int, intrinsic: int) -> NDArray[Any]:
    """Write the gallery, float32 [images, dimension], a chunk at a time; return the queries."""
    import numpy as np

    people = max(1, images // AROUND_A_CENTER)
    shape = min(intrinsic, dimension)
    turn = np.random.default_rng(1).standard_normal((shape, dimension), dtype=np.float32) / np.float32(shape**0.5)
    centers = np.random.default_rng(2).standard_normal((people, shape), dtype=np.float32)

    def drawn(count: int, seed: int) -> NDArray[Any]:
        random = np.random.default_rng([3, seed])
        own = centers[random.integers(0, people, count)]
        own += DEVIATION * random.standard_normal(own.shape, dtype=np.float32)
        features = own @ turn + NOISE * random.standard_normal((count, dimension), dtype=np.float32)
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    gallery = np.lib.format.open_memmap(path, "w+", np.float32, (images, dimension))
    for start in range(0, images, CHUNK):
        count = min(CHUNK, images - start)
        gallery[start : start + count] = drawn(count, start)
    gallery.flush()
    return drawn(queries, images)


def resident() -> tuple[int, int]:
    """Bytes of memory of this process now: its own, and pages of files, which the system can drop."""
    pages, of_files = (int(field) for field in Path("/proc/self/statm").read_text().split()[1:3])
    size = os.sysconf("SC_PAGE_SIZE")
    return (pages - of_files) * size, of_files * size


def case(
    kind: str, images: int, dimension: int, queries: int, intrinsic: int, memory: float, folder: Path
) -> dict[str, Any]:
    """Build one index in `folder`, open it in a process of its own, and measure there."""
    import numpy as np

    from slsr.embedding.files import NamedFeatures, Origin
    from slsr.search import kinds, store

    drawn = write_gallery(folder / "gallery.npy", images, dimension, queries, intrinsic)
    features = np.load(folder / "gallery.npy", mmap_mode="r")
    np.save(folder / "queries.npy", drawn)
    np.save(folder / "exact.npy", kinds.search_exactly(features, drawn, 10)[1])
    measuring = []
    measure_recall = kinds.measure_recall

    def timed(*arguments: Any) -> Any:
        start = time.perf_counter()
        found = measure_recall(*arguments)
        measuring.append(time.perf_counter() - start)
        return found

    kinds.measure_recall = timed
    part = NamedFeatures(features, [str(number) for number in range(images)], None, None)
    start = time.perf_counter()
    built = store.build(folder / "index", Origin("synthetic", True, "-"), [part], kind=kind, memory=int(memory * 1e9))
    seconds = time.perf_counter() - start
    effort = built.recall.effort
    del built
    command = [sys.executable, __file__, "--measure", str(folder)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    disk = (folder / "index").stat().st_size
    return {"build": seconds, "choose": sum(measuring), "effort": effort, "disk": disk / 1e6, **found}


def measure(folder: Path) -> dict[str, Any]:
    """Of the index in a folder: memory, recall and speed."""
    import numpy as np

    from slsr.embedding.files import NamedFeatures, Origin
    from slsr.search import store

    queries, exact = np.load(folder / "queries.npy"), np.load(folder / "exact.npy")
    small = NamedFeatures(queries[:50], [str(number) for number in range(50)], None, None)
    store.build(folder / "small", Origin("synthetic", True, "-"), [small]).search(queries, 10)  # loads the libraries
    before = resident()
    index = store.open_index(folder / "index")
    index.search(queries[:BATCH], 10)
    memory, mapped = (after - earlier for after, earlier in zip(resident(), before, strict=True))
    start = time.perf_counter()
    rows = np.concatenate([index.search(queries[row : row + BATCH], 10)[1] for row in range(0, len(queries), BATCH)])
    batched = time.perf_counter() - start
    few = queries[:BATCH]
    start = time.perf_counter()
    for row in range(len(few)):
        index.search(few[row : row + 1], 10)
    single = time.perf_counter() - start
    return {
        "recall": float(np.mean([np.isin(one, other).mean() for one, other in zip(exact, rows, strict=True)])),
        "single": len(few) / single,
        "batched": len(queries) / batched,
        "grown": memory / 1e6,
        "mapped": mapped / 1e6,
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| " + " | ".join(COLUMNS.values()) + " |", "|" + " --- |" + " ---: |" * (len(COLUMNS) - 1)]
    for one in found:
        cells = []
        for key in COLUMNS:
            value = one[key]
            digits = 3 if key == "recall" else 1 if isinstance(value, float) and value < 100 else 0
            cells.append(value if isinstance(value, str) else f"{value:,.{digits}f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def on_paper() -> str:
    """Memory and disk of 10^8 images, by the formulas that choose the kind."""
    from slsr.search.kinds import TRAINED_ON, cell_count, code_bytes, index_bytes

    lines = ["| D | kind | memory, GB | features on disk, GB |", "| --- | --- | ---: | ---: |"]
    for dimension in (512, 2048):
        for kind in KINDS:
            memory, half = index_bytes(kind, PAPER, dimension), 2 * PAPER * dimension if kind == "ivf-pq" else 0
            lines.append(f"| {dimension:,} | {kind} | {memory / 1e9:,.1f} | {half / 1e9:,.1f} |")
    cells, code = cell_count(PAPER), code_bytes(2048)
    sample = TRAINED_ON[1] * cells
    lines.append(f"\nivf-pq: {cells:,} cells, {code} bytes a code at D = 2,048, trained on up to {sample:,} features.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--intrinsic", type=int, default=64)
    parser.add_argument("--memory", type=float, default=4.0, help="GB, bounds the training sample of ivf-pq")
    parser.add_argument("--folder", type=Path, help="for the galleries and indexes, removed afterwards")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--on-paper", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.on_paper:
        print(on_paper())
        return
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    if options.case:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            print(json.dumps(case(**json.loads(options.case), folder=Path(folder))))
        return
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if _there(options.out) else []
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads), "OPENBLAS_NUM_THREADS": str(options.threads)}
    where = ["--folder", str(options.folder)] if options.folder else []
    shown = []
    for images, dimension, kind in itertools.product(options.images, options.dimensions, options.kinds):
        wanted = {"kind": kind, "images": images, "dimension": dimension}
        wanted |= {"queries": options.queries, "intrinsic": options.intrinsic, "memory": options.memory}
        known = [one for one in done if (wanted | {"threads": options.threads}).items() <= one.items()]
        if not known:
            command = [sys.executable, __file__, *where, "--case", json.dumps(wanted)]
            ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            known = [wanted | {"threads": options.threads} | json.loads(ran.stdout.splitlines()[-1])]
            if options.out:
                with options.out.open("a") as out:
                    out.write(json.dumps(known[0]) + "\n")
            print(json.dumps(known[0]), file=sys.stderr)
        shown += known[:1]
    print(table(shown))


def _there(path: Path | None) -> bool:
    return path is not None and path.is_file()


if __name__ == "__main__":
    main()
