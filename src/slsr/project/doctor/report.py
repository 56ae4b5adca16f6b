"""Findings of the doctor, as text and as JSON, and the programs that it asks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import slsr

Level = Literal["ok", "note", "problem"]

GIB = 2**30
TOPIC = 14  # columns for a topic; that of a remote with a long name takes more


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes
    ----------
    level
        `ok`; `note`, which is good to know; `problem`, which stops a run or makes its results wrong.
    remedy
        What to do about it; empty if there is nothing to do.
    """

    topic: str
    level: Level
    text: str
    remedy: str = ""


def render(finding: Finding) -> str:
    """Return a finding as one line, with its remedy in the next line."""
    line = f"{finding.level:<8}{finding.topic:<{TOPIC}}  {finding.text}"
    return f"{line}\n{'':<{8 + TOPIC}}  -> {finding.remedy}" if finding.remedy else line


def as_json(findings: Sequence[Finding]) -> str:
    """Return the report for programs: `{"findings": [{topic, level, text, remedy}], "problems": n}`."""
    return json.dumps({"findings": [asdict(one) for one in findings], "problems": len(problems(findings))}, indent=2)


def problems(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that are problems."""
    return [finding for finding in findings if finding.level == "problem"]


def some(items: Sequence[str], count: int = 3) -> str:
    """List the first items, and say how many more there are."""
    return ", ".join(items[:count]) + (f" and {len(items) - count} more" if len(items) > count else "")


def counted(count: int, one: str, many: str = "") -> str:
    """Write a number with its noun: `1 file`, `2 files`."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def ask(
    program: str, arguments: Sequence[str], root: Path, environment: Mapping[str, str], seconds: float
) -> dict[str, Any] | str:
    """Run a Python program that prints JSON as its last line; return that, or a sentence if it fails or is too slow.

    What may hang (a driver, a server) is asked in this way: in a process of its own, with a time limit.
    """
    path = os.pathsep.join(filter(None, [str(Path(slsr.__file__).parents[1]), environment.get("PYTHONPATH", "")]))
    try:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=root,
            env=dict(environment) | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
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
