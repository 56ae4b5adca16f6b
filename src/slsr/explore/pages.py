"""The pages that a person reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Response as AnyResponse

from slsr.errors import InputError
from slsr.explore import orders, views
from slsr.explore.activation import COARSE_ROWS
from slsr.explore.exhibit import Exhibit, Query, Shelf, find_query
from slsr.explore.image_table import ImageTable, find_rows
from slsr.explore.run_results import alarms_by_cluster, quality_of
from slsr.explore.saved_ranking import file_name, saved_ranking
from slsr.explore.uploads import MAXIMUM_BYTES, TOO_LARGE

Answer = str | AnyResponse | tuple[str, int]

EXTENSION = "slsr-explore"

pages = Blueprint("pages", __name__)


def shown() -> Exhibit:
    """Return the exhibit of the application that answers."""
    exhibit: Exhibit = current_app.extensions[EXTENSION]
    return exhibit


@pages.get("/")
def start() -> Answer:
    """Go to the first page that there is."""
    exhibit = shown()
    if exhibit.searchable:
        return redirect(url_for("pages.pick", table="q" if "q" in exhibit.shelves else "g"))
    return redirect(url_for("pages.clusters" if exhibit.clusters else "pages.generated"))


@pages.get("/pick/<any(q, g):table>")
def pick(table: str) -> Answer:
    """Show the queries or the gallery, to pick an image to search with."""
    return _pick_page(table, request.args)


def _pick_page(table: str, arguments: Mapping[str, str], problem: str | None = None) -> str:
    shelf, exhibit = shelf_or_404(table), shown()
    if not exhibit.searchable:
        abort(404)
    text, camera = arguments.get("find", "")[:100], views.whole_number(arguments, "camera")
    order, by = orders.TABLE, orders.PRECISION
    if table == "q":
        order, by = arguments.get("order", order), arguments.get("by", by)
    ordered = orders.in_order(exhibit, find_rows(shelf.table, text, camera), order, by)
    number = views.whole_number(arguments, "page", 1) or 1
    asked = {"table": table, "find": text, "camera": "" if camera is None else camera, "order": order, "by": by}
    return render_template(
        "pick.html",
        shelf=shelf,
        leaf=views.leaf_through(shelf, ordered.rows, number, ordered.note),
        ordered=ordered,
        asked=asked,
        cameras=_cameras(shelf.table),
        orders=orders.orders_by_group(exhibit.models) if table == "q" else {},
        measured_by=orders.MEASURED_BY,
        compared=orders.count_against_baseline(exhibit) if table == "q" else {},
        problem=problem,
    )


@pages.get("/search")
def search() -> Answer:
    """Show the gallery ranked for one query."""
    return _search_page(request.args)


def _search_page(arguments: Mapping[str, str], problem: str | None = None) -> str:
    query = query_or_404(arguments.get("query", ""))
    options = views.read_options(shown(), arguments)
    around = _around(query, options)
    return render_template(
        "search.html",
        query=query,
        options=options,
        heading=views.heading_of(query),
        panels=views.panels(shown(), query, options),
        around=around,
        parent=_parent_of(query, options, around),
        label=_label_of(query),
        wide=_is_wide(query),
        depths=views.DEPTHS,
        maps=views.MAPS,
        coarse_rows=COARSE_ROWS,
        problem=problem,
    )


@pages.get("/search/ranking.html")
def save() -> Answer:
    """Send a ranking as one HTML file that needs nothing else."""
    query = query_or_404(request.args.get("query", ""))
    text = saved_ranking(shown(), query, views.read_options(shown(), request.args))
    answer = Response(text, mimetype="text/html")
    answer.headers["Content-Disposition"] = f'attachment; filename="{file_name(query)}"'
    return answer


@pages.post("/upload")
def upload() -> Answer:
    """Receive a picture, and go to the gallery ranked for it; a wrong file leads back to the page it came from.

    The choices are in the address, so that they are known even if the body is too large to be read.
    """
    exhibit = shown()
    if not exhibit.searchable:
        abort(404)
    try:
        given = request.files.get("picture")
        if given is None or not given.filename:
            raise InputError("no picture was chosen; choose an image file, drop one on the page, or paste one")
        kept = exhibit.uploads.receive(given.stream.read(), given.filename, exhibit.embed)
    except RequestEntityTooLarge:
        return _page_again(TOO_LARGE), 413
    except InputError as error:
        return _page_again(str(error)), 400
    chosen: dict[str, Any] = {
        key: value for key in ("left", "right", "maps", "depth") if (value := request.args.get(key))
    }
    return redirect(url_for("pages.search", query=f"u{kept.key}", **chosen), 303)


def _page_again(problem: str) -> str:
    """Show the page that a wrong file came from, with its choices and the problem at the form."""
    arguments = request.args
    if find_query(shown(), arguments.get("query", "")) is not None:
        return _search_page(arguments, problem)
    table = arguments.get("table", "q")
    return _pick_page(table if table in shown().shelves and table in "qg" else "g", arguments, problem)


@pages.get("/clusters")
def clusters() -> Answer:
    """Show the training images of one cluster, and how the number of clusters was found."""
    found = shown().clusters
    if found is None:
        abort(404)
    shelf = shelf_or_404("t")
    chosen = views.whole_number(request.args, "cluster", found.numbers[0])
    if chosen not in found.numbers:
        abort(404)
    rows = found.members(chosen)
    identities = shelf.table.identities
    return render_template(
        "clusters.html",
        leaf=views.leaf_through(shelf, rows, _page()),
        chosen=chosen,
        sizes=views.sizes_of(found.assignments),
        people=None if identities is None else len(set(identities[rows].tolist())),
        clusters=found,
    )


@pages.get("/clusters/figure.png")
def clusters_figure() -> Answer:
    """Send the figure of the stage `cluster`."""
    found = shown().clusters
    if found is None or found.figure is None:
        abort(404)
    return Response(found.figure.read_bytes(), mimetype="image/png")


@pages.get("/generated")
def generated() -> Answer:
    """Show generated images with their sparse labels, their quality, and the real images nearest to them."""
    shelf, exhibit = shelf_or_404("x"), shown()
    table = shelf.table
    chosen = views.whole_number(request.args, "cluster")
    rows = find_rows(table, "", cluster=chosen)
    leaf = views.leaf_through(shelf, rows, _page(), lambda row: views.sparse_label_text(table, row, exhibit.identities))
    return render_template(
        "generated.html",
        shelf=shelf,
        leaf=views.with_nearest(exhibit, leaf),
        chosen=chosen,
        sizes={} if table.clusters is None else views.sizes_of(table.clusters),
        quality=None if exhibit.quality is None else quality_of(exhibit.quality, chosen),
        alarms=alarms_by_cluster(exhibit.quality),
    )


@pages.get("/about")
def about() -> Answer:
    """Say what is on the page and how to read it."""
    return render_template("about.html", limit=MAXIMUM_BYTES // 2**20)


def shelf_or_404(letter: str) -> Shelf:
    """Return the shelf of a letter; end with 404 if there is none."""
    shelf = shown().shelves.get(letter)
    if shelf is None:
        abort(404)
    return shelf


def query_or_404(key: str) -> Query:
    """Return the query of a key; end with 404 if there is none.

    Raises
    ------
    InputError
        It was an upload, which is forgotten by now.
    """
    query = find_query(shown(), key) if shown().searchable else None
    if query is None:
        if key.startswith("u"):
            raise InputError("this picture is no longer kept: only the last uploads stay in memory; drop it again")
        abort(404)
    return query


@dataclass(frozen=True)
class Around:
    """Where a query is in its list, counted from 1, and the keys of those before and after it."""

    place: int
    length: int
    before: str | None
    after: str | None


def _around(query: Query, options: views.Options) -> Around | None:
    """Find a query in its table, or in the order that it was picked from; None for an upload."""
    if query.shelf is None or query.row is None:
        return None
    letter, rows = query.shelf.letter, np.arange(len(query.shelf.table))
    if letter == "q":
        rows = orders.in_order(shown(), rows, options.order, options.by).rows
    place = int(np.flatnonzero(rows == query.row)[0])
    before = f"{letter}{rows[place - 1]}" if place > 0 else None
    after = f"{letter}{rows[place + 1]}" if place + 1 < len(rows) else None
    return Around(place + 1, len(rows), before, after)


def _parent_of(query: Query, options: views.Options, around: Around | None) -> tuple[str, str] | None:
    """Return the title and the address of the list that the query is in; of the first list for an upload."""
    exhibit = shown()
    letter = query.shelf.letter if query.shelf else "q" if "q" in exhibit.shelves else "g"
    if letter in "qg":
        asked: dict[str, Any] = {} if around is None else {"page": views.page_of(around.place - 1)}
        if letter == "q" and options.order != orders.TABLE:
            asked |= {"order": options.order, "by": options.by}
        return "Queries" if letter == "q" else "Gallery", url_for("pages.pick", table=letter, **asked)
    if query.shelf is None or query.row is None:
        return None
    row = query.row
    if letter == "t":
        if exhibit.clusters is None:
            return None
        return "Clusters", url_for("pages.clusters", cluster=int(exhibit.clusters.assignments[row]))
    clusters = query.shelf.table.clusters
    return "Generated", url_for("pages.generated", cluster=None if clusters is None else int(clusters[row]))


def _label_of(query: Query) -> str | None:
    """Return the sparse label of a generated image as text; None for other images."""
    if query.shelf is None or query.row is None or query.shelf.letter != "x":
        return None
    return views.sparse_label_text(query.shelf.table, query.row, shown().identities) or None


def _is_wide(query: Query) -> bool:
    """Whether an upload is wider than tall, unlike a person; False for images of tables."""
    if query.shelf is not None:
        return False
    image = query.image()
    return image.width > image.height


def _page() -> int:
    return views.whole_number(request.args, "page", 1) or 1


def _cameras(table: ImageTable) -> list[int]:
    return sorted({int(camera) for camera in table.cameras}) if table.cameras is not None else []
