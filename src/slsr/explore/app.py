"""The routes of the page."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import IO, Any

from flask import Flask, Request, Response, g, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from slsr.errors import InputError
from slsr.explore import views
from slsr.explore.exhibit import Exhibit
from slsr.explore.pages import Answer, add_pages
from slsr.explore.pictures import add_images, image_url
from slsr.explore.security import HEADERS, Doors, refuse_request, token_matches
from slsr.explore.uploads import MAXIMUM_BYTES

COOKIE = "slsr-explore-"


REMEDIES = {
    400: "The address or the form is not one that this page makes.",
    404: "There is no such page or image here.",
    405: "This address does not take that kind of request.",
    413: f"The file is larger than {MAXIMUM_BYTES // 2**20} MB; crop it to the person or make it smaller.",
}


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
    add_pages(app, exhibit)
    add_images(app, exhibit)

    @app.context_processor
    def shared() -> dict[str, Any]:
        return {
            "exhibit": exhibit,
            "assets": version,
            "views": views.all_views(exhibit),
            "image_url": image_url(exhibit),
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


def _version_of_assets(folder: Path) -> str:
    """A digest of the static files, so that a browser never keeps those of another version."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
