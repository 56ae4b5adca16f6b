"""Examine a clone: the machine, packages, parameters, data, DVC's cache and remotes, and what runs left behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from slsr.errors import InputError
from slsr.params.file import Params, load_params
from slsr.project.doctor import clone, machine, remotes
from slsr.project.doctor.report import Finding
from slsr.project.repository import cache_folder, load_config


def examine(
    root: Path, environment: Mapping[str, str], seconds: float, torch: machine.TorchProbe = machine.ask_torch
) -> Iterator[Finding]:
    """Examine a clone; torch, which takes seconds to answer, is asked last.

    Parameters
    ----------
    root
        The root of the project.
    environment
        The variables of the shell, as `os.environ`.
    seconds
        How long each remote may take to answer.
    torch
        Asks torch about the machine.
    """
    params, read = _parameters(root)
    yield from machine.packages(root / "requirements.txt")
    yield read
    yield from machine.processor()
    if params is not None:
        yield from _tried("data", clone.data(root, params))
        yield from _tried("weights", machine.weights_files(root, params))
    yield from _of_dvc(root, seconds)
    answer = torch(root, environment, params)
    yield from machine.device(answer)
    if params is not None:
        yield from machine.precision(answer, params)
    yield from _tried("weights", machine.imagenet_weights(root, answer))


def _parameters(root: Path) -> tuple[Params | None, Finding]:
    try:
        return load_params(root / "params.yaml"), Finding("parameters", "ok", "params.yaml is valid")
    except InputError as error:
        return None, Finding("parameters", "problem", str(error), "correct it, or `slsr preset NAME --force`")


def _of_dvc(root: Path, seconds: float) -> Iterator[Finding]:
    if not (root / ".dvc").is_dir():
        yield Finding("dvc", "problem", f"{root.resolve()} has no folder .dvc", "run this in the root of a clone")
        return
    yield from clone.git_readable(root)
    try:
        config = load_config(root)
    except InputError as error:
        remedy = "correct .dvc/config or .dvc/config.local; cache, remotes and secrets are checked after that"
        yield Finding("dvc", "problem", str(error), remedy)
        yield from _tried("disk", machine.disk(root, cache_folder(root, {})))
    else:
        cache = cache_folder(root, config)
        yield from _tried("disk", machine.disk(root, cache))
        yield from _tried("cache", clone.cache(root, cache, config))
        yield from _tried("cache", clone.objects(root, cache))
        yield from _tried("remote", remotes.remotes(root, config, seconds))
        yield from _tried("secrets", remotes.secrets(root))
    yield from _tried("lock", clone.locks(root))
    yield from _tried("lock file", clone.lock_file(root))
    yield from _tried("unfinished", clone.unfinished_runs(root))


def _tried(topic: str, checks: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings; what the file system refuses to a check is a problem, and the other checks go on."""
    try:
        yield from checks
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        remedy = "change its permissions, or mount its disk again"
        yield Finding(topic, "problem", f"{error.filename or 'a file'}: {reason}", remedy)
