"""Ranked galleries as one HTML file that needs no other file, no network and no script."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from slsr.errors import InputError

Mark = Literal["right", "wrong"]
SIGNS: dict[Mark, str] = {"right": "✓ right", "wrong": "✗ wrong"}
KINDS = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
# Frames have the colors of Okabe and Ito, and text has darker or lighter shades of them, as in `slsr explore`.
STYLE = """
:root { color-scheme: light dark; --ground: #f7f6f3; --ink: #1f2328; --quiet: #5c636b; --line: #dcdad4; --hole: #eceae5;
  --right: #009e73; --right-ink: #006b4e; --wrong: #d55e00; --wrong-ink: #a34600; }
@media (prefers-color-scheme: dark) { :root { --ground: #15181b; --ink: #e7e9ea; --quiet: #a3abb3; --line: #343a40;
  --hole: #262b30; --right: #1fb58b; --right-ink: #4fd3ad; --wrong: #e8772e; --wrong-ink: #f6a06b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.25rem; max-width: 100rem; background: var(--ground); color: var(--ink);
  font: 0.9375rem/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
section { display: grid; grid-template-columns: 11rem minmax(0, 1fr); gap: 1rem 1.5rem; padding: 1rem 0;
  border-top: 1px solid var(--line); }
figure { margin: 0; min-width: 0; }
img { display: block; width: 100%; aspect-ratio: 1 / 2; object-fit: contain; background: var(--hole);
  border: 3px solid transparent; border-radius: 6px; }
.query img { border-color: var(--ink); max-width: 8rem; }
.right img { border-color: var(--right); }
.wrong img { border: 3px dashed var(--wrong); }
figcaption { font-size: 0.8125rem; line-height: 1.35; white-space: pre-line; overflow-wrap: anywhere;
  color: var(--quiet); font-variant-numeric: tabular-nums; }
.query figcaption { color: var(--ink); }
.mark { display: block; }
.right .mark { color: var(--right-ink); font-weight: 600; }
.wrong .mark { color: var(--wrong-ink); }
ol { list-style: none; margin: 0; padding: 0; display: grid; gap: 0.75rem 0.6rem; align-content: start;
  grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); }
@media (max-width: 40rem) { section { grid-template-columns: minmax(0, 1fr); } }
@media print { figure { break-inside: avoid; } }
""".strip()


@dataclass(frozen=True)
class GalleryImage:
    """An image as JPEG or PNG bytes, its caption (line breaks are kept), and whether it is a right match."""

    encoded: bytes
    caption: str
    mark: Mark | None = None


@dataclass(frozen=True)
class GalleryRow:
    """A query and its ranked images, the nearest first."""

    query: GalleryImage
    results: Sequence[GalleryImage]


def gallery_page(title: str, rows: Sequence[GalleryRow]) -> str:
    """Write ranked galleries as one HTML page, with the images inside it.

    All text is escaped. The page forbids itself scripts and any request, so it can be sent and opened anywhere. Right
    and wrong matches differ by a word, a sign and the kind of frame, not only by color.

    Parameters
    ----------
    title : of the page, and its heading
    rows : one for each query

    Raises
    ------
    InputError
        An image is neither JPEG nor PNG.
    """
    body = "\n".join(_row(row, number) for number, row in enumerate(rows, start=1))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _row(row: GalleryRow, number: int) -> str:
    results = "\n".join(f"<li>{_figure(image, f'result {rank}')}</li>" for rank, image in enumerate(row.results, 1))
    query = _figure(row.query, f"query {number}", "query")
    return f'<section aria-label="Query {number}">\n{query}\n<ol>\n{results}\n</ol>\n</section>'


def _figure(image: GalleryImage, alternative: str, kind: str = "") -> str:
    names = " ".join(name for name in (kind, image.mark) if name)
    mark = f'<span class="mark">{SIGNS[image.mark]}</span>' if image.mark else ""
    return (
        f'<figure class="{names}"><img src="{_data_address(image)}" alt="{alternative}" loading="lazy">'
        f"<figcaption>{mark}{html.escape(image.caption)}</figcaption></figure>"
    )


def _data_address(image: GalleryImage) -> str:
    for start, kind in KINDS.items():
        if image.encoded.startswith(start):
            return f"data:image/{kind};base64,{base64.b64encode(image.encoded).decode('ascii')}"
    raise InputError(f"{image.caption!r}: neither JPEG nor PNG; encode the image as one of them")
