"""What the machine has: packages, processor, devices, weights, data, disk."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from slsr.params.file import Params
from slsr.project.doctor.report import GIB, Finding, ask, some

LITTLE_DISK, NO_DISK = 10 * GIB, GIB


LITTLE_MEMORY = 4 * GIB


SECONDS_FOR_TORCH = 60.0


SECONDS_FOR_WEIGHTS = 3.0


AMPERE = 8  # major compute capability of the first GPUs with tf32 and bf16


def check_packages(requirements: Path) -> Iterator[Finding]:
    """The interpreter, and the installed packages against the pinned ones."""
    python = ".".join(map(str, sys.version_info[:3]))
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Finding("python", "problem", f"{python}; 3.11 to 3.13 is needed", "make env PYTHON=python3.12")
    else:
        yield Finding("python", "ok", python)
    if not requirements.is_file():
        yield Finding("packages", "problem", f"{requirements}: no such file", "run this in the root of a clone")
        return
    missing, others, right = [], [], 0
    for name, pinned in pins(requirements.read_text(encoding="utf-8")).items():
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
        yield Finding("packages", "problem", f"{len(missing)} pinned ones are missing: {some(missing)}", "make env")
    if others:
        text = f"{len(others)} of other versions than requirements.txt, so other bytes may come out: {some(others)}"
        yield Finding("packages", "note", text, "make env")
    if not missing and not others:
        yield Finding("packages", "ok", f"{right} as pinned in requirements.txt")


def pins(requirements: str) -> dict[str, str]:
    """Name and version of each `name==version` of a requirements file that holds for this interpreter and system."""
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


# Run by the interpreter of this environment; what it prints is JSON.
TORCH_PROBE = """
import json, os, sys, torch
backbones = sys.argv[1:]
found = {"torch": torch.__version__, "hub": torch.hub.get_dir(), "gpus": [], "weights": {}}
for index in range(torch.cuda.device_count()):
    properties = torch.cuda.get_device_properties(index)
    found["gpus"].append({"name": properties.name, "memory": properties.total_memory, "major": properties.major})
if backbones:
    from slsr.models.weights import IMAGENET_WEIGHTS
    from torchvision.models import get_model_weights
    found["weights"] = {name: get_model_weights(name)[IMAGENET_WEIGHTS].url for name in backbones}
from slsr.errors import InputError
from slsr.runtime.launch import launched, processes_wanted
try:
    found["launched"] = launched(os.environ)
    found["processes"] = processes_wanted(os.environ)
except InputError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""


def probe_torch(root: Path, environment: Mapping[str, str], params: Params | None) -> dict[str, Any] | str:
    """What torch says of the machine; a sentence where it says nothing."""
    backbones = set()
    if params is not None:
        backbones = {one.backbone for one in (params.encoder, params.train) if one.weights == "imagenet"}
    return ask(TORCH_PROBE, sorted(backbones), root, environment, SECONDS_FOR_TORCH)


def check_processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{cores} processor cores for this process, {memory / GIB:.1f} GiB of memory"
    if memory < LITTLE_MEMORY:
        yield Finding("machine", "note", text, "lower batch_size and the image size if a stage runs out of memory")
    else:
        yield Finding("machine", "ok", text)


def check_devices(probe: dict[str, Any] | str, params: Params | None) -> Iterator[Finding]:
    """GPUs, and the device, processes and precision of a run."""
    if isinstance(probe, str):
        yield Finding("device", "problem", f"torch could not be asked: {probe}", "make env; nvidia-smi")
        return
    gpus = probe["gpus"]
    names = [f"{gpu['name']} ({gpu['memory'] / GIB:.0f} GiB)" for gpu in gpus]
    yield Finding("device", "ok", f"torch {probe['torch']}, {some(names) if gpus else 'no GPU: the CPU will be used'}")
    if "refused" in probe:
        yield Finding("processes", "problem", probe["refused"])
    elif probe["launched"]:
        yield Finding("processes", "note", "RANK or Slurm's variables are set: a stage run here joins that launch")
    else:
        count = probe["processes"]
        text = f"{count} on this machine" if count > 1 else "one"
        yield Finding("processes", "ok", f"{text}; SLSR_PROCESSES changes that, not the results beyond rounding")
    if params is None:
        return
    precisions = {"encoder": params.encoder.precision, "gan": params.gan.precision, "train": params.train.precision}
    text = ", ".join(f"{name} {precision}" for name, precision in precisions.items())
    wanting = [precision for precision in precisions.values() if precision != "fp32"]
    too_old = [gpu["name"] for gpu in gpus if gpu["major"] < AMPERE]
    remedy = "precision: fp32 in params.yaml, which changes results"
    if wanting and too_old:
        yield Finding("precision", "problem", f"{text}; {too_old[0]} has neither tf32 nor bf16, and refuses", remedy)
    elif "tf32" in wanting and not gpus:
        yield Finding("precision", "note", f"{text}; tf32 changes nothing on a CPU, here it is fp32")
    elif "bf16" in wanting and not gpus:
        yield Finding("precision", "note", f"{text}; bf16 is slow on a CPU", remedy)
    else:
        yield Finding("precision", "ok", text)


