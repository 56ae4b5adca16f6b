"""The gate: metrics of a change against those it started from, by the rules of metrics/gate.yaml.

Both sides come from git. The rules are the base's, so that a change cannot loosen the rules that it is judged by; an
acceptance counts only in the change that adds it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from slsr.errors import InputError
from slsr.project.gate.rules import ACCEPTED, POLICY, Acceptance, Policy, parse_accepted, parse_policy
from slsr.project.gate.verdicts import (
    Judgment,
    Metrics,
    Name,
    defects_as_base,
    judge,
    matches,
    parse_metrics,
    protocol_differences,
)
from slsr.project.git import Base, commit_of, default_base, file_at, listed_files, short

METRICS = "metrics"
LOCK = "dvc.lock"
WORKING_TREE = "the working tree"


@dataclass(frozen=True)
class Side:
    """What one side of the comparison holds; `commit` is None for the working tree."""

    commit: str | None
    label: str
    metrics: Metrics
    locked: Mapping[str, str]
    policy: bytes | None
    accepted: list[Acceptance]

    def source(self, name: str) -> str:
        """A file of this side, for messages."""
        return f"{name} ({self.label})"


@dataclass(frozen=True)
class Comparison:
    """The judgment, and between which two."""

    base: str
    head: str
    why: str
    judgment: Judgment
    policy_diff: str


def compare_revisions(
    folder: Path, against: str | None = None, rev: str | None = None, despite_protocol: bool = False
) -> Comparison:
    """Judge a change.

    Parameters
    ----------
    folder
        The root of the project, in a git repository.
    against
        The commit to compare with; None: `slsr.project.git.default_base`.
    rev
        The commit to judge; None: the working tree.
    despite_protocol
        Compare although the two sides do not measure the same thing.

    Raises
    ------
    InputError
        The two cannot be compared: no such commit, no rules, a file that is not valid, another protocol.
    """
    base = Base(commit_of(folder, against), "named by --against") if against else _base_of(folder, rev)
    before = _side(folder, base.commit, short(folder, base.commit))
    commit = None if rev is None else commit_of(folder, rev)
    now = _side(folder, commit, WORKING_TREE if commit is None else short(folder, commit))
    if not before.metrics:
        raise InputError(f"{METRICS}/: no JSON file in {before.label} ({base.why}); name another commit with --against")
    policy, notices = _policy(before, now)
    fresh, spent = _acceptances(before, now)
    same = _same_protocol(policy, before, now, [] if despite_protocol else fresh, despite_protocol, notices)
    found = judge(policy, before.metrics, now.metrics, fresh, same)
    found.notices[:0] = notices
    found.notices += [f"accepted.yaml: the entry of {what} is spent: {before.label} has it already" for what in spent]
    found.defects += _defects_of_new_policy(before, now)
    next_policy = policy if now.policy is None else parse_policy(now.policy, now.source(POLICY))
    found.defects += defects_as_base(next_policy, now.metrics)
    return Comparison(before.label, now.label, base.why, found, _policy_diff(before, now))


def _base_of(folder: Path, rev: str | None) -> Base:
    if rev is not None and commit_of(folder, rev) != commit_of(folder, "HEAD"):
        raise InputError(f"--rev {rev}: not HEAD; say with --against which commit to compare it with")
    return default_base(folder, edits=rev is None)


def _side(folder: Path, commit: str | None, label: str) -> Side:
    files = listed_files(folder, commit)
    if commit is None:
        files |= {path.relative_to(folder).as_posix() for path in (folder / METRICS).rglob("*.json")}
    metrics: dict[Name, Any] = {}
    for name in sorted(files):
        path = PurePosixPath(name)
        if path.parts[0] != METRICS or path.suffix != ".json":
            continue
        if (content := file_at(folder, commit, name)) is not None:
            metrics |= parse_metrics(path.relative_to(METRICS).as_posix(), content, f"{name} ({label})")
    content = file_at(folder, commit, ACCEPTED)
    return Side(
        commit,
        label,
        metrics,
        _locked_outputs(file_at(folder, commit, LOCK), f"{LOCK} ({label})"),
        file_at(folder, commit, POLICY),
        parse_accepted(content, f"{ACCEPTED} ({label})") if content is not None else [],
    )


def _locked_outputs(content: bytes | None, source: str) -> dict[str, str]:
    """The hash of every output in a dvc.lock, by path."""
    try:
        loaded = yaml.load(content or b"", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
        stages = (loaded.get("stages") or {}).values()
        return {out["path"]: str(out["md5"]) for stage in stages for out in stage.get("outs") or [] if "md5" in out}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{source}: not a lock file of DVC ({error}); `dvc repro` writes it anew") from error


def _policy(before: Side, now: Side) -> tuple[Policy, list[str]]:
    if before.policy is not None:
        policy = parse_policy(before.policy, before.source(POLICY))
        if now.policy is None:
            return policy, [f"{POLICY}: this change removes it; {before.label} still has it, and it is applied"]
        if now.policy != before.policy:
            return policy, [f"{POLICY}: this change edits it; the rules of {before.label} are applied, see below"]
        return policy, []
    if now.policy is None:
        raise InputError(f"{POLICY}: neither {before.label} nor {now.label} has it, so nothing can be judged")
    return parse_policy(now.policy, now.source(POLICY)), [
        f"{POLICY}: this change brings it; {before.label} has none, so the new rules are applied"
    ]


def _policy_diff(before: Side, now: Side) -> str:
    if before.policy is None or before.policy == now.policy:
        return ""
    old, new = ((side.policy or b"").decode("utf-8", "replace").splitlines() for side in (before, now))
    return "\n".join(difflib.unified_diff(old, new, f"{before.label}:{POLICY}", f"{now.label}:{POLICY}", lineterm=""))


def _defects_of_new_policy(before: Side, now: Side) -> list[str]:
    """Rules that a change writes are not applied yet, but must work from the next change on."""
    if before.policy is None or now.policy is None or now.policy == before.policy:
        return []
    policy = parse_policy(now.policy, now.source(POLICY))
    patterns = [(f"rule {number}", rule.metric) for number, rule in enumerate(policy.rules, 1)]
    patterns += [("protocol", pattern) for pattern in policy.protocol.metrics]
    return [
        f"{what} of the edited {POLICY}: `{pattern}` matches no metric; mend or remove it"
        for what, pattern in patterns
        if not any(matches(pattern, name) for name in now.metrics)
    ]


def _acceptances(before: Side, now: Side) -> tuple[list[Acceptance], list[str]]:
    """The entries that this change adds, and the names of those that were there already."""
    fresh = [entry for entry in now.accepted if entry not in before.accepted]
    return fresh, [str(entry.metric or entry.protocol) for entry in now.accepted if entry in before.accepted]


def _same_protocol(
    policy: Policy, before: Side, now: Side, accepted: list[Acceptance], despite: bool, notices: list[str]
) -> bool:
    """Whether both sides measure the same thing; raises InputError where they do not, and nobody says so."""
    differences = protocol_differences(policy.protocol, before.metrics, now.metrics, before.locked, now.locked)
    reasons = {entry.protocol: entry.reason for entry in accepted if entry.protocol is not None}
    unmet = []
    for name, (old, new) in differences.items():
        what = f"{name}: {old} in {before.label}, {new} in {now.label}"
        if despite or name in reasons:
            notices.append(f"another protocol: {what}" + (f"; accepted: {reasons[name]}" if name in reasons else ""))
        else:
            unmet.append(what)
    notices += [
        f"accepted.yaml: the entry of {name} covers nothing: the protocol is the same there; remove it"
        for name in reasons
        if name not in differences
    ]
    if unmet:
        raise InputError(
            "the two sides do not measure the same thing, so a difference between them means nothing:\n"
            + "\n".join(f"  {what}" for what in unmet)
            + f"\nsay so in {ACCEPTED} (protocol: ..., reason: ...), or compare with --despite-protocol"
        )
    return not differences
