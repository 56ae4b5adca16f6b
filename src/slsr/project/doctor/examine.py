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
) -> list[Finding]:
    """Examine a clone.

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
    answer = torch(root, environment, params)
    findings = [*machine.packages(root / "requirements.txt"), read, *machine.processor(), *machine.device(answer)]
    if params is not None:
        findings += machine.precision(answer, params)
        findings += machine.weights(root, answer, params)
        findings += clone.data(root, params)
    return [*findings, *_of_dvc(root, seconds)]


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
        yield from machine.disk(root, cache_folder(root, {}))
    else:
        cache = cache_folder(root, config)
        yield from machine.disk(root, cache)
        yield from clone.cache(root, cache, config)
        yield from remotes.remotes(root, config, seconds)
        yield from remotes.secrets(root)
    yield from clone.locks(root)
    yield from clone.lock_file(root)
    yield from clone.unfinished_runs(root)
