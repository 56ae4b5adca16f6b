"""The pages that a person reads."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, abort, current_app, redirect, render_template, request, url_for
from werkzeug.wrappers import Response as AnyResponse

from slsr.errors import InputError
from slsr.explore import views
from slsr.explore.exhibit import Exhibit, Query, Shelf, find_query
from slsr.explore.image_table import ImageTable, find_rows
from slsr.explore.uploads import MAXIMUM_BYTES

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
    shelf = shelf_or_404(table)
    if not shown().searchable:
        abort(404)
    text, camera = request.args.get("find", "")[:100], views.whole_number(request.args, "camera")
    order = request.args.get("order", "table") if table == "q" else "table"
    rows, notes = views.in_order(shown(), find_rows(shelf.table, text, camera), order)
    leaf = views.leaf_through(shelf, rows, _page(), notes.get)
    asked = {"table": table, "find": text, "camera": "" if camera is None else camera, "order": order}
    return render_template("pick.html", shelf=shelf, leaf=leaf, asked=asked, cameras=_cameras(shelf.table))


@pages.get("/search")
def search() -> Answer:
    """Show the gallery ranked for one query."""
    query = query_or_404(request.args.get("query", ""))
    options = views.read_options(shown(), request.args)
    return render_template(
        "search.html",
        query=query,
        options=options,
        panels=views.panels(shown(), query, options),
        around=_neighbors_of(query),
        depths=views.DEPTHS,
        maps=views.MAPS,
    )


@pages.post("/upload")
def upload() -> Answer:
    """Receive a picture, and go to the gallery ranked for it."""
    exhibit = shown()
    if not exhibit.searchable:
        abort(404)
    given = request.files.get("picture")
    if given is None or not given.filename:
        raise InputError("no picture was chosen; choose an image file, drop one on the page, or paste one")
    kept = exhibit.uploads.receive(given.stream.read(), given.filename, exhibit.embed)
    chosen: dict[str, Any] = {
        key: value for key in ("left", "right", "maps", "depth") if (value := request.form.get(key))
    }
    return redirect(url_for("pages.search", query=f"u{kept.key}", **chosen), 303)


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
    rows = (found.assignments == chosen).nonzero()[0]
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
    """Show generated images with their sparse labels."""
    shelf = shelf_or_404("x")
    table = shelf.table
    chosen = views.whole_number(request.args, "cluster")
    rows = find_rows(table, "", cluster=chosen)
    leaf = views.leaf_through(shelf, rows, _page(), lambda row: views.sparse_label_text(table, row))
    sizes = {} if table.clusters is None else views.sizes_of(table.clusters)
    return render_template("generated.html", shelf=shelf, leaf=leaf, chosen=chosen, sizes=sizes)


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


def _neighbors_of(query: Query) -> tuple[str | None, str | None]:
    """Return the keys of the queries before and after this one in its table."""
    if query.shelf is None or query.row is None:
        return None, None
    before = f"{query.shelf.letter}{query.row - 1}" if query.row > 0 else None
    after = f"{query.shelf.letter}{query.row + 1}" if query.row + 1 < len(query.shelf.table) else None
    return before, after


def _page() -> int:
    return views.whole_number(request.args, "page", 1) or 1


def _cameras(table: ImageTable) -> list[int]:
    return sorted({int(camera) for camera in table.cameras}) if table.cameras is not None else []
