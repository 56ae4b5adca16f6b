"""How long `prepare` takes on the whole Market-1501 archive, and how much memory, beside two plain ways to read it.

    python benchmarks/prepare.py [Market-1501-v15.09.15.zip]

Without a path: the archive below ../shared/data, or below the folder that SLSR_REAL_DATA names. Each way runs three
times in a process of its own; the fastest is shown, since others may use the machine.

verify: zipfile and Pillow in one thread, every image decoded, nothing written
unpack: all files written to disk, then every image decoded from there
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPEATS = 3


def images(packed: zipfile.ZipFile) -> list[str]:
    return [name for name in packed.namelist() if name.endswith(".jpg")]


def verify(archive: Path) -> int:
    from PIL import Image

    with zipfile.ZipFile(archive) as packed:
        names = images(packed)
        for name in names:
            Image.open(io.BytesIO(packed.read(name))).load()
    return len(names)


def unpack(archive: Path) -> int:
    from PIL import Image

    with zipfile.ZipFile(archive) as packed:
        packed.extractall()
        names = images(packed)
    for name in names:
        Image.open(name).load()
    return len(names)


def prepare(archive: Path) -> int:
    import yaml

    from slsr.params.file import validate_params
    from slsr.stages.prepare import run

    Path("data").mkdir()
    (Path("data") / "archive.zip").symlink_to(archive.resolve())
    values = yaml.safe_load((ROOT / "presets/defaults.yaml").read_text())
    values["dataset"]["archive"] = "archive.zip"
    run(validate_params(values, "params.yaml").dataset)
    splits = json.loads(Path("artifacts/prepared/facts.json").read_text())["splits"]
    return sum(split["images"] for split in splits.values())


WAYS = {"verify": verify, "unpack": unpack, "slsr prepare": prepare}


def measure(name: str, archive: Path) -> None:
    """In a process of its own: print images, seconds, seconds of processor time, peak MB."""
    start = time.perf_counter()
    count = WAYS[name](archive)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    seconds = time.perf_counter() - start
    print(json.dumps([count, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))


def fastest(name: str, archive: Path) -> tuple[int, float, float, float]:
    runs = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(Path(__file__).resolve()), str(archive.resolve()), name]
            done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    count, seconds, processor, memory = min(runs, key=lambda run: run[1])
    return count, seconds, processor, memory


def main() -> None:
    folder = Path(os.environ.get("SLSR_REAL_DATA", ROOT.parent / "shared/data"))
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else folder / "market1501/Market-1501-v15.09.15.zip"
    if not archive.is_file():
        print(f"skipped: no archive at {archive}; give its path, or set SLSR_REAL_DATA")
        return
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the first run; fastest of {REPEATS}")
    print(f"{'':14}{'images':>10}{'seconds':>10}{'processor s':>13}{'images/s':>10}{'peak MB':>9}")
    for name in WAYS:
        count, seconds, processor, memory = fastest(name, archive)
        print(f"{name:14}{count:>10,}{seconds:>10.1f}{processor:>13.1f}{count / seconds:>10,.0f}{memory:>9,.0f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[2], Path(sys.argv[1]))
    else:
        main()
