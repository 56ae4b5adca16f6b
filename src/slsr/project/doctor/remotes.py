"""DVC's remotes: whether they answer and hold what DVC believes, and whether the configuration has secrets."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from slsr.project.doctor.report import Finding, Level, ask, some

SEED = "seed"  # the remote in git that holds the sample

# Options of a DVC remote that are secrets; an address with a user and a password is one, too.
SECRET_OPTIONS = frozenset(
    {
        *("password", "passphrase", "keyfile", "key_path", "token", "custom_auth_header"),
        *("access_key_id", "secret_access_key", "session_token", "credentialpath"),
        *("connection_string", "sas_token", "account_key", "client_secret"),
        *("oss_key_id", "oss_key_secret", "gdrive_client_secret", "gdrive_service_account_json_file_path"),
    }
)
PASSWORD_IN_URL = re.compile(r"://[^/@\s:]+:[^/@\s]+@")

# The first calls of `dvc push`. DVC says that the root of any bucket exists, whatever its name and the key: list it.
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
from slsr.project.remotes import holdings
print(json.dumps({"taken_for_sent": [one.path for one in holdings(Path()).lacking if one.taken_for_sent]}))
"""


def remotes(root: Path, config: Mapping[str, Any], seconds: float) -> Iterator[Finding]:
    """Check whether the remotes answer, with the credentials of this clone."""
    default = config.get("core", {}).get("remote")
    if not default:
        yield Finding(
            "remote", "note", "no default remote: nothing is shared", "docs/sharing.md explains how to add one"
        )
    for name, settings in sorted(config.get("remote", {}).items()):
        if name == SEED:
            continue
        title = f"remote {name}" + (" (default)" if name == default else "")
        if _is_own_cache(root, settings):
            yield Finding(title, "ok", "the cache of this clone: images for this remote stay on this machine")
            continue
        answer = _answer(root, name, title, settings, seconds, is_default=name == default)
        yield answer
        if answer.level == "ok" and name == default:
            yield from _holdings(root, title, seconds)
        if not settings.get("verify"):
            text = "verify is off: DVC would accept damaged objects"
            yield Finding(title, "note", text, f"dvc remote modify {name} verify true")


def _answer(
    root: Path, name: str, title: str, settings: Mapping[str, Any], seconds: float, is_default: bool
) -> Finding:
    url = PASSWORD_IN_URL.sub("://***@", str(settings.get("url", "")))
    answer = ask(REMOTE_PROBE, [name], root, os.environ, seconds)
    if isinstance(answer, str):
        level: Level = "problem" if is_default else "note"
        if answer.startswith("sqlite3."):
            remedy = "`slsr remote`: DVC's notes about transfers are damaged"
        else:
            remedy = "check address, key and credentials; see docs/sharing.md"
        return Finding(title, level, f"{url}: {answer}", remedy)
    if not answer["exists"]:
        remedy = "is its disk mounted? `dvc push` makes the folder" if "://" not in url else ""
        return Finding(title, "note", f"{url} answers, and holds nothing yet", remedy)
    return Finding(title, "ok", f"{url} answers")


def _holdings(root: Path, title: str, seconds: float) -> Iterator[Finding]:
    """Check whether DVC believes that it has sent what the remotes lack; what was never pushed is no fault."""
    answer = ask(HOLDINGS_PROBE, [], root, os.environ, seconds)
    if isinstance(answer, str):
        yield Finding(title, "note", f"its objects were not checked: {answer}", "slsr remote")
    elif lacking := answer["taken_for_sent"]:
        text = f"{some(lacking)} never arrived, because a push was killed, and DVC believes that it was sent"
        yield Finding(title, "problem", text, "slsr remote --send")


def _is_own_cache(root: Path, settings: Mapping[str, Any]) -> bool:
    url = str(settings.get("url", ""))
    return "://" not in url and (root / ".dvc" / url).resolve() == (root / ".dvc" / "cache").resolve()


def secrets(root: Path) -> Iterator[Finding]:
    """Check the configuration that git keeps for secrets."""
    path = root / ".dvc" / "config"
    found = committed_secrets(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []
    if found:
        remedy = "replace it at its issuer, add the new one with `dvc remote modify --local`, remove it here"
        yield Finding("secrets", "problem", f".dvc/config, which git keeps, has {some(found)}", remedy)
    else:
        yield Finding("secrets", "ok", "none in .dvc/config")


def committed_secrets(config: str) -> list[str]:
    """Return what of a DVC configuration must not be committed: `section: option`, without the value."""
    found, section = [], ""
    for line in config.splitlines():
        if line.strip().startswith("["):
            section = line.strip().strip("[]'")
        option, equals, value = (part.strip() for part in line.partition("="))
        if equals and (option in SECRET_OPTIONS or PASSWORD_IN_URL.search(value)):
            found.append(f"{section}: {option}")
    return found
