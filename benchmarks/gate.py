"""How long the checks take that run before every push: `dvc repro` with nothing to do, `dvc status`, fresh, gate.

    python benchmarks/gate.py [repetitions, 5 by default]

In a temporary clone of HEAD: first bare (nothing pulled: where `slsr fresh` and `slsr gate` have to work), then with
every output checked out from this checkout's DVC cache, which `make repro` must have filled. Medians by the clock, and
of processor time with that of child processes.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
SLSR = [sys.executable, "-m", "slsr"]
DVC = [str(BIN / "dvc")]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": "src", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("GITHUB_STEP_SUMMARY", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def measure(name: str, command: list[str], folder: Path, repetitions: int) -> None:
    clock, processor, codes = [], [], set()
    run(command, folder)
    for _ in range(repetitions):
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        codes.add(run(command, folder).returncode)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        clock.append(time.perf_counter() - start)
        processor.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    middle = statistics.median
    exits = ", ".join(map(str, sorted(codes)))
    print(f"| {name} | {middle(clock):.2f} | {max(clock):.2f} | {middle(processor):.2f} | {exits} |", flush=True)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "slsr"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(clone)], check=True)
        print(f"median and slowest of {repetitions}, after one that does not count")
        print("| command | seconds | slowest | processor seconds | exit |\n| --- | ---: | ---: | ---: | ---: |")
        measure("`slsr --help`", [*SLSR, "--help"], clone, repetitions)
        measure("`slsr fresh`, nothing pulled", [*SLSR, "fresh"], clone, repetitions)
        measure("`slsr fresh --rev HEAD`, nothing pulled", [*SLSR, "fresh", "--rev", "HEAD"], clone, repetitions)
        measure("`slsr gate --against HEAD`, nothing pulled", [*SLSR, "gate", "--against", "HEAD"], clone, repetitions)
        run([*DVC, "cache", "dir", "--local", str(ROOT / ".dvc" / "cache")], clone)
        pulled = [run([*DVC, "pull", "data.dvc"], clone), run([*DVC, "checkout"], clone)]
        dry = run([*DVC, "repro", "--dry"], clone).stdout
        if any(done.returncode for done in pulled) or "Running stage" in dry:
            print("\nno times with everything pulled: this checkout's cache lacks outputs of HEAD; `make repro` first")
            return
        measure("`dvc repro`, nothing to do", [*DVC, "repro"], clone, repetitions)
        measure("`dvc status`", [*DVC, "status"], clone, repetitions)
        measure("`slsr fresh`, everything pulled", [*SLSR, "fresh"], clone, repetitions)


if __name__ == "__main__":
    main()
