"""A clone's health: what the machine offers, what of it a run will use, and what stands in the way of work.

Whatever may hang (a driver, a server) is asked in a process of its own, under a time limit.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

import slsr
from slsr.errors import InputError
from slsr.params import Params, load_params

Level = Literal["ok", "note", "problem"]

GIB = 2**30
LITTLE_DISK, NO_DISK = 10 * GIB, GIB
LITTLE_MEMORY = 4 * GIB
SECONDS_FOR_TORCH = 60.0
SECONDS_FOR_WEIGHTS = 3.0
AMPERE = 8  # major compute capability of the first GPUs with tf32 and bf16
DAYS_OF_A_FORGOTTEN_RUN = 14
SEED = "seed"  # the remote inside git that holds the sample
SCRATCH = ".scratch"
STATE = re.compile(r"[0-9a-f]{32}")  # as slsr.stages.scratch names them; other things may lie beside them
FICLONE = 0x40049409  # Linux: let a file share another's blocks
DEFAULT_LINKS = ["reflink", "copy"]

# Options of a DVC remote that are secrets, wherever they stand; and a user with a password in an address.
SECRET_OPTIONS = frozenset(
    {
        *("password", "passphrase", "keyfile", "key_path", "token", "custom_auth_header"),
        *("access_key_id", "secret_access_key", "session_token", "credentialpath"),
        *("connection_string", "sas_token", "account_key", "client_secret"),
        *("oss_key_id", "oss_key_secret", "gdrive_client_secret", "gdrive_service_account_json_file_path"),
    }
)
PASSWORD_IN_URL = re.compile(r"://[^/@\s:]+:[^/@\s]+@")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    level
        `ok`; `note`, worth knowing; `problem`, in the way of work.
    remedy
        What to do about it, empty where nothing is to be done.
    """

    topic: str
    level: Level
    text: str
    remedy: str = ""


def examine(root: Path, environment: Mapping[str, str], seconds: float) -> list[Finding]:
    """Examine a clone, the root of the project.

    Parameters
    ----------
    environment
        The shell's, as `os.environ`.
    seconds
        How long each remote may take to answer.
    """
    findings = [*_packages(root / "requirements.txt")]
    params = None
    try:
        params = load_params(root / "params.yaml")
        findings.append(Finding("parameters", "ok", "params.yaml is valid"))
    except InputError as error:
        findings.append(Finding("parameters", "problem", str(error), "mend it, or `slsr preset NAME --force`"))
    probe = _probe_torch(root, environment, params)
    findings += [*_processor(), *_devices(probe, params), *_weights(root, probe, params), *_data(root, params)]
    if not (root / ".dvc").is_dir():
        findings.append(Finding("dvc", "problem", f"{root.resolve()} has no .dvc", "run this in the root of a clone"))
        return findings
    config, broken = _dvc_config(root)
    left_behind = [*_locks(root), *_lock_file(root), *_unfinished(root)]
    if broken is not None:
        return [*findings, broken, *_disk(root, _cache_folder(root, {})), *left_behind]
    cache = _cache_folder(root, config)
    findings += [*_disk(root, cache), *_cache(root, cache, config)]
    return [*findings, *_remotes(root, config, seconds), *_secrets(root), *left_behind]