WEIGHTS_PROBE = """
import json, sys, urllib.request
request = urllib.request.Request(sys.argv[1], method="HEAD")
urllib.request.urlopen(request, timeout=float(sys.argv[2])).close()
print(json.dumps({}))
"""


def check_weights(root: Path, probe: dict[str, Any] | str, params: Params | None) -> Iterator[Finding]:
    """Whether the weights that training starts from are here, or can be had."""
    if params is None:
        return
    for name in sorted({params.encoder.weights, params.train.weights} - {"imagenet", "none"}):
        if (root / "weights" / name).is_file():
            yield Finding("weights", "ok", f"weights/{name} is there")
        else:
            remedy = "put it there, or choose imagenet or none"
            yield Finding("weights", "problem", f"weights/{name}: no such file", remedy)
    if {params.encoder.weights, params.train.weights} == {"none"}:
        yield Finding("weights", "ok", "from scratch, none needed")
    if isinstance(probe, str):
        return
    for backbone, url in probe["weights"].items():
        file = Path(probe["hub"]) / "checkpoints" / Path(url).name
        if file.is_file():
            yield _cached_weights(backbone, file)
            continue
        arguments = [url, str(SECONDS_FOR_WEIGHTS)]
        answer = ask(WEIGHTS_PROBE, arguments, root, os.environ, 3 * SECONDS_FOR_WEIGHTS)
        if isinstance(answer, str):
            text = f"ImageNet's for {backbone} are not here, and {url} is out of reach: {answer}"
            yield Finding("weights", "problem", text, f"put the file into {file.parent}, or set weights to none")
        else:
            yield Finding("weights", "note", f"ImageNet's for {backbone} will be downloaded from {url}")


def _cached_weights(backbone: str, file: Path) -> Finding:
    """As training will look at the file: its hash has to begin as its name says."""
    expected = HASH_IN_NAME.search(file.name)
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if expected and not digest.startswith(expected[1]):
        text = f"{file} is not the file of this name: its SHA-256 begins with {digest[: len(expected[1])]}"
        return Finding("weights", "problem", text, "remove it, so that it is downloaded again")
    return Finding("weights", "ok", f"ImageNet's for {backbone} are in {file.parent}")


def check_data(root: Path, params: Params | None) -> Iterator[Finding]:
    if params is None:
        return
    archive = root / "data" / params.dataset.archive
    if archive.is_file():
        yield Finding("data", "ok", f"{params.dataset.archive}, {archive.stat().st_size / 1e6:,.1f} MB")
    else:
        remedy = "dvc pull data.dvc (the sample), or `slsr data add FILE` (an archive of yours)"
        yield Finding("data", "problem", f"data/{params.dataset.archive}: no such file", remedy)


def check_disk(root: Path, cache: Path) -> Iterator[Finding]:
    places = {"the clone": root, "the cache": _existing(cache), "temporary files": Path(tempfile.gettempdir())}
    seen: dict[int, str] = {}
    for name, place in places.items():
        device = place.stat().st_dev
        if device in seen:
            continue
        seen[device] = name
        free = shutil.disk_usage(place).free
        text = f"{free / GIB:.1f} GiB free for {name}"
        remedy = "dvc gc -w drops what the workspace does not use from the cache"
        if free < NO_DISK:
            yield Finding("disk", "problem", text, remedy)
        elif free < LITTLE_DISK:
            yield Finding("disk", "note", f"{text}; a run at the paper's scale takes some 10", remedy)
        else:
            yield Finding("disk", "ok", text)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return path if path.exists() else _existing(path.parent)


HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")
