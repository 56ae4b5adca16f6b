"""What commands print on a terminal: tables of at most 100 columns, wrapped sentences, and what takes a while."""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

WIDTH = 100
GAP = "  "
NARROW, TEXT = 12, 40  # text in the last column is wrapped into three lines, but between these widths
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKS = re.compile(r"\*\*|^#+ ", re.MULTILINE)
MARKS_OF_CELLS = re.compile(r"\*\*|(?<!\\)`")
CELLS = re.compile(r"(?<!\\)\|")

Rows = Sequence[Sequence[str]]


def progress(text: str) -> None:
    """Say on standard error what takes a while, if a person sees it."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr, flush=True)


def fitted(markdown: str, width: int = WIDTH) -> str:
    r"""Write Markdown for a terminal.

    Parameters
    ----------
    markdown
        Paragraphs, and tables as `slsr.markdown.table` writes them.
    width
        The number of columns of the terminal.

    Returns
    -------
    The same without marks, but for those of commands in sentences. A table that is too wide is divided into several
    with the same rows, each with the columns that say what a row is: those before the first one that is aligned to the
    right. Text that is too wide is wrapped.

    >>> print(fitted("Of **one** run:\n\n|     | rank-1 |\n| --- | -----: |\n| all |   69.6 |"))
    Of one run:
    <BLANKLINE>
         rank-1
    all    69.6
    """
    parts = FENCED.split(markdown.rstrip("\n"))  # text, code, text, code, ...
    return "".join(part if number % 2 else _text(part, width) for number, part in enumerate(parts))


def _text(markdown: str, width: int) -> str:
    grouped = [(kind, list(lines)) for kind, lines in groupby(markdown.split("\n"), lambda line: line[:1] == "|")]
    return "\n".join((_tables if is_table else _prose)(lines, width) for is_table, lines in grouped)


def _prose(lines: Sequence[str], width: int) -> str:
    plain = MARKS.sub("", "\n".join(lines)).split("\n")
    return "\n".join(_wrapped(line, width, "  " if line.startswith("- ") else "") for line in plain)


def _wrapped(line: str, width: int, indent: str) -> str:
    """Wrap a line, but break no name or option at its hyphens."""
    return textwrap.fill(line, width, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


def _tables(lines: Sequence[str], width: int) -> str:
    """Write one Markdown table as one plain table, or as several, each of which fits."""
    header, rule, *rows = [[cell.strip() for cell in CELLS.split(line)[1:-1]] for line in lines]
    plain = [[MARKS_OF_CELLS.sub("", cell).replace("\\|", "|") for cell in row] for row in (header, *rows)]
    right = [mark.endswith(":") for mark in rule]
    keys = right.index(True) if True in right else 1
    parts = [
        _table([[row[column] for column in columns] for row in plain], [right[column] for column in columns], width)
        for columns in _divided(plain, right, width, keys)
    ]
    return "\n\n".join(parts)


def _divided(rows: Rows, right: Sequence[bool], width: int, keys: int) -> Iterator[list[int]]:
    """Divide the columns into groups that fit, each with the keys before it."""
    widths = _widths(rows)
    if not right[-1]:
        widths[-1] = min(widths[-1], max(NARROW, min(TEXT, -(-widths[-1] // 3))))
    first = list(range(keys))
    group = list(first)
    for column in range(keys, len(widths)):
        if len(group) > keys and sum(widths[one] for one in (*group, column)) + len(GAP) * len(group) > width:
            yield group
            group = list(first)
        if widths[column]:
            group.append(column)
    if len(group) > keys or len(widths) == keys:
        yield group


def _widths(rows: Rows) -> list[int]:
    return [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]


def _table(rows: Rows, right: Sequence[bool], width: int) -> str:
    """Write a table; text in its last column that is too wide is wrapped, and continued in lines of its own."""
    widths = _widths(rows)
    before = sum(widths[:-1]) + len(GAP) * (len(widths) - 1)
    widths[-1] = widths[-1] if right[-1] else min(widths[-1], max(NARROW, width - before))
    lines = []
    for row in rows:
        first, *others = [row[-1]] if right[-1] else _wrapped(row[-1], widths[-1], "").split("\n")
        cells = [
            cell.rjust(size) if to_right else cell.ljust(size)
            for cell, size, to_right in zip([*row[:-1], first], widths, right, strict=True)
        ]
        lines.append(GAP.join(cells).rstrip())
        lines += [" " * before + more for more in others]
    return "\n".join(lines)
