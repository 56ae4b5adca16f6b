"""The pages."""

from __future__ import annotations

from typing import Any

from flask import Flask, Response, abort, redirect, render_template, request, url_for
from PIL import Image
from werkzeug.wrappers import Response as AnyResponse

from slsr.errors import InputError
from slsr.explore import views
from slsr.explore.exhibit import Exhibit, Query, find_query
from slsr.explore.image_table import ImageTable, find_rows
from slsr.explore.uploads import MAXIMUM_BYTES
from slsr.retrieval.distances import Features

Answer = str | AnyResponse | tuple[str, int]


def add_pages(app: Flask, exhibit: Exhibit) -> None:
    """The pages that a person reads."""

    @app.get("/")
    def start() -> Answer:
        if exhibit.searchable:
            return redirect(url_for("pick", table="q" if "q" in exhibit.shelves else "g"))
        return redirect(url_for("clusters" if exhibit.clusters else "generated"))

    @app.get("/pick/<any(q, g):table>")
    def pick(table: str) -> Answer:
        shelf = exhibit.shelves.get(table)
        if shelf is None or not exhibit.searchable:
            abort(404)
        text, camera = request.args.get("find", "")[:100], views.whole_number(request.args, "camera")
        rows = find_rows(shelf.table, text, camera)
        order = request.args.get("order", "table") if table == "q" else "table"
        rows, notes = views.in_order(exhibit, rows, order)
        leaf = views.leaf_through(shelf, rows, _page(), notes)
        asked = {"table": table, "find": text, "camera": "" if camera is None else camera, "order": order}
        return render_template("pick.html", shelf=shelf, leaf=leaf, asked=asked, cameras=_distinct(shelf.table))

    @app.get("/search")
    def search() -> Answer:
        query = query_or_404(exhibit, request.args.get("query", ""))
        choice = views.read_choice(exhibit, request.args)
        shown = views.panels(exhibit, query, choice)
        around = _neighbors_of(query)
        return render_template(
            "search.html",
            query=query,
            choice=choice,
            panels=shown,
            around=around,
            depths=views.DEPTHS,
            maps=views.MAPS,
        )

    @app.post("/upload")
    def upload() -> Answer:
        if not exhibit.searchable:
            abort(404)
        given = request.files.get("picture")
        if given is None or not given.filename:
            raise InputError("no picture was chosen; choose an image file, drop one on the page, or paste one")

        def embed(image: Image.Image) -> list[Features]:
            with exhibit.device:
                return [model.encoder.embed([image])[0] for model in exhibit.models]

        kept = exhibit.uploads.receive(given.stream.read(), given.filename, embed)
        chosen: dict[str, Any] = {
            key: value for key in ("left", "right", "maps", "depth") if (value := request.form.get(key))
        }
        return redirect(url_for("search", query=f"u{kept.key}", **chosen), 303)

    @app.get("/clusters")
    def clusters() -> Answer:
        if exhibit.clusters is None:
            abort(404)
        shelf = exhibit.shelves["t"]
        numbers, assignments = exhibit.clusters.numbers, exhibit.clusters.assignments
        chosen = views.whole_number(request.args, "cluster", numbers[0])
        if chosen not in numbers:
            abort(404)
        rows = (assignments == chosen).nonzero()[0]
        people = len(set(shelf.table.identities[rows].tolist())) if shelf.table.identities is not None else None
        sizes = {number: int((assignments == number).sum()) for number in numbers}
        leaf = views.leaf_through(shelf, rows, _page())
        return render_template(
            "clusters.html",
            shelf=shelf,
            leaf=leaf,
            chosen=chosen,
            sizes=sizes,
            people=people,
            clusters=exhibit.clusters,
        )

    @app.get("/clusters/figure.png")
    def clusters_figure() -> Answer:
        if exhibit.clusters is None or exhibit.clusters.figure is None:
            abort(404)
        return Response(exhibit.clusters.figure.read_bytes(), mimetype="image/png")

    @app.get("/generated")
    def generated() -> Answer:
        shelf = exhibit.shelves.get("x")
        if shelf is None:
            abort(404)
        chosen = views.whole_number(request.args, "cluster")
        present = shelf.table.clusters
        sizes = {} if present is None else {int(n): int((present == n).sum()) for n in sorted(set(present.tolist()))}
        rows = find_rows(shelf.table, "", cluster=chosen)
        leaf = views.leaf_through(shelf, rows, _page(), note=lambda row: views.sparse_label_text(shelf.table, row))
        return render_template("generated.html", shelf=shelf, leaf=leaf, chosen=chosen, sizes=sizes)

    @app.get("/about")
    def about() -> Answer:
        return render_template("about.html", limit=MAXIMUM_BYTES // 2**20)


def query_or_404(exhibit: Exhibit, key: str) -> Query:
    query = find_query(exhibit, key) if exhibit.searchable else None
    if query is None:
        if key.startswith("u"):
            raise InputError("this picture is no longer kept: the last uploads stay in memory only; drop it again")
        abort(404)
    return query


def _neighbors_of(query: Query) -> tuple[str | None, str | None]:
    """Keys of the queries before and after this one in its table."""
    if query.shelf is None or query.row is None:
        return None, None
    before = f"{query.shelf.letter}{query.row - 1}" if query.row > 0 else None
    after = f"{query.shelf.letter}{query.row + 1}" if query.row + 1 < len(query.shelf.table) else None
    return before, after


def _page() -> int:
    return views.whole_number(request.args, "page", 1) or 1


def _distinct(table: ImageTable) -> list[int]:
    return sorted({int(camera) for camera in table.cameras}) if table.cameras is not None else []
