"""How long `slsr explore` takes over a gallery as large as Market-1501's, and how much memory.

    python benchmarks/explore.py [backbone, densenet121 by default] [gallery images, 19732 by default]

The benchmark makes query and gallery tables of noise (64x32 JPEG, 750 identities, 6 cameras, 3,368 queries) and an
untrained network of that backbone at 64x32 in a temporary folder. It starts the command twice with them, the second
time with a filled cache, and asks for pages as a browser does. The size of the rankings matters here, not how good
they are. Medians by the clock; memory is the largest resident size of the process (Linux).
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import torch
import yaml
from PIL import Image as PillowImage

from slsr.images.tables import LABELED, table_writer
from slsr.models.encoder import Encoder, EncoderDescription, save_encoder
from slsr.params.recipe import Image

ROOT = Path(__file__).parents[1]
QUERIES, IDENTITIES, CAMERAS, ASKED = 3368, 750, 6, 15


def picture(generator: np.random.Generator) -> bytes:
    coarse = generator.integers(0, 256, (8, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    PillowImage.fromarray(coarse).resize((32, 64)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write_table(path: Path, count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    with table_writer(path, LABELED) as table:
        for row in range(count):
            identity, camera = int(generator.integers(1, IDENTITIES + 1)), int(generator.integers(1, CAMERAS + 1))
            name = f"{identity:04d}_c{camera}_{row:06d}.jpg"
            table.append({"image": picture(generator), "name": name, "identity": identity, "camera": camera})


def write_model(path: Path, backbone: str) -> None:
    values = yaml.safe_load((ROOT / "presets/defaults.yaml").read_text())["image"]
    values |= {"height": 64, "width": 32, "resize_height": 72, "resize_width": 36, "test": "center-crop"}
    torch.manual_seed(1)
    save_encoder(path, Encoder(EncoderDescription(backbone, "plain", IDENTITIES, Image(**values))))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[int, int, float]]:
    """The command over the tables in a folder: process number, port, seconds until it answers."""
    command = [sys.executable, "-m", "slsr", "explore", "model.safetensors", "--port", "0"]
    command += ["--gallery", "gallery.parquet", "--query", "query.parquet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONUNBUFFERED": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = re.search(r"http://[^:]+:(\d+)/", process.stdout.readline())
        if said is None:
            sys.exit("slsr explore did not start; see above")
        yield process.pid, int(said.group(1)), time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()


def resident(process: int) -> float:
    """The largest resident size so far, in MB."""
    text = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text).group(1)) / 1024


def ask(port: int, path: str, method: str = "GET", body: bytes = b"", **headers: str) -> tuple[bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status >= 400:
        sys.exit(f"{path}: {answer.status}")
    return content, dict(answer.getheaders())


def median_seconds(port: int, paths: list[str]) -> tuple[float, float]:
    """Median and slowest over some addresses, after one that does not count."""
    ask(port, paths[0])
    seconds = []
    for path in paths[1:]:
        start = time.perf_counter()
        ask(port, path)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), max(seconds)


def upload(port: int, seed: int) -> str:
    """Drop a picture on the page; its address among the pages."""
    head = (
        b'--x\r\nContent-Disposition: form-data; name="picture"; filename="a.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    )
    body = head + picture(np.random.default_rng(seed)) + b"\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x", "Origin": f"http://127.0.0.1:{port}"}
    where = urlsplit(ask(port, "/upload", "POST", body, **kind)[1]["Location"])
    return f"{where.path}?{where.query}"


def measure_pages(port: int, gallery: int) -> None:
    generator = np.random.default_rng(5)
    queries = generator.integers(0, QUERIES, ASKED + 1).tolist()
    uploads = [upload(port, seed) for seed in range(ASKED + 1)]
    rows = generator.integers(0, gallery, 20 * ASKED + 1).tolist()
    for name, paths in (
        ("page of queries, 60 images", [f"/pick/q?page={page}" for page in range(1, ASKED + 2)]),
        ("ranking of a query, plain", [f"/search?query=q{row}&right=off" for row in queries]),
        ("ranking of a query, re-ranked", [f"/search?query=q{row}&left=0-reranked&right=off" for row in queries]),
        ("both side by side", [f"/search?query=q{row}" for row in queries]),
        ("ranking of an upload, plain", [f"{path}&right=off" for path in uploads]),
        ("ranking of an upload, re-ranked", [f"{path}&left=0-reranked&right=off" for path in uploads]),
        ("thumbnail of a random gallery image", [f"/image/g/{row}.jpg" for row in rows]),
        ("similarity map over a gallery image", [f"/map/similarity/0/q1/g{row}.jpg" for row in rows[: ASKED + 1]]),
    ):
        middle, slowest = median_seconds(port, paths)
        print(f"| {name} | {1000 * middle:.0f} | {1000 * slowest:.0f} |", flush=True)


def main() -> None:
    backbone = sys.argv[1] if len(sys.argv) > 1 else "densenet121"
    gallery = int(sys.argv[2]) if len(sys.argv) > 2 else 19_732
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_table(folder / "gallery.parquet", gallery, 1)
        write_table(folder / "query.parquet", QUERIES, 2)
        write_model(folder / "model.safetensors", backbone)
        size = (folder / "gallery.parquet").stat().st_size / 2**20
        print(f"{backbone}, gallery of {gallery:,} images ({size:.0f} MB encoded), {QUERIES:,} queries\n")
        with running(folder) as (process, _, seconds):
            print(f"first start {seconds:.1f} s, at most {resident(process):,.0f} MB", flush=True)
        with running(folder) as (process, port, seconds):
            print(f"second start {seconds:.1f} s, {resident(process):,.0f} MB\n", flush=True)
            print("| page | median, ms | slowest, ms |\n| --- | ---: | ---: |")
            measure_pages(port, gallery)
            print(f"\nat most {resident(process):,.0f} MB after all of them")


if __name__ == "__main__":
    main()
