"""Exported networks: latency of one image and images per second of a batch, beside the eager network.

    python benchmarks/export.py [MODEL] [--threads 2] [--batch 64] [--repeats 5]

MODEL is by default artifacts/train/slsr. Each program gets the same normalized images and gives features with those of
the mirrored images added; decoding and resizing are not in it. Latency is the median over 20 calls of one image, images
per second that of `repeats` calls of one batch; the programs take turns, so that what else runs on the machine disturbs
them alike. Parity is the lowest cosine similarity to the eager features over 64 images, size that of the file.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

CALLS = 20


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, default=Path("artifacts/train/slsr"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)

    import torch

    from slsr.embedding.encoder import load_encoder
    from slsr.embedding.export import (
        Embedder,
        Inputs,
        compare,
        drawn_pixels,
        export,
        network_input,
        run_onnx,
        run_torchscript,
    )

    torch.set_num_threads(options.threads)
    encoder = load_encoder(options.model, "cpu")
    eager = Embedder(encoder).eval()

    @torch.inference_mode()
    def run_eager(images: Inputs) -> Inputs:
        return eager(torch.from_numpy(images)).numpy()

    programs, exported, sizes = {"eager": run_eager}, {}, {"eager": None}
    with tempfile.TemporaryDirectory() as folder:
        for form, read in (("onnx", lambda path: run_onnx(path, options.threads)), ("torchscript", run_torchscript)):
            path = Path(folder) / form
            exported[form] = seconds(lambda path=path, form=form: export(encoder, path, form))
            programs[form] = read(path)
            sizes[form] = path.stat().st_size / 1e6
            print(f"exported {form}", file=sys.stderr)
        batch = network_input(encoder, drawn_pixels(encoder, options.batch))
        one = batch[:1].copy()
        for run in programs.values():
            for _ in range(3):
                run(one)
            run(batch)
        latency, throughput = ({name: [] for name in programs} for _ in range(2))
        for _ in range(CALLS):
            for name, run in programs.items():
                latency[name].append(seconds(lambda run=run: run(one)))
        for _ in range(options.repeats):
            for name, run in programs.items():
                throughput[name].append(seconds(lambda run=run: run(batch)))
        height, width = encoder.size
        print(f"{encoder.network.description.backbone}, {height}x{width} pixels, {options.threads} threads")
        print(f"| program | latency, ms | images/s, by {options.batch} | parity | MB | to export, s |")
        print("| --- | ---: | ---: | ---: | ---: | ---: |")
        for name, run in programs.items():
            figures = f"{1000 * median(latency[name]):.1f} | {options.batch / median(throughput[name]):.0f}"
            parity = f"{compare(encoder, run).cosine:.7f}"
            rest = f"{sizes[name]:.1f} | {exported[name]:.0f}" if name in exported else "- | -"
            print(f"| {name} | {figures} | {parity} | {rest} |")


if __name__ == "__main__":
    main()
