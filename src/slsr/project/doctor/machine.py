"""The state of the machine: packages, processor, devices, weights, disk."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from slsr.params.file import Params
from slsr.project.doctor.report import GIB, Finding, ask, counted, some
from slsr.runtime.machine import physical_memory, usable_cores

LITTLE_DISK, NO_DISK = 10 * GIB, GIB
LITTLE_MEMORY = 4 * GIB
SECONDS_FOR_TORCH = 60.0
SECONDS_FOR_WEIGHTS = 3.0
MEASURING = ("tf_efficientnet_lite0", "tf_efficientnet_lite1")  # the quality of generated images; installed packages
AMPERE = 8  # major compute capability of the first GPUs with tf32 and bf16

TorchAnswer = dict[str, Any] | str  # what torch says, or a sentence if it says nothing
TorchProbe = Callable[[Path, Mapping[str, str], Params | None], TorchAnswer]

# Run by the interpreter of this environment; what it prints is JSON.
TORCH_PROBE = """
import json, os, sys, torch
from slsr.errors import InputError
from slsr.models.weights import find_imagenet_weights
from slsr.runtime.launch import launched, processes_wanted
found = {"torch": torch.__version__, "gpus": [], "weights": {}}
for index in range(torch.cuda.device_count()):
    properties = torch.cuda.get_device_properties(index)
    found["gpus"].append({"name": properties.name, "memory": properties.total_memory, "major": properties.major})
for name in sys.argv[1:]:
    found["weights"][name] = find_imagenet_weights(name)
try:
    found["launched"] = launched(os.environ)
    found["processes"] = processes_wanted(os.environ)
