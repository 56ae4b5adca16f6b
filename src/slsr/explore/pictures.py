"""The pictures on the pages, made when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from flask import Response, abort, request, url_for

from slsr.explore import views
from slsr.explore.activation import MapKind, draw_map, energy_map, similarity_map
from slsr.explore.exhibit import Model, Shelf
from slsr.explore.image_table import THUMBNAIL_SIZE, as_jpeg, shrink, thumbnail
from slsr.explore.pages import Answer, pages, query_or_404, shelf_or_404, shown

MAP_SIZE = (192, 256)
LARGE_SIZE = (1024, 1024)
FOR_EVER = "private, max-age=31536000, immutable"


@pages.get("/image/<any(q, g, t, x):letter>/<int:row>.jpg")
def table_image(letter: str, row: int) -> Answer:
    """Send a small picture of a row of a table."""
    shelf = shelf_or_404(letter)
    if row >= len(shelf.table):
        abort(404)
    return _lasting(lambda: thumbnail(shelf.table.encoded(row), shelf.table.names[row]), shelf.version, f"{row}")


@pages.get("/image/<any(q, g, t, x):letter>/<int:row>/large.jpg")
def large_table_image(letter: str, row: int) -> Answer:
    """Send a row of a table in its own resolution, up to `LARGE_SIZE`."""
    shelf = shelf_or_404(letter)
    if row >= len(shelf.table):
        abort(404)

    def drawn() -> bytes:
        return thumbnail(shelf.table.encoded(row), shelf.table.names[row], LARGE_SIZE)

    return _lasting(drawn, shelf.version, f"{row}-large")


@pages.get("/image/u/<key>.jpg")
def upload_image(key: str) -> Answer:
    """Send a small picture of an upload."""
    return _upload(key, THUMBNAIL_SIZE)


@pages.get("/image/u/<key>/large.jpg")
def large_upload_image(key: str) -> Answer:
    """Send an upload in the size in which it is kept."""
    return _upload(key, LARGE_SIZE)


def _upload(key: str, size: tuple[int, int]) -> Answer:
    kept = shown().uploads.get(key)
    if kept is None:
        abort(404)
    return Response(as_jpeg(shrink(kept.image, size)), mimetype="image/jpeg")


@pages.get("/map/<any(activation, similarity):kind>/<int:model>/<query>/<image>.jpg")
def activation(kind: MapKind, model: int, query: str, image: str) -> Answer:
    """Send a picture under an activation map."""
    if model >= len(shown().models):
        abort(404)
    used, mapped, asked = shown().models[model], query_or_404(image), query_or_404(query)
    device = shown().device

    def drawn() -> bytes:
        towards = asked.features(used) if kind == "similarity" else None
        picture = mapped.image()
        with device:
            found = (
                energy_map(used.encoder, picture) if towards is None else similarity_map(used.encoder, picture, towards)
            )
        return as_jpeg(draw_map(picture, found, MAP_SIZE, used.encoder.image))

    version = _map_version(used, asked.shelf, mapped.shelf)
    if version is None:
        return Response(drawn(), mimetype="image/jpeg")
    return _lasting(drawn, version, f"{kind}-{query}-{image}")


def _map_version(model: Model, asked: Shelf | None, mapped: Shelf | None) -> str | None:
    """Return the version of a map: that of the model and both tables; None if an upload takes part."""
    if asked is None or mapped is None:
        return None
    return f"{model.encoder.fingerprint[:16]}{asked.version}{mapped.version}"


def _lasting(make: Callable[[], bytes], version: str, name: str) -> Response:
    """Answer with a picture that a browser may keep for ever: its address has the version of what it is made from."""
    tag = hashlib.sha256(f"{version}/{name}".encode()).hexdigest()[:32]
    known = tag in request.if_none_match
    answer = Response(status=304) if known else Response(make(), mimetype="image/jpeg")
    answer.set_etag(tag)
    answer.headers["Cache-Control"] = FOR_EVER if request.args.get("v") == version else "private, no-cache"
    return answer


def image_url(key: str, maps: str = views.OFF, ranker: views.Ranker | None = None, query: str = "") -> str:
    """Return the address of an image's picture, plain or under a map, for the templates."""
    shelves = shown().shelves
    shelf = shelves.get(key[0])
    if maps != views.OFF and ranker is not None:
        version = _map_version(ranker.model, shelves.get(query[0]), shelf)
        return url_for("pages.activation", kind=maps, model=ranker.number, query=query, image=key, v=version)
    if shelf is None:
        return url_for("pages.upload_image", key=key[1:])
    return url_for("pages.table_image", letter=key[0], row=int(key[1:]), v=shelf.version)


def large_url(key: str) -> str:
    """Return the address of an image in its own resolution, for the templates."""
    shelf = shown().shelves.get(key[0])
    if shelf is None:
        return url_for("pages.large_upload_image", key=key[1:])
    return url_for("pages.large_table_image", letter=key[0], row=int(key[1:]), v=shelf.version)
