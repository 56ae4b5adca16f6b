"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool] | None = None) -> str:
    """A Markdown table, its columns padded so that the source reads as a table on a terminal too.

    Parameters
    ----------
    right : for each column, whether it is aligned to the right; None: all but the first

    >>> print(table(["", "rank-1"], [["baseline", "69.6"]]))
    |          | rank-1 |
    | -------- | -----: |
    | baseline |   69.6 |
    """
    to_right = [column > 0 for column in range(len(header))] if right is None else right
    widths = [max(3, *(len(line[column]) for line in (header, *rows))) for column in range(len(header))]
    rule = ["-" * (width - last) + ":" * last for width, last in zip(widths, to_right, strict=True)]
    lines = [
        [
            text.rjust(width) if last else text.ljust(width)
            for text, width, last in zip(line, widths, to_right, strict=True)
        ]
        for line in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
