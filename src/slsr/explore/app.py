"""The application: pages, pictures, and what every request and answer goes through."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import IO

from flask import Flask, Request, Response, g, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException

from slsr.errors import InputError
from slsr.explore import views
from slsr.explore.exhibit import Exhibit
from slsr.explore.pages import EXTENSION, Answer, pages
from slsr.explore.pictures import image_url, large_url
from slsr.explore.security import HEADERS, Doors, refuse_request, token_matches
from slsr.explore.uploads import MAXIMUM_BYTES, TOO_LARGE

COOKIE = "slsr-explore-"
REMEDIES = {
    400: "This page does not make such an address or form.",
    404: "There is no such page or image here.",
    405: "This address does not take that kind of request.",
    413: TOO_LARGE,
}


class InMemoryRequest(Request):
    """A request whose uploads stay in memory, so that no picture of a person is left in a temporary file."""

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
    """Name the cookie after the token, since a browser sends cookies to every server on a host."""
    return COOKIE + hashlib.sha256((doors.token or "").encode()).hexdigest()[:8]


def create_app(exhibit: Exhibit, doors: Doors | None = None) -> Flask:
    """Make the page over an exhibit, a WSGI application."""
    app = empty_app(doors or Doors())
    fill_app(app, exhibit)
    return app


def empty_app(doors: Doors) -> Flask:
    """Make the page with nothing on it yet, so that a server can hold its port while the exhibit is opened."""
    app = ExploreApp(__name__)
    app.config.update(MAX_CONTENT_LENGTH=MAXIMUM_BYTES, MAX_FORM_PARTS=8)
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    _guard(app, doors)
    app.register_blueprint(pages)
    return app


def fill_app(app: Flask, exhibit: Exhibit) -> None:
    """Put an exhibit on an empty page, before the first request."""
    app.extensions[EXTENSION] = exhibit
    app.jinja_env.globals.update(
        exhibit=exhibit,
        assets=_version_of_assets(Path(app.root_path) / "static"),
        rankers=views.all_rankers(exhibit),
        image_url=image_url,
        large_url=large_url,
        OFF=views.OFF,
    )


def _guard(app: Flask, doors: Doors) -> None:
    """Refuse requests from elsewhere, report errors in one line, and send the headers that keep a page safe."""

    @app.before_request
    def check() -> Answer | None:
        if reason := refuse_request(request.method, dict(request.headers), doors):
            g.bare = True
            return Response(f"refused: {reason}\n", 403, mimetype="text/plain")
        given = request.args.get("token")
        if doors.token is not None and given is not None and token_matches(given, doors):
            answer = redirect(url_for("pages.start"))
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
    """Return a digest of the static files, so that a browser never uses those of another version."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
