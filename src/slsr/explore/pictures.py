"""The pictures that the pages show."""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Flask, Response, abort, request, url_for

from slsr.explore import views
from slsr.explore.activation import Kind, draw_map, energy_map, similarity_map
from slsr.explore.exhibit import Exhibit, Shelf
from slsr.explore.image_table import THUMBNAIL_SIZE, as_jpeg, shrink, thumbnail
from slsr.explore.pages import Answer, query_or_404

MAP_SIZE = (192, 256)


FOR_EVER = "private, max-age=31536000, immutable"


def add_images(app: Flask, exhibit: Exhibit) -> None:
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
        shown, asked = query_or_404(exhibit, image), query_or_404(exhibit, query)
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


def image_url(exhibit: Exhibit) -> Any:
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
