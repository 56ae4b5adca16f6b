"""A ranking as one HTML file, to keep or to send."""

from __future__ import annotations

import re

from slsr.explore import views
from slsr.explore.exhibit import Exhibit, Query
from slsr.explore.image_table import THUMBNAIL_SIZE, as_jpeg, shrink, thumbnail
from slsr.reporting.gallery_page import GalleryImage, GalleryRow, gallery_page


def saved_ranking(exhibit: Exhibit, query: Query, options: views.Options) -> str:
    """Write the rankings of a query as one HTML page, one row for each.

    Maps are left out. The page has no date, so that the same ranking is the same file.

    Raises
    ------
    InputError
        An image cannot be read; the message names it.
    """
    encoded = as_jpeg(shrink(query.image(), THUMBNAIL_SIZE))
    rows = [_row(exhibit, query, panel, encoded) for panel in views.panels(exhibit, query, options)]
    return gallery_page(f"{views.heading_of(query)} – {query.name}", rows)


def _row(exhibit: Exhibit, query: Query, panel: views.RankedPanel, encoded: bytes) -> GalleryRow:
    lines = [f"{panel.ranker.title} (checkpoint {panel.ranker.model.encoder.fingerprint[:12]})", panel.summary]
    if panel.ranks:
        lines.append(f"Right matches at ranks {panel.ranks}.")
    lines += [line for line in (panel.left_out, f"Below each image: rank, {panel.scale}.") if line]
    table = exhibit.shelves["g"].table
    results = [_result(card, thumbnail(table.encoded(card.row), card.name)) for card in panel.cards]
    return GalleryRow(GalleryImage(encoded, "\n".join([query.name, *lines])), results)


def _result(card: views.Card, encoded: bytes) -> GalleryImage:
    lines = [f"{card.rank}: {card.score}"]
    if card.identity is not None:
        lines.append(f"identity {card.identity}, camera {card.camera}")
    lines.append(card.name)
    mark = card.verdict if card.verdict != "junk" else None
    return GalleryImage(encoded, "\n".join(lines), mark)


def file_name(query: Query) -> str:
    """Return the name of the file: that of the query, without what a file system may refuse."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", query.name.rsplit(".", 1)[0]).strip("-")
    return f"ranking-{stem or 'picture'}.html"
