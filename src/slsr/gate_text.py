"""The gate's answer as a Markdown table, for the terminal and for a pull request, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from slsr.gate import Comparison
from slsr.judgement import SEVERITY, Row, Verdict

HEADER = ("", "metric", "base", "now", "change", "allowed loss", "rule", "")
RIGHT = (False, False, True, True, True, True, True, False)
WORTH_READING: tuple[Verdict, ...] = ("fail", "warn", "accepted", "new")
WORDS: dict[Verdict, str] = {
    "warn": "warned about",
    "accepted": "accepted",
    "new": "new",
    "better": "better",
    "worse": "worse as allowed",
}


def verdict(comparison: Comparison) -> str:
    """The answer in one line."""
    counts = Counter(row.verdict for row in comparison.judgement.rows)
    defects = len(comparison.judgement.defects)
    parts = [f"{counts['fail']} of {sum(counts.values())} metrics fail"]
    parts += [f"{defects} {'rule is' if defects == 1 else 'rules are'} wrong"] if defects else []
    parts += [f"{counts[name]} {word}" for name, word in WORDS.items() if counts[name]]
    return ", ".join(parts)


def render(comparison: Comparison, every_row: bool) -> str:
    """Markdown: the answer, the rows worth reading, notices; with `every_row` the others too, folded."""
    judgement = comparison.judgement
    title = "Metrics gate: regression" if judgement.failures else "Metrics gate: passed"
    parts = [
        f"## {title}",
        f"{comparison.head} against {comparison.base} ({comparison.why}): {verdict(comparison)}.",
    ]
    if judgement.defects:
        parts.append("\n".join(f"- **fail** {defect}" for defect in judgement.defects))
    if rows := [row for row in judgement.rows if row.verdict in WORTH_READING]:
        parts.append(_table(rows))
    if judgement.notices:
        parts.append("\n".join(f"- {notice}" for notice in judgement.notices))
    if comparison.policy_diff:
        parts.append(f"```diff\n{comparison.policy_diff}\n```")
    others = [row for row in judgement.rows if row.verdict not in WORTH_READING]
    if every_row and others:
        summary = f"<summary>{len(others)} metrics within their tolerance</summary>"
        parts.append(f"<details>{summary}\n\n{_table(others)}\n\n</details>")
    return "\n\n".join(parts) + "\n"


def _table(rows: Iterable[Row]) -> str:
    """Columns padded, so that the source reads as a table in a terminal."""
    cells = [HEADER, *(_cells(row) for row in sorted(rows, key=lambda row: SEVERITY.index(row.verdict)))]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(HEADER))]
    cells.insert(1, tuple("-" * (width - right) + ":" * right for width, right in zip(widths, RIGHT, strict=True)))
    lines = (
        (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, RIGHT, strict=True)
        )
        for line in cells
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    mark = f"**{row.verdict}**" if row.verdict == "fail" else row.verdict
    note = row.note.replace("|", r"\|").replace("\n", " ")
    change = "-" if row.change is None else f"{row.change:+.4g}"
    numbers = ("-" if value is None else f"{value:.4g}" for value in (row.base, row.head))
    allowed = "-" if row.allowed is None else f"{row.allowed:.3g}"
    return (mark, f"`{row.metric}`", *numbers, change, allowed, str(row.rule), note)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, for other programs."""
    judgement = comparison.judgement
    return {
        "passed": not judgement.failures,
        "base": comparison.base,
        "head": comparison.head,
        "why": comparison.why,
        "failures": judgement.failures,
        "metrics": [asdict(row) | {"change": row.change} for row in judgement.rows],
        "defects": judgement.defects,
        "notices": judgement.notices,
        "policy_diff": comparison.policy_diff,
    }
