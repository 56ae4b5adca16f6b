"""Everything that wants measuring on a GPU, in pieces: presets at full size, throughput, a preset on the real archive.

    python benchmarks/gpu.py OUT --archive Market-1501-v15.09.15.zip --minutes 9     (again, until it says "complete")
    python benchmarks/gpu.py OUT --tiny                      (the same road on a drawn sample, on a CPU, in minutes)

One call works for --minutes and stops; the next continues. A finished piece is in OUT/pieces/ as JSON and is
skipped; OUT/results.md is written anew after each. A training that is cut off saves its state, as every training does,
and goes on from there. Pieces, in this order:

preset      benchmarks/training.py --presets: the trainings of market1501-strong and of the paper's presets at their
            full size, in turns with the bare network, and the minutes that a whole run of each would take
throughput  benchmarks/training.py --ways at 256x128, batch 32, for ResNet-50, DenseNet-121 and the DCGAN, in bf16,
            fp32 and tf32, eager and (the classifiers) compiled; against the plain loop once a network, in fp32, eager
scratch     the stages of the pipeline under the preset market1501-scratch, one after the other, without DVC, in
            OUT/work; {none, lsro, slsr} with each seed of --seeds. `--set` changes keys of the preset; the batch of
            256 that is the default here is for the time limit, and the results state it.

NOT MEASURED: written for one H200-class GPU and a total of 25 minutes, but so far run only with --tiny on a CPU. The
times in MINUTES are guesses. Needs torch 2.11 or newer; no network.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
REGULARIZERS = ("none", "lsro", "slsr")
NETWORKS = ("resnet50", "densenet121", "gan")
PRESETS = ("market1501-strong", "market1501", "market1501-densenet121")
# What a throughput piece and a preset may take; they are not begun with less left.
MINUTES = 2.5
MINUTES_OF_PRESET = 4.0
SECONDS_TO_SAVE = 45.0
TINY = [
    "dataset.identities=8",
    *(f"image.{name}={size}" for name, size in (("height", 32), ("width", 32))),
    *(f"image.{name}=36" for name in ("resize_height", "resize_width")),
    *("image.test=center-crop", "encoder.backbone=resnet18", "encoder.epochs=2", "cluster.k=2", "cluster.sweep=[2,3]"),
    "cluster.minimum_images=6",
    *("gan.height=32", "gan.width=32", "gan.channels=4", "gan.epochs=1", "gan.batch_size=16", "generate.images=24"),
    *("train.backbone=resnet18", "train.epochs=2", "train.batch_size=32", "evaluate.bootstrap.resamples=200"),
    *("evaluate.rerank.k1=10", "evaluate.rerank.k2=3", "evaluate.ranked_list.queries=2"),
]


@dataclass(frozen=True)
class Piece:
    """A name, what it takes at most in minutes before it can be put off (0: it saves its state), and how it is done."""

    name: str
    minutes: float
    work: Callable[[float], Any]


class OutOfTime(Exception):
    """The minutes of this call are over."""


def main() -> None:
    options = parse()
    deadline = time.monotonic() + 60 * options.minutes
    pieces = [*preset_pieces(options), *throughput_pieces(options), *scratch_pieces(options)]
    (options.out / "pieces").mkdir(parents=True, exist_ok=True)
    for number, piece in enumerate(pieces, 1):
        path = options.out / "pieces" / f"{piece.name}.json"
        if path.exists():
            continue
        left = deadline - time.monotonic()
        if left < max(60 * piece.minutes, 30):
            break
        print(f"[{number}/{len(pieces)}] {piece.name}, {left / 60:.1f} minutes left", flush=True)
        started = time.monotonic()
        try:
            result = piece.work(deadline)
        except OutOfTime:
            break
        record = {"result": result, "seconds": round(time.monotonic() - started, 1), "machine": machine()}
        write(path, json.dumps(record, indent=2) + "\n")
        write(options.out / "results.md", render(options.out / "pieces", [each.name for each in pieces]))
    missing = [piece.name for piece in pieces if not (options.out / "pieces" / f"{piece.name}.json").exists()]
    print("complete" if not missing else f"{len(missing)} of {len(pieces)} pieces to go; run the same command again")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("--archive", type=Path, help="Market-1501-v15.09.15.zip")
    parser.add_argument("--minutes", type=float, default=9.0, help="of this call")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--set", nargs="*", default=["encoder.batch_size=256", "train.batch_size=256"], metavar="K=V")
    parser.add_argument("--tiny", action="store_true", help="a drawn sample and tiny sizes: whether it works")
    options = parser.parse_args()
    if options.archive is None and not options.tiny:
        parser.error("--archive is needed, unless --tiny")
    options.out = options.out.resolve()
    return options


def preset_pieces(options: argparse.Namespace) -> list[Piece]:
    return [Piece(f"preset-{name}", MINUTES_OF_PRESET, preset(options, name)) for name in PRESETS]


def preset(options: argparse.Namespace, name: str) -> Callable[[float], Any]:
    """Measure the trainings of a preset, whose images are noise: it needs no archive."""

    def work(deadline: float) -> Any:
        (measured,) = training(options, f"preset-{name}", ["--presets", name], deadline)
        return measured

    return work


def training(options: argparse.Namespace, name: str, words: Sequence[str], deadline: float) -> Any:
    """Run benchmarks/training.py in OUT/work; what it measured."""
    folder = options.out / "work"
    folder.mkdir(parents=True, exist_ok=True)
    results = folder / f"{name}.json"
    sizes = ["--quick"] if options.tiny else []
    command = [sys.executable, str(ROOT / "benchmarks/training.py"), *words, *sizes, "--json", str(results)]
    run(command, folder, deadline)
    return json.loads(results.read_text())


def throughput_pieces(options: argparse.Namespace) -> list[Piece]:
    pieces = []
    for precision in ("bf16", "fp32", "tf32"):
        for compiling in ("never", "auto"):
            for network in NETWORKS:
                if network == "gan" and compiling == "auto":
                    continue
                name = f"throughput-{network}-{precision}-{'compiled' if compiling == 'auto' else 'eager'}"
                ways = ["bare", "ours"]
                if compiling == "never":
                    ways.append("ours, not deterministic")
                if (precision, compiling) == ("fp32", "never"):
                    ways.append("plain")
                pieces.append(Piece(name, MINUTES, throughput(options, name, network, precision, compiling, ways)))
    return pieces


def throughput(
    options: argparse.Namespace, name: str, network: str, precision: str, compiling: str, ways: Sequence[str]
) -> Callable[[float], Any]:
    def work(deadline: float) -> Any:
        prepare_work(options, deadline)
        words = ["--networks", network, "--precision", precision, "--compile", compiling, "--ways", *ways]
        sizes = [] if options.tiny else ["--height", "256", "--width", "128", "--repeats", "1", "--steps", "100"]
        return training(options, name, [*words, *sizes], deadline)

    return work


def scratch_pieces(options: argparse.Namespace) -> list[Piece]:
    shared = [("train-encoder",), ("extract-features",), ("cluster",), ("train-gan",), ("generate",), ("floors",)]
    pieces = [Piece(f"scratch-{words[0]}", 0, stage(options, words, None)) for words in shared]
    for seed in options.seeds:
        for regularizer in REGULARIZERS:
            for command in ("train", "evaluate"):
                name = f"scratch-{command}-{regularizer}-seed{seed}"
                pieces.append(Piece(name, 0, stage(options, (command, regularizer), seed)))
    return pieces


def stage(options: argparse.Namespace, words: Sequence[str], seed: int | None) -> Callable[[float], Any]:
    """Run one stage of the pipeline in OUT/work; what it measured."""

    def work(deadline: float) -> Any:
        prepare_work(options, deadline)
        folder = options.out / "work"
        if seed is not None:
            write_params(options, folder, [f"train.seed={seed}"])
        run([sys.executable, "-m", "slsr", *words], folder, deadline)
        artifacts = folder / "artifacts"
        match words:
            case ("evaluate", regularizer):
                return json.loads((artifacts / "evaluate" / regularizer / "metrics.json").read_text())
            case ("floors",):
                return json.loads((artifacts / "floors" / "metrics.json").read_text())
            case ("generate",):
                return json.loads((artifacts / "generated" / "quality.json").read_text())
            case _:
                return None

    return work


def prepare_work(options: argparse.Namespace, deadline: float) -> None:
    """The folder in which stages run: params.yaml, the archive, and what `prepare` makes of it."""
    folder = options.out / "work"
    if (folder / "artifacts/prepared/facts.json").exists():
        return
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "weights").mkdir(exist_ok=True)
    write_params(options, folder, [])
    archive = folder / "data" / archive_name(options)
    if options.tiny:
        run([sys.executable, "-m", "slsr", "sample", str(archive), "--identities", "8"], folder, deadline)
    elif not archive.exists():
        archive.symlink_to(options.archive.resolve())
    run([sys.executable, "-m", "slsr", "prepare"], folder, deadline)


def archive_name(options: argparse.Namespace) -> str:
    return "slsr-sample.zip" if options.tiny else "Market-1501-v15.09.15.zip"


def write_params(options: argparse.Namespace, folder: Path, changes: Sequence[str]) -> None:
    from ruamel.yaml import YAML

    from slsr.params.file import validate_params
    from slsr.params.presets import render_preset

    yaml = YAML(typ="safe", pure=True)
    values = yaml.load(render_preset(ROOT / "presets", "market1501-scratch"))
    for change in [f"dataset.archive={archive_name(options)}", *(TINY if options.tiny else options.set), *changes]:
        key, text = change.split("=", 1)
        *parents, last = key.split(".")
        block = values
        for parent in parents:
            block = block[parent]
        block[last] = yaml.load(text)
    validate_params(values, "params.yaml")
    write(folder / "params.yaml", json.dumps(values, indent=2) + "\n")  # JSON is YAML


def run(command: Sequence[str], folder: Path, deadline: float) -> None:
    """Run a command, and ask it to save and leave when the minutes are over.

    Raises
    ------
    OutOfTime
        They were over.
    SystemExit
        The command failed.
    """
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "DVC_ROOT": str(folder)}
    process = subprocess.Popen(command, cwd=folder, env=environment)
    try:
        code = process.wait(max(deadline - time.monotonic(), 1))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        raise OutOfTime from None
    if code:
        sys.exit(f"{' '.join(command)} ended with {code}")


def machine() -> dict[str, Any]:
    import torch
    import torchvision

    gpu = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if gpu else "CPU",
        "memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if gpu else None,
        "cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
    }


def render(folder: Path, names: Sequence[str]) -> str:
    """Tables of the pieces that are there."""
    records = {name: json.loads(path.read_text()) for name in names if (path := folder / f"{name}.json").exists()}
    first = next(iter(records.values()))["machine"]
    seconds = ", ".join(f"{name} {record['seconds']:,.0f}" for name, record in records.items())
    lines = ["# GPU results", "", ", ".join(f"{key} {value}" for key, value in first.items()), ""]
    lines += [*preset_rows(records), "", *throughput_rows(records), "", *scratch_rows(records), ""]
    return "\n".join([*lines, f"Seconds: {seconds}", ""])


def of_kind(records: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {name.removeprefix(kind): one["result"] for name, one in records.items() if name.startswith(kind)}


def preset_rows(records: Mapping[str, Any]) -> list[str]:
    found = of_kind(records, "preset-")
    lines = [
        "| preset | training | size | batch | precision | ours, images/s | bare | ours / bare | triplet and sampler |"
    ]
    lines += ["| --- | --- | --- | ---: | --- | ---: | ---: | ---: | ---: |"]
    for name, result in found.items():
        for block in ("encoder", "train"):
            turns = result[block]
            ours, bare, ratio = (statistics.median(turns[key]) for key in ("ours", "bare", "clock"))
            shares = [100 * statistics.median(turns[key]) for key in ("triplet", "sampler") if turns[key]]
            size = f"{turns['height']}x{turns['width']} | {turns['batch']} | {turns['precision']}"
            share = f"{sum(shares):.2f} %" if shares else ""
            lines.append(f"| {name} | {block} | {size} | {ours:,.0f} | {bare:,.0f} | {ratio:.3f} | {share} |")
    lines += ["", "Minutes of a whole run over Market-1501, training alone:", ""]
    for name, result in found.items():
        parts = ", ".join(f"{part} {minutes:.1f}" for part, minutes in result["minutes"].items())
        lines.append(f"- {name}: {sum(result['minutes'].values()):.0f} ({parts})")
    return lines


def throughput_rows(records: Mapping[str, Any]) -> list[str]:
    lines = ["| network | precision | compile | way | images/s | of bare | GPU MB | MB |"]
    lines += ["| --- | --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for name, result in of_kind(records, "throughput-").items():
        network, precision, form = name.rsplit("-", 2)
        rates = {row["way"]: sum(row["images_per_second"]) / len(row["images_per_second"]) for row in result}
        for row in result:
            rate, asked = rates[row["way"]], "auto" if form == "compiled" else "never"
            memory = f"{row['gpu_mb']:,.0f} | {row['memory_mb']:,.0f}"
            lines.append(
                f"| {network} | {precision} | {asked} | {row['way']} | {rate:,.0f} | "
                f"{rate / rates['bare']:.3f} | {memory} |"
            )
    return lines


def scratch_rows(records: Mapping[str, Any]) -> list[str]:
    lines = ["| run | rank-1 | mAP (trapezoid) | mAP (standard) |", "| --- | ---: | ---: | ---: |"]
    for name, result in of_kind(records, "scratch-evaluate-").items():
        single = result["single_query"]
        figures = [100 * single[key] for key in ("rank1", "map_trapezoid", "map_standard")]
        lines.append(f"| {name} | {figures[0]:.1f} | {figures[1]:.1f} | {figures[2]:.1f} |")
    return lines


def write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    partial.replace(path)


if __name__ == "__main__":
    main()
