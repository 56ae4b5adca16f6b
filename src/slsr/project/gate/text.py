"""The gate's answer as a Markdown table, for the terminal and for a pull request, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from slsr.markdown import table
from slsr.project.gate.comparison import GateResult
from slsr.project.gate.verdicts import SEVERITY, MetricVerdict, Verdict

HEADER = ("", "metric", "base", "now", "change", "allowed loss", "rule", "")
RIGHT = (False, False, True, True, True, True, True, False)
WORTH_READING: tuple[Verdict, ...] = ("fail", "warn", "accepted", "new")
ONE_RUN = (
    "Each side is one run. Another seed, or the same seed on another processor, changes every metric of a training: a "
    "loss here needs a look, and is no finding about a method."
)
WORDS: dict[Verdict, str] = {
    "warn": "with a warning",
    "accepted": "accepted",
    "new": "new",
    "better": "better",
    "worse": "worse, within tolerance",
}


def verdict(result: GateResult) -> str:
    """Return the answer in one line."""
    counts = Counter(row.verdict for row in result.judgment.rows)
    defects = len(result.judgment.defects)
    parts = [f"{counts['fail']} of {sum(counts.values())} metrics fail"]
    parts += [f"{defects} {'rule is' if defects == 1 else 'rules are'} wrong"] if defects else []
    parts += [f"{counts[name]} {word}" for name, word in WORDS.items() if counts[name]]
    return ", ".join(parts)


def render(result: GateResult, every_row: bool) -> str:
    """Return Markdown: the answer, the rows worth reading, notices; with `every_row` also the other rows, folded."""
    judgment = result.judgment
    title = "Metrics gate: regression" if judgment.failures else "Metrics gate: passed"
    parts = [
        f"## {title}",
        f"{result.head} against {result.base} ({result.why}): {verdict(result)}.",
    ]
    if judgment.defects:
        parts.append("\n".join(f"- **fail** {defect}" for defect in judgment.defects))
    if rows := [row for row in judgment.rows if row.verdict in WORTH_READING]:
        parts.append(_table(rows))
        if any(row.verdict in ("fail", "warn") for row in rows):
            parts.append(ONE_RUN)
    if judgment.notices:
        parts.append("\n".join(f"- {notice}" for notice in judgment.notices))
    if result.policy_diff:
        parts.append(f"```diff\n{result.policy_diff}\n```")
    others = [row for row in judgment.rows if row.verdict not in WORTH_READING]
    if every_row and others:
        summary = f"<summary>{len(others)} metrics within their tolerance</summary>"
        parts.append(f"<details>{summary}\n\n{_table(others)}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[MetricVerdict]) -> str:
    """Return the rows as a table, the most severe first."""
    ordered = sorted(rows, key=lambda row: SEVERITY.index(row.verdict))
    return table(HEADER, [_cells(row) for row in ordered], RIGHT)


def _cells(row: MetricVerdict) -> tuple[str, ...]:
    mark = f"**{row.verdict}**" if row.verdict == "fail" else row.verdict
    note = row.note.replace("|", r"\|").replace("\n", " ")
    change = "-" if row.change is None else f"{row.change:+.4g}"
    numbers = ("-" if value is None else f"{value:.4g}" for value in (row.base, row.head))
    allowed = "-" if row.allowed is None else f"{row.allowed:.3g}"
    return (mark, f"`{row.metric}`", *numbers, change, allowed, str(row.rule), note)


def as_json(result: GateResult) -> dict[str, Any]:
    """Return everything, for other programs."""
    judgment = result.judgment
    return {
        "passed": not judgment.failures,
        "base": result.base,
        "head": result.head,
        "why": result.why,
        "failures": judgment.failures,
        "metrics": [asdict(row) | {"change": row.change} for row in judgment.rows],
        "defects": judgment.defects,
        "notices": judgment.notices,
        "policy_diff": result.policy_diff,
    }