def render(findings: Sequence[Finding]) -> str:
    """The report as text, a line a finding, its remedy below it."""
    width = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<8}{finding.topic:<{width}}  {finding.text}")
        if finding.remedy:
            lines.append(f"{'':<8}{'':<{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    """The report for programs: `{"findings": [{topic, level, text, remedy}], "problems": n}`."""
    return json.dumps({"findings": [asdict(one) for one in findings], "problems": len(problems(findings))}, indent=2)


def problems(findings: Sequence[Finding]) -> list[Finding]:
    """Those in the way of work."""
    return [finding for finding in findings if finding.level == "problem"]


def _packages(requirements: Path) -> Iterator[Finding]:
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
        yield Finding("packages", "problem", f"{len(missing)} pinned ones are missing: {_some(missing)}", "make env")
    if others:
        text = f"{len(others)} of other versions than requirements.txt, so other bytes may come out: {_some(others)}"
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


def _some(items: Sequence[str], count: int = 3) -> str:
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")


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
from slsr.training.launch import launched, processes_wanted
try:
    found["launched"] = launched(os.environ)
    found["processes"] = processes_wanted(os.environ)
except InputError as error:
    found["refused"] = str(error)
print(json.dumps(found))
"""


def _probe_torch(root: Path, environment: Mapping[str, str], params: Params | None) -> dict[str, Any] | str:
    """What torch says of the machine; a sentence where it says nothing."""
    backbones = set()
    if params is not None:
        backbones = {one.backbone for one in (params.encoder, params.train) if one.weights == "imagenet"}
    return _ask(TORCH_PROBE, sorted(backbones), root, environment, SECONDS_FOR_TORCH)


def _ask(
    program: str, arguments: Sequence[str], root: Path, environment: Mapping[str, str], seconds: float
) -> dict[str, Any] | str:
    """Run a program that prints JSON as its last line; a sentence where it fails or takes too long."""
    path = os.pathsep.join(filter(None, [str(Path(slsr.__file__).parents[1]), environment.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=root,
            env=dict(environment) | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:g} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
        return said[-1]
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def _processor() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = f"{cores} processor cores for this process, {memory / GIB:.1f} GiB of memory"
    if memory < LITTLE_MEMORY:
        yield Finding("machine", "note", text, "lower batch_size and the image size if a stage runs out of memory")
    else:
        yield Finding("machine", "ok", text)


def _devices(probe: dict[str, Any] | str, params: Params | None) -> Iterator[Finding]:
    """GPUs, and the device, processes and precision of a run."""
    if isinstance(probe, str):
        yield Finding("device", "problem", f"torch could not be asked: {probe}", "make env; nvidia-smi")
        return
    gpus = probe["gpus"]
    names = [f"{gpu['name']} ({gpu['memory'] / GIB:.0f} GiB)" for gpu in gpus]
    yield Finding("device", "ok", f"torch {probe['torch']}, {_some(names) if gpus else 'no GPU: the CPU will be used'}")
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


def _weights(root: Path, probe: dict[str, Any] | str, params: Params | None) -> Iterator[Finding]:
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
        answer = _ask(WEIGHTS_PROBE, arguments, root, os.environ, 3 * SECONDS_FOR_WEIGHTS)
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


def _data(root: Path, params: Params | None) -> Iterator[Finding]:
    if params is None:
        return
    archive = root / "data" / params.dataset.archive
    if archive.is_file():
        yield Finding("data", "ok", f"{params.dataset.archive}, {archive.stat().st_size / 1e6:,.1f} MB")
    else:
        remedy = "dvc pull data.dvc (the sample), or `slsr data add FILE` (an archive of yours)"
        yield Finding("data", "problem", f"data/{params.dataset.archive}: no such file", remedy)


def _disk(root: Path, cache: Path) -> Iterator[Finding]:
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


def _dvc_config(root: Path) -> tuple[dict[str, Any], Finding | None]:
    """DVC's configuration, of all levels together, or what is wrong with it."""
    from dvc.config import Config, ConfigError

    try:
        return dict(Config(str(root / ".dvc"))), None
    except ConfigError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        remedy = "mend .dvc/config or .dvc/config.local; cache, remotes and secrets are looked at after that"
        return {}, Finding("dvc", "problem", f"the configuration cannot be read: {reason}", remedy)


def _cache_folder(root: Path, config: Mapping[str, Any]) -> Path:
    return Path(config.get("cache", {}).get("dir") or root / ".dvc" / "cache")


HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.[a-z]+$")
LINKS = ("reflink", "hardlink", "symlink", "copy")


def _cache(root: Path, cache: Path, config: Mapping[str, Any]) -> Iterator[Finding]:
    """Where the cache lies, how files come out of it into the workspace, and what that costs."""
    settings = config.get("cache", {})
    try:
        cache.mkdir(parents=True, exist_ok=True)
        working = working_links(cache, root)
    except OSError as error:
        yield Finding("cache", "problem", f"{cache} is not writable: {error}", "see `A shared cache` in docs/scale.md")
        return
    wanted = settings.get("type") or DEFAULT_LINKS
    used = next((link for link in wanted if link in working), "copy")
    costs = {
        "reflink": "shares the disk blocks, costs nothing and is safe to edit",
        "hardlink": "costs nothing; files are read-only, `dvc unprotect` before editing one",
        "symlink": "costs nothing; files are read-only, `dvc unprotect` before editing one",
        "copy": f"every file lies on the disk twice, now {_size(root / 'artifacts') / 1e6:,.0f} MB more",
    }
    better = [link for link in ("reflink", "hardlink", "symlink") if link in working]
    text = f"{used} links from {cache}: {costs[used]}"
    if used == "copy" and better:
        yield Finding("cache", "note", text, f"dvc config --local cache.type {','.join([*better, 'copy'])}")
    else:
        yield Finding("cache", "ok", text)
    group = settings.get("shared") == "group"
    if _is_outside(cache, root) and not group:
        remedy = "dvc config cache.shared group, if others use it too"
        yield Finding("cache", "note", "outside of the clone, and what you add is not writable for your group", remedy)


def _is_outside(path: Path, root: Path) -> bool:
    return not path.resolve().is_relative_to(root.resolve())


def working_links(cache: Path, workspace: Path) -> list[str]:
    """Which ways of linking a file of the cache into the workspace work, tried with a file of one byte."""
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix=".slsr-") as one,
        tempfile.TemporaryDirectory(dir=workspace, prefix=".slsr-", suffix=".partial") as two,
    ):
        source = Path(one) / "file"
        source.write_bytes(b"1")
        return [link for link in LINKS if _links(link, source, Path(two) / link)]


def _links(link: str, source: Path, target: Path) -> bool:
    try:
        if link == "hardlink":
            target.hardlink_to(source)
        elif link == "symlink":
            target.symlink_to(source)
        elif link == "copy":
            shutil.copyfile(source, target)
        else:
            _reflink(source, target)
    except OSError:
        return False
    return True


def _reflink(source: Path, target: Path) -> None:
    if sys.platform != "linux":
        raise OSError(errno.ENOTSUP, "not tried on this system")
    with source.open("rb") as old, target.open("wb") as new:
        fcntl.ioctl(new.fileno(), FICLONE, old.fileno())


# The same calls as `dvc push` makes first. That a bucket's root exists is said of any name and key: it is listed.
REMOTE_PROBE = """
import json, sys
from dvc.repo import Repo
with Repo() as repo:
    remote = repo.cloud.get_remote(sys.argv[1])
    exists = remote.fs.exists(remote.path)
    if remote.fs.protocol == "s3" and "/" not in remote.path.strip("/"):
        exists = bool(list(remote.fs.ls(remote.path, detail=False)))
    print(json.dumps({"exists": exists}))
"""

HOLDINGS_PROBE = """
import json
from pathlib import Path
from slsr.remote_objects import holdings
print(json.dumps({"taken_for_sent": [one.path for one in holdings(Path()).lacking if one.taken_for_sent]}))
"""


def _remotes(root: Path, config: Mapping[str, Any], seconds: float) -> Iterator[Finding]:
    """Whether the remotes answer, with the credentials at hand."""
    default = config.get("core", {}).get("remote")
    remotes = config.get("remote", {})
    if not default:
        yield Finding("remote", "note", "no default remote: nothing is shared", "docs/sharing.md sets one up")
    for name, settings in sorted(remotes.items()):
        if name == SEED:
            continue
        title = f"remote {name}" + (" (default)" if name == default else "")
        url = _without_password(str(settings.get("url", "")))
        if _is_own_cache(root, name, settings):
            yield Finding(title, "ok", "this clone's cache: images that only this remote may have go nowhere")
            continue
        answer = _ask(REMOTE_PROBE, [name], root, os.environ, seconds)
        if isinstance(answer, str):
            level: Level = "problem" if name == default else "note"
            damaged = answer.startswith("sqlite3.")
            remedy = "slsr remote: DVC's notes are damaged" if damaged else "docs/sharing.md: address, key, credentials"
            yield Finding(title, level, f"{url}: {answer}", remedy)
        elif not answer["exists"]:
            text = f"{url} answers, and holds nothing yet"
            remedy = "is its disk mounted? `dvc push` makes the folder" if "://" not in url else ""
            yield Finding(title, "note", text, remedy)
        else:
            yield Finding(title, "ok", f"{url} answers")
            if name == default:
                yield from _holdings(root, title, seconds)
        if not settings.get("verify"):
            text = "verify is off: damaged objects would be taken for good ones"
            yield Finding(title, "note", text, f"dvc remote modify {name} verify true")


def _holdings(root: Path, title: str, seconds: float) -> Iterator[Finding]:
    """Whether DVC takes for sent what the remotes lack; what was never pushed is nobody's fault."""
    answer = _ask(HOLDINGS_PROBE, [], root, os.environ, seconds)
    if isinstance(answer, str):
        yield Finding(title, "note", f"what it holds was not looked at: {answer}", "slsr remote")
    elif lacking := answer["taken_for_sent"]:
        text = f"{_some(lacking)} never arrived, after a push that was killed, and DVC takes them for sent"
        yield Finding(title, "problem", text, "slsr remote --send")


def _is_own_cache(root: Path, name: str, settings: Mapping[str, Any]) -> bool:
    url = str(settings.get("url", ""))
    return "://" not in url and (root / ".dvc" / url).resolve() == (root / ".dvc" / "cache").resolve()


def _without_password(url: str) -> str:
    return PASSWORD_IN_URL.sub("://***@", url)


def _secrets(root: Path) -> Iterator[Finding]:
    path = root / ".dvc" / "config"
    found = committed_secrets(path.read_text(encoding="utf-8")) if path.is_file() else []
    if found:
        remedy = "change it where it was issued, `dvc remote modify --local` the new one, remove it here"
        yield Finding("secrets", "problem", f".dvc/config, which git keeps, has {_some(found)}", remedy)
    else:
        yield Finding("secrets", "ok", "none in .dvc/config")


def committed_secrets(config: str) -> list[str]:
    """What of a DVC configuration must not be committed: `section: option`, without the value."""
    found, section = [], ""
    for line in config.splitlines():
        if line.strip().startswith("["):
            section = line.strip().strip("[]'")
        option, equals, value = (part.strip() for part in line.partition("="))
        if equals and (option in SECRET_OPTIONS or PASSWORD_IN_URL.search(value)):
            found.append(f"{section}: {option}")
    return found


def _locks(root: Path) -> Iterator[Finding]:
    """Whether another DVC command is at work, or one was killed."""
    folder = root / ".dvc" / "tmp"
    if _is_locked(folder / "lock"):
        yield Finding("lock", "note", "another DVC command is at work in this clone", "wait for it")
        return
    rwlock = folder / "rwlock"
    if not rwlock.is_file():
        yield Finding("lock", "ok", "no DVC command is at work, none left anything behind")
        return
    try:
        held = json.loads(rwlock.read_text(encoding="utf-8") or "{}")
        owners = [one for mode in ("read", "write") for infos in held.get(mode, {}).values() for one in _listed(infos)]
        pids = {int(owner["pid"]) for owner in owners}
    except (ValueError, AttributeError, KeyError, TypeError):
        yield Finding("lock", "problem", f"{rwlock} was cut short, by a crash or a full disk", f"rm {rwlock}")
        return
    if alive := sorted(pid for pid in pids if _is_alive(pid)):
        text = f"{rwlock} names the running process {_some([str(pid) for pid in alive])}"
        yield Finding("lock", "note", text, f"wait for it; if it is no DVC command: rm {rwlock}")
    elif pids:
        yield Finding("lock", "note", "a DVC command was killed; the next one clears its lock")
    else:
        yield Finding("lock", "ok", "no DVC command is at work, none left anything behind")


def _lock_file(root: Path) -> Iterator[Finding]:
    """Whether dvc.lock is whole: DVC writes it where it lies, after every stage, and ends it with a line break."""
    from dvc.dvcfile import Lockfile
    from dvc.exceptions import DvcException
    from dvc.utils import strictyaml

    path = root / "dvc.lock"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if re.search(r"^<{7} ", text, re.MULTILINE):
        remedy = "git checkout --ours dvc.lock, or --theirs, then dvc repro"
        yield Finding("lock file", "problem", "dvc.lock holds both sides of a merge", remedy)
        return
    reason = "" if text.endswith("\n") else "its last line does not end"
    try:
        strictyaml.load(str(path), Lockfile.SCHEMA)
    except DvcException as error:
        reason = " ".join(str(error.__cause__ or error).split())
    if reason:
        remedy = "git checkout dvc.lock, then dvc repro: what has run since comes from the cache"
        yield Finding("lock file", "problem", f"dvc.lock was cut short, by a kill or a full disk: {reason}", remedy)


def _listed(infos: Any) -> list[Any]:
    return infos if isinstance(infos, list) else [infos]


def _is_locked(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _unfinished(root: Path) -> Iterator[Finding]:
    """States of runs that did not end, and temporary files of runs that were killed."""
    states = sorted(path for path in (root / SCRATCH).glob("*/*") if path.is_dir() and STATE.fullmatch(path.name))
    old = [path for path in states if time.time() - _changed(path) > DAYS_OF_A_FORGOTTEN_RUN * 86400]
    if old:
        text = f"{len(old)} states of runs untouched for {DAYS_OF_A_FORGOTTEN_RUN} days, {_total(old):,.0f} MB"
        yield Finding("unfinished", "note", text, f"rm -r {' '.join(str(path) for path in old[:3])}")
    if recent := [path for path in states if path not in old]:
        names = sorted({path.parent.name for path in recent})
        text = f"{len(recent)} unfinished runs ({_some(names)}), {_total(recent):,.0f} MB; the same command goes on"
        yield Finding("unfinished", "note", text)
    if halves := sorted((root / "artifacts").rglob(".*.partial")):
        text = f"{len(halves)} half-written files of runs that were killed, {_total(halves):,.0f} MB"
        yield Finding("unfinished", "note", text, "the next run of their stage replaces them")
    if fetched := sorted((root / "artifacts").rglob(".*.tmp")):
        text = f"{len(fetched)} files of a pull that was killed, {_total(fetched):,.0f} MB"
        remedy = "when no DVC command is at work: find artifacts -name '.*.tmp' -delete, then the pull again"
        yield Finding("unfinished", "note", text, remedy)
    if checkouts := sorted((root / ".dvc" / "tmp" / "exps").glob("tmp*")):
        text = f"{len(checkouts)} temporary checkouts of experiments, {_total(checkouts):,.0f} MB"
        remedy = "dvc queue status; when none is at work: rm -r .dvc/tmp/exps/tmp*"
        yield Finding("unfinished", "note", text, remedy)
    if not (states or halves or fetched or checkouts):
        yield Finding("unfinished", "ok", "no run was left in the middle")


def _changed(folder: Path) -> float:
    return max((path.stat().st_mtime for path in [folder, *folder.rglob("*")]), default=0.0)


def _total(paths: Sequence[Path]) -> float:
    """In megabytes."""
    return sum(_size(path) for path in paths) / 1e6


def _size(path: Path) -> int:
    """In bytes, of a file or of all below a folder; links are not followed."""
    files = path.rglob("*") if path.is_dir() else [path]
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size if file.is_file() else 0
    return total