except InputError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""
WEIGHTS_PROBE = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1], method="HEAD")
urllib.request.urlopen(request, timeout=float(sys.argv[2])).close()
print(json.dumps({}))
"""


def packages(requirements: Path) -> Iterator[Finding]:
    """Compare the interpreter and the installed packages with the pinned ones."""
    python = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "problem", f"{python}; 3.11 to 3.13 is needed", "make env PYTHON=python3.12")
    else:
        yield Finding("python", "ok", python)
    if not requirements.is_file():
        yield Finding("packages", "problem", f"{requirements}: no such file", "run this in the root of a clone")
        return
    missing, others, right = [], [], 0
    for name, pinned in pins(requirements.read_text(encoding="utf-8", errors="replace")).items():
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if version.split("+")[0] == pinned.split("+")[0]:
            right += 1
        else:
            others.append(f"{name} {version} (pinned {pinned})")
    if missing:
        yield Finding("packages", "problem", f"{counted(len(missing), 'package')} missing: {some(missing)}", "make env")
    if others:
        text = f"{counted(len(others), 'package')} not as pinned, so results may differ in bytes: {some(others)}"
        yield Finding("packages", "note", text, "make env")
    if not missing and not others:
        yield Finding("packages", "ok", f"{counted(right, 'package')} as pinned in requirements.txt")


def pins(requirements: str) -> dict[str, str]:
    """Map name to version for each `name==version` of a requirements file that applies to this system."""
    found: dict[str, str] = {}
    for line in requirements.splitlines():
        if not line[:1].isalnum():
            continue
        with suppress(InvalidRequirement):
            requirement = Requirement(line.removesuffix("\\").strip())
            if requirement.marker is None or requirement.marker.evaluate():
                versions = [one.version for one in requirement.specifier if one.operator == "=="]
                if versions:
                    found[canonicalize_name(requirement.name)] = versions[0]
    return found


def ask_torch(root: Path, environment: Mapping[str, str], params: Params | None) -> TorchAnswer:
    """Ask torch about the machine, and about the ImageNet weights that a run needs."""
    backbones = set(MEASURING)
    if params is not None:
        backbones |= {one.backbone for one in (params.encoder, params.train) if one.weights == "imagenet"}
    return ask(TORCH_PROBE, sorted(backbones), root, environment, SECONDS_FOR_TORCH)


def processor() -> Iterator[Finding]:
    """Report the cores that this process may use, and the memory."""
    text = f"{counted(usable_cores(), 'core')} for this process, {physical_memory() / GIB:.1f} GiB of memory"
    if physical_memory() < LITTLE_MEMORY:
        yield Finding("machine", "note", text, "lower batch_size and the image size if a stage runs out of memory")
    else:
        yield Finding("machine", "ok", text)


def device(answer: TorchAnswer) -> Iterator[Finding]:
    """Report the GPUs, and how many processes a run will start."""
    if isinstance(answer, str):
        yield Finding("device", "problem", f"torch does not answer: {answer}", "make env; nvidia-smi")
        return
    names = [f"{gpu['name']} ({gpu['memory'] / GIB:.0f} GiB)" for gpu in answer["gpus"]]
    yield Finding("device", "ok", f"torch {answer['torch']}, {some(names) or 'no GPU: the CPU will be used'}")
    if "refused" in answer:
        yield Finding("processes", "problem", answer["refused"])
    elif answer["launched"]:
        yield Finding("processes", "note", "RANK or variables of Slurm are set: a stage run here joins that launch")
    else:
        text = "SLSR_PROCESSES changes the number; the results stay the same, except for rounding"
        yield Finding("processes", "ok", f"{counted(answer['processes'], 'process', 'processes')}; {text}")


def precision(answer: TorchAnswer, params: Params) -> Iterator[Finding]:
    """Check whether the device has the precision that params.yaml asks for."""
    if isinstance(answer, str):
        return
    precisions = {"encoder": params.encoder.precision, "gan": params.gan.precision, "train": params.train.precision}
    text = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
    too_old = [gpu["name"] for gpu in answer["gpus"] if gpu["major"] < AMPERE]
    remedy = "set precision: fp32 in params.yaml, which changes results"
    if too_old and set(precisions.values()) != {"fp32"}:
        yield Finding("precision", "problem", f"{text}; {too_old[0]} has neither tf32 nor bf16", remedy)
    elif answer["gpus"]:
        yield Finding("precision", "ok", text)
    elif "tf32" in precisions.values():
        yield Finding("precision", "note", f"{text}; a CPU has no tf32 and computes in fp32")
    elif "bf16" in precisions.values():
        yield Finding("precision", "note", f"{text}; bf16 is slow on a CPU", remedy)
    else:
        yield Finding("precision", "ok", text)


def weights_files(root: Path, params: Params) -> Iterator[Finding]:
    """Check whether the files of weights that training starts from are in weights/."""
    for name in sorted({params.encoder.weights, params.train.weights} - {"imagenet", "none"}):
        if (root / "weights" / name).is_file():
            yield Finding("weights", "ok", f"weights/{name} exists")
        else:
            remedy = "put it there, or choose imagenet or none"
            yield Finding("weights", "problem", f"weights/{name}: no such file", remedy)
    if {params.encoder.weights, params.train.weights} == {"none"}:
        yield Finding("weights", "ok", "training starts from scratch")


def imagenet_weights(root: Path, answer: TorchAnswer) -> Iterator[Finding]:
    """Check whether the ImageNet weights that a run needs are on this machine, or can be downloaded."""
    if not isinstance(answer, str):
        for backbone, file in answer["weights"].items():
            yield _imagenet(root, backbone, **file)


def _imagenet(root: Path, backbone: str, path: str | None, url: str | None, problem: str | None) -> Finding:
    if problem is not None:
        return Finding("weights", "problem", *problem.rsplit("; ", 1))
    if path is not None and Path(path).is_file():
        return Finding("weights", "ok", f"ImageNet weights of {backbone} are in {Path(path).parent}")
    assert url is not None, "weights without an address are installed, or a problem"
    answer = ask(WEIGHTS_PROBE, [url, str(SECONDS_FOR_WEIGHTS)], root, os.environ, 3 * SECONDS_FOR_WEIGHTS)
    if isinstance(answer, str):
        text = f"ImageNet weights of {backbone} are not on this machine, and {url} does not answer: {answer}"
        return Finding("weights", "problem", text, f"put the file into {_place(path)}, or set weights to none")
    return Finding("weights", "note", f"ImageNet weights of {backbone} will be downloaded from {url}")


def _place(path: str | None) -> str:
    return "weights/ and name it there" if path is None else str(Path(path).parent)


def disk(root: Path, cache: Path) -> Iterator[Finding]:
    """Report the free space of each disk that a run writes to."""
    places = {"the clone": root, "the cache": _existing(cache), "temporary files": Path(tempfile.gettempdir())}
    seen = set()
    for name, place in places.items():
        device = place.stat().st_dev
        if device in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        text = f"{free / GIB:.1f} GiB free for {name}"
        remedy = "`dvc gc -w` removes from the cache what the workspace does not use"
        if free < NO_DISK:
            yield Finding("disk", "problem", text, remedy)
        elif free < LITTLE_DISK:
            yield Finding("disk", "note", f"{text}; a run with the paper's settings takes about 10 GiB", remedy)
        else:
            yield Finding("disk", "ok", text)


def _existing(path: Path) -> Path:
    """Return the path, or the nearest folder above it that exists."""
    return path if path.exists() else _existing(path.parent)
