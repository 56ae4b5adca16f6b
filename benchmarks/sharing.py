"""Push and pull of 12,000 generated images, one Parquet file, on each kind of remote, all on the loopback address.

    python benchmarks/sharing.py                     # five rounds of 12,000 images, medians
    python benchmarks/sharing.py --images 500 --rounds 1

The images are drawn noise of about the size of a JPEG of 128x64 pixels. The SSH remote is a process of sshd's, left out
where there is none; the S3 remote is moto's server, which keeps objects in memory: a figure for DVC and its client, not
for a store. Times are of the commands as typed, half a second of DVC's start included.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "remotes"))

from servers import Remote, s3_server, ssh_program, ssh_server  # noqa: E402

BYTES_OF_AN_IMAGE = 4096
TABLE = "images.parquet"


def write_images(path: Path, count: int) -> None:
    """A table like artifacts/generated/images.parquet, of bytes that do not compress, as those of JPEG files."""
    draw = np.random.default_rng(1)
    images = [draw.bytes(BYTES_OF_AN_IMAGE) for _ in range(count)]
    names = [f"{number:06d}.jpg" for number in range(count)]
    pq.write_table(pa.table({"image": images, "name": names}), path, compression="none", use_dictionary=False)


class Folder:
    """A git and DVC repository in which commands run as a user's would."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, *command: str) -> float:
        """Seconds that a command takes."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        start = time.perf_counter()
        done = subprocess.run(command, cwd=self.folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit(f"{command} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return seconds


def measure(remote: Remote, images: Path, folder: Path, rounds: int) -> tuple[float, float]:
    """Median seconds of push and of pull, each into nothing."""
    project = Folder(folder / "project")
    project.run("git", "init", "--quiet")
    project.run("dvc", "init", "--quiet")
    project.run("dvc", "config", "core.analytics", "false")
    shutil.copy(images, project.folder / TABLE)
    project.run("dvc", "add", "--quiet", TABLE)
    pushes, pulls = [], []
    for number in range(rounds):
        place = Remote(
            remote.kind,
            f"{remote.url}/{number}",
            remote.settings,
            remote.secrets,
            remote.folder and remote.folder / str(number),
            remote.endpoint,
        )
        place.configure(project)
        pushes.append(project.run("dvc", "push", "--quiet"))
        if images.stat().st_size not in place.files().values():
            sys.exit(f"{remote.kind}: the table did not arrive")
        shutil.rmtree(project.folder / ".dvc" / "cache")
        (project.folder / TABLE).unlink()
        pulls.append(project.run("dvc", "pull", "--quiet"))
        if (project.folder / TABLE).read_bytes() != images.read_bytes():
            sys.exit(f"{remote.kind}: another table came back")
    return statistics.median(pushes), statistics.median(pulls)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        write_images(folder / TABLE, arguments.images)
        size = (folder / TABLE).stat().st_size / 1e6
        print(f"{arguments.images:,} images, one file of {size:.1f} MB; medians of {arguments.rounds} rounds, seconds")
        remotes = [Remote("folder", str(folder / "remote"), folder=folder / "remote")]
        for kind in ("ssh", "s3"):
            (folder / kind).mkdir()
        if ssh_program(required=False) is None:
            print("ssh: left out, there is no sshd (`apt-get install openssh-server`)")
        else:
            remotes.append(stack.enter_context(ssh_server(folder / "ssh")).remote("store"))
        remotes.append(stack.enter_context(s3_server(folder / "s3")).remote("store"))
        print("| remote | push | pull |\n| --- | ---: | ---: |")
        for remote in remotes:
            push, pull = measure(remote, folder / TABLE, folder / f"work-{remote.kind}", arguments.rounds)
            print(f"| {remote.kind} | {push:.2f} | {pull:.2f} |", flush=True)


if __name__ == "__main__":
    main()
