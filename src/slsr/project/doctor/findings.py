"""A clone's health: what the machine offers, what of it a run will use, and what stands in the way of work.

Whatever may hang (a driver, a server) is asked in a process of its own, under a time limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from slsr.errors import InputError
from slsr.params.file import load_params
from slsr.project.doctor.clone import (
    cache_folder,
    check_cache,
    check_locks,
    check_remotes,
    check_secrets,
    check_unfinished_runs,
    dvc_config,
    lock_file,
)
from slsr.project.doctor.machine import (
    check_data,
    check_devices,
    check_disk,
    check_packages,
    check_processor,
    check_weights,
    probe_torch,
)
from slsr.project.doctor.report import Finding


def examine(root: Path, environment: Mapping[str, str], seconds: float) -> list[Finding]:
    """Examine a clone, the root of the project.

    Parameters
    ----------
    environment
        The shell's, as `os.environ`.
    seconds
        How long each remote may take to answer.
    """
    findings = [*check_packages(root / "requirements.txt")]
    params = None
    try:
        params = load_params(root / "params.yaml")
        findings.append(Finding("parameters", "ok", "params.yaml is valid"))
    except InputError as error:
        findings.append(Finding("parameters", "problem", str(error), "mend it, or `slsr preset NAME --force`"))
    probe = probe_torch(root, environment, params)
    findings += [
        *check_processor(),
        *check_devices(probe, params),
        *check_weights(root, probe, params),
        *check_data(root, params),
    ]
    if not (root / ".dvc").is_dir():
        findings.append(Finding("dvc", "problem", f"{root.resolve()} has no .dvc", "run this in the root of a clone"))
        return findings
    config, broken = dvc_config(root)
    left_behind = [*check_locks(root), *lock_file(root), *check_unfinished_runs(root)]
    if broken is not None:
        return [*findings, broken, *check_disk(root, cache_folder(root, {})), *left_behind]
    cache = cache_folder(root, config)
    findings += [*check_disk(root, cache), *check_cache(root, cache, config)]
    return [*findings, *check_remotes(root, config, seconds), *check_secrets(root), *left_behind]
