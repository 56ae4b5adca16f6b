"""The gate: metrics of a change against those it started from, by the rules of metrics/gate.yaml.

Both sides come from git. The rules are the base's, so that a change cannot loosen the rules that it is judged by; an
acceptance counts only in the change that adds it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from slsr.errors import InputError
from slsr.files import METRICS, require_readable
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
from slsr.project.lock import LOCK, all_outputs, parse_lock


@dataclass(frozen=True)
class Side:
    """What git keeps of one side of the comparison; `label` names the side in messages."""

    label: str
    metrics: Metrics
    outputs: Mapping[str, str]
    policy: bytes | None
    accepted: Sequence[Acceptance]

    def parsed_policy(self) -> Policy:
        """Parse the rules of this side, which has to have some."""
        return parse_policy(self.policy or b"", f"{POLICY} ({self.label})")


@dataclass(frozen=True)
class GateResult:
    """The judgment, the two sides that were compared, and why the base was chosen."""

    base: str
    head: str
    why: str
    judgment: Judgment
    policy_diff: str


def compare_revisions(
    folder: Path, against: str | None = None, rev: str | None = None, despite_protocol: bool = False
) -> GateResult:
    """Judge a change.

    Parameters
    ----------
    folder
        The root of the project, in a git repository.
    against
        The commit to compare with; None for `slsr.project.git.default_base`.
    rev
        The commit to judge; None for the working tree.
    despite_protocol
        Compare although the two sides do not measure the same thing.

    Raises
    ------
    InputError
        There is no such commit, there are no rules, a file is not valid, or the protocols differ.
    """
    base = _base(folder, against, rev)
    before = read_side(folder, base.commit)
    now = read_side(folder, None if rev is None else commit_of(folder, rev))
    if not before.metrics:
        raise InputError(f"{METRICS}/: no JSON file in {before.label} ({base.why}); name another commit with --against")
    policy, notice = _policy(before, now)
    added = [entry for entry in now.accepted if entry not in before.accepted]
    differences = protocol_differences(policy.protocol, before.metrics, now.metrics, before.outputs, now.outputs)
    protocol_notices = _require_protocol(differences, before, now, added, despite_protocol)
    found = judge(policy, before.metrics, now.metrics, added, not differences)
    found.notices[:0] = notice + protocol_notices + _not_compared(policy, before)
    found.notices += [
        f"accepted.yaml: the entry of {entry.metric or entry.protocol} is no longer needed: {before.label} has it"
        for entry in now.accepted
        if entry in before.accepted
    ]
    found.defects += _defects_of_new_policy(before, now)
    found.defects += defects_as_base(policy if now.policy is None else now.parsed_policy(), now.metrics)
    return GateResult(before.label, now.label, base.why, found, _policy_diff(before, now))


def _base(folder: Path, against: str | None, rev: str | None) -> Base:
    if against:
        return Base(commit_of(folder, against), "named by --against")
    if rev is not None and commit_of(folder, rev) != commit_of(folder, "HEAD"):
        raise InputError(f"--rev {rev}: not HEAD; say with --against which commit to compare it with")
    return default_base(folder, edits=rev is None)


def read_side(folder: Path, commit: str | None) -> Side:
    """Read what a commit holds or, for None, the working tree.

    Raises
    ------
    InputError
        A file is not valid; the message names it and the side.
    """
    label = "the working tree" if commit is None else short(folder, commit)
    files = listed_files(folder, commit)
    if commit is None:
        require_readable(folder / METRICS)
        files |= {path.relative_to(folder).as_posix() for path in (folder / METRICS).rglob("*.json")}
    metrics: dict[Name, Any] = {}
    for name in sorted(files):
        path = PurePosixPath(name)
        if path.suffix != ".json" or not path.is_relative_to(METRICS):
            continue
        if (content := file_at(folder, commit, name)) is not None:
            metrics |= parse_metrics(path.relative_to(METRICS).as_posix(), content, f"{name} ({label})")
    accepted, lock = (file_at(folder, commit, name) for name in (ACCEPTED, LOCK))
    written = all_outputs(parse_lock(lock or b"", f"{LOCK} ({label})"))
    return Side(
        label,
        metrics,
        {path: md5 for path, (_, md5) in written.items() if md5 is not None},
        file_at(folder, commit, POLICY),
        [] if accepted is None else parse_accepted(accepted, f"{ACCEPTED} ({label})"),
    )


def _policy(before: Side, now: Side) -> tuple[Policy, list[str]]:
    """Return the rules to apply, and a notice if the two sides have others."""
    if before.policy is None:
        if now.policy is None:
            raise InputError(f"{POLICY}: neither {before.label} nor {now.label} has it, so nothing can be judged")
        added = f"{POLICY}: this change adds it; {before.label} has none, so the new rules are applied"
        return now.parsed_policy(), [added]
    policy = before.parsed_policy()
    if now.policy is None:
        return policy, [f"{POLICY}: this change removes it; {before.label} still has it, and its rules are applied"]
    if now.policy != before.policy:
        return policy, [f"{POLICY}: this change edits it; the rules of {before.label} are applied, see below"]
    return policy, []


def _not_compared(policy: Policy, before: Side) -> list[str]:
    """Return notices about files of the protocol that the base's dvc.lock does not record."""
    paths = [path for path in policy.protocol.locked if path not in before.outputs]
    return [f"protocol: {path} is not in the {LOCK} of {before.label}, so it was not compared" for path in paths]


def _policy_diff(before: Side, now: Side) -> str:
    if before.policy is None or before.policy == now.policy:
        return ""
    old, new = ((side.policy or b"").decode("utf-8", "replace").splitlines() for side in (before, now))
    return "\n".join(difflib.unified_diff(old, new, f"{before.label}:{POLICY}", f"{now.label}:{POLICY}", lineterm=""))


def _defects_of_new_policy(before: Side, now: Side) -> list[str]:
    """Return what would not work in rules that this change writes: they are applied from the next change on."""
    if before.policy is None or now.policy is None or now.policy == before.policy:
        return []
    policy = now.parsed_policy()
    patterns = [(f"rule {number}", rule.metric) for number, rule in enumerate(policy.rules, 1)]
    patterns += [("protocol", pattern) for pattern in policy.protocol.metrics]
    return [
        f"{what} of the edited {POLICY}: `{pattern}` matches no metric; fix or remove it"
        for what, pattern in patterns
        if not any(matches(pattern, name) for name in now.metrics)
    ]


def _require_protocol(
    differences: Mapping[str, tuple[str, str]], before: Side, now: Side, added: Sequence[Acceptance], despite: bool
) -> list[str]:
    """Return notices about differences of the protocol; raise if one is neither accepted nor overruled."""
    reasons = {} if despite else {entry.protocol: entry.reason for entry in added if entry.protocol is not None}
    shown = {name: f"{name}: {old} in {before.label}, {new} in {now.label}" for name, (old, new) in differences.items()}
    unmet = [] if despite else [what for name, what in shown.items() if name not in reasons]
    if unmet:
        raise InputError(
            "the two sides do not measure the same thing, so a difference between them means nothing:\n"
            + "\n".join(f"  {what}" for what in unmet)
            + f"\nsay so in {ACCEPTED} (protocol: ..., reason: ...), or compare with --despite-protocol"
        )
    notices = [
        f"another protocol: {what}" + (f"; accepted: {reasons[name]}" if name in reasons else "")
        for name, what in shown.items()
    ]
    return notices + [
        f"accepted.yaml: the entry of {name} covers nothing: the protocol is the same there; remove it"
        for name in reasons
        if name not in differences
    ]
