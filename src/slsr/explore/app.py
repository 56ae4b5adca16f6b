"""The routes of the page."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request, Response, abort, g, redirect, render_template, request, url_for
from PIL import Image
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as AnyResponse

from slsr.errors import InputError
from slsr.explore import views
from slsr.explore.activation import Kind, draw_map, energy_map, similarity_map
from slsr.explore.exhibit import Exhibit, Query, Shelf, find_query
from slsr.explore.gallery import THUMBNAIL_SIZE, ImageTable, as_jpeg, find_rows, shrink, thumbnail
from slsr.explore.rankings import Features
from slsr.explore.security import HEADERS, Doors, refuse_request, token_matches
from slsr.explore.uploads import MAXIMUM_BYTES

MAP_SIZE = (192, 256)
FOR_EVER = "private, max-age=31536000, immutable"
COOKIE = "slsr-explore-"
REMEDIES = {
    400: "The address or the form is not one that this page makes.",
    404: "There is no such page or image here.",
    405: "This address does not take that kind of request.",
    413: f"The file is larger than {MAXIMUM_BYTES // 2**20} MB; crop it to the person or make it smaller.",
}

Answer = str | AnyResponse | tuple[str, int]


class InMemoryRequest(Request):
    """Uploads stay in memory: their size is limited, and no picture of a person is left in a temporary file."""

    def _get_file_stream(
        self,
        total_content_length: int | None,
        content_type: str | None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        return io.BytesIO()


class ExploreApp(Flask):
    """Flask with uploads in memory."""

    request_class = InMemoryRequest


def cookie_name(doors: Doors) -> str:
    """Of this server alone: cookies go to every port of a host, and another server there has another token."""
    return COOKIE + hashlib.sha256((doors.token or "").encode()).hexdigest()[:8]


def create_app(exhibit: Exhibit, doors: Doors | None = None) -> Flask:
    """The page over an exhibit, a WSGI application."""
    app = empty_app(doors or Doors())
    fill_app(app, exhibit)
    return app


def empty_app(doors: Doors) -> Flask:
    """The page before there is anything on it, for a server that holds its port while the exhibit is opened."""
    app = ExploreApp(__name__)
    app.config.update(MAX_CONTENT_LENGTH=MAXIMUM_BYTES, MAX_FORM_PARTS=8)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    _guard(app, doors)
    return app


def fill_app(app: Flask, exhibit: Exhibit) -> None:
    """Put an exhibit on an empty page, before the first request."""
    version = _version_of_assets(Path(app.root_path) / "static")
    _add_pages(app, exhibit)
    _add_images(app, exhibit)

    @app.context_processor
    def shared() -> dict[str, Any]:
        return {
            "exhibit": exhibit,
            "assets": version,
            "views": views.all_views(exhibit),
            "image_url": _image_url(exhibit),
        }


def _guard(app: Flask, doors: Doors) -> None:
    """Refuse what comes from elsewhere, say what is wrong in one line, and send the headers that keep a page safe."""

    @app.before_request
    def check() -> Answer | None:
        if reason := refuse_request(request.method, dict(request.headers), doors):
            g.bare = True
            return Response(f"refused: {reason}\n", 403, mimetype="text/plain")
        given = request.args.get("token")
        if doors.token is not None and given is not None and token_matches(given, doors):
            answer = redirect(url_for("start"))
            answer.set_cookie(cookie_name(doors), given, httponly=True, samesite="Strict")
            return answer
        if not token_matches(request.cookies.get(cookie_name(doors)), doors):
            return Response(
                "refused: open the address with the token that the terminal shows\n", 403, mimetype="text/plain"
            )
        return None

    @app.after_request
    def add_headers(answer: Response) -> Response:
        for name, value in HEADERS.items():
            answer.headers[name] = value
        answer.headers.setdefault("Cache-Control", "no-store")
        return answer

    @app.errorhandler(InputError)
    def bad_input(error: InputError) -> Answer:
        return _problem(str(error), 400)

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Answer:
        if error.code is None or error.code < 400:
            return error.get_response()
        return _problem(REMEDIES.get(error.code, error.description or error.name), error.code)


def _problem(text: str, code: int) -> tuple[str, int]:
    return render_template("problem.html", text=text, code=code), code


def _add_pages(app: Flask, exhibit: Exhibit) -> None:
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
        query = _query_or_404(exhibit, request.args.get("query", ""))
        choice = views.read_choice(exhibit, request.args)
        shown = views.panels(exhibit, query, choice)
        around = _neighbours_of(query)
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


def _add_images(app: Flask, exhibit: Exhibit) -> None:
    """The pictures on the pages, made when they are asked for."""

    @app.get("/image/<any(q, g, t, x):letter>/<int:row>.jpg")
    def table_image(letter: str, row: int) -> Answer:
        shelf = exhibit.shelves.get(letter)
        if shelf is None or row >= len(shelf.table):
            abort(404)
        return _lasting(lambda: thumbnail(shelf.table.encoded(row), shelf.table.names[row]), shelf.version, f"{row}")

    @app.get("/image/u/<key>.jpg")
    def upload_image(key: str) -> Answer:
        kept = exhibit.uploads.get(key)
        if kept is None:
            abort(404)
        return Response(as_jpeg(shrink(kept.image, THUMBNAIL_SIZE)), mimetype="image/jpeg")

    @app.get("/map/<any(activation, similarity):kind>/<int:model>/<query>/<image>.jpg")
    def activation(kind: Kind, model: int, query: str, image: str) -> Answer:
        if model >= len(exhibit.models):
            abort(404)
        encoder = exhibit.models[model].encoder
        shown, asked = _query_or_404(exhibit, image), _query_or_404(exhibit, query)
        towards = asked.features(exhibit.models[model]) if kind == "similarity" else None

        def drawn() -> bytes:
            picture = shown.image()
            with exhibit.device:
                found = energy_map(encoder, picture) if towards is None else similarity_map(encoder, picture, towards)
            return as_jpeg(draw_map(picture, found, MAP_SIZE, encoder.image))

        if asked.shelf is None or shown.shelf is None:
            return Response(drawn(), mimetype="image/jpeg")
        version = f"{encoder.fingerprint[:16]}{asked.shelf.version}{shown.shelf.version}"
        return _lasting(drawn, version, f"{kind}-{query}-{image}")


def _lasting(make: Any, version: str, name: str) -> Response:
    """A picture that a browser may keep for ever: its address has the version of what it is made from."""
    tag = hashlib.sha256(f"{version}/{name}".encode()).hexdigest()[:32]
    known = tag in request.if_none_match
    answer = Response(status=304) if known else Response(make(), mimetype="image/jpeg")
    answer.set_etag(tag)
    answer.headers["Cache-Control"] = FOR_EVER if request.args.get("v") == version else "private, no-cache"
    return answer


def _image_url(exhibit: Exhibit) -> Any:
    """A function for the templates: the address of an image's picture, plain or under a map."""

    def address(key: str, maps: str = "none", view: views.View | None = None, query: str = "") -> str:
        shelf: Shelf | None = exhibit.shelves.get(key[0])
        if maps != "none" and view is not None:
            asked = exhibit.shelves.get(query[0])
            version = ""
            if shelf is not None and asked is not None:
                version = f"{view.model.encoder.fingerprint[:16]}{asked.version}{shelf.version}"
            return url_for("activation", kind=maps, model=view.number, query=query, image=key, v=version)
        if shelf is None:
            return url_for("upload_image", key=key[1:])
        return url_for("table_image", letter=key[0], row=int(key[1:]), v=shelf.version)

    return address


def _query_or_404(exhibit: Exhibit, key: str) -> Query:
    query = find_query(exhibit, key) if exhibit.searchable else None
    if query is None:
        if key.startswith("u"):
            raise InputError("this picture is no longer kept: the last uploads stay in memory only; drop it again")
        abort(404)
    return query


def _neighbours_of(query: Query) -> tuple[str | None, str | None]:
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


def _version_of_assets(folder: Path) -> str:
    """A digest of the static files, so that a browser never keeps those of another version."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
