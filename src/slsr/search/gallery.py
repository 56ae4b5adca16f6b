"""Ranked lists as rows of pictures, for the page that `slsr search --html` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from slsr.datasets.collection import JUNK, UNKNOWN_CAMERA
from slsr.embedding.files import NamedFeatures
from slsr.embedding.pictures import ImageLike, open_picture
from slsr.embedding.sources import ImageSources
from slsr.errors import InputError
from slsr.evaluation.judging import can_be_judged
from slsr.images.decoding import encode_jpeg
from slsr.reporting.gallery_page import GalleryImage, GalleryRow, Mark
from slsr.search.ranked_lists import Match

SHOWN_SIZE = (192, 256)  # largest width and height of a picture
JPEG_QUALITY = 88


def gallery_rows(
    queries: NamedFeatures,
    lists: Sequence[Sequence[Match]],
    asked: ImageSources | None,
    images: ImageSources | None,
) -> list[GalleryRow]:
    """Collect the pictures of queries and of their ranked lists, each at most 192x256 pixels.

    Captions have the names of files without their folders, since the page may be sent to others.

    Parameters
    ----------
    queries, lists
        The queries, and the ranked list of each.
    asked
        The images of the queries; None if only their features were given.
    images
        The images of the gallery, which may have been moved; None: they are files at the paths that are their names.

    Raises
    ------
    InputError
        An image is not there, or does not decode.
    """
    query_pictures = find_pictures(queries.names, asked or images)
    found = find_pictures({match.name for matches in lists for match in matches}, images)
    rows = []
    for number, (name, matches) in enumerate(zip(queries.names, lists, strict=True)):
        identity, camera = _label(queries.identities, number), _label(queries.cameras, number)
        query = GalleryImage(query_pictures[name], f"{Path(name).name}{_described(identity, camera)}")
        results = [
            GalleryImage(found[match.name], _caption(rank, match), mark_of(match, identity, camera))
            for rank, match in enumerate(matches, start=1)
        ]
        rows.append(GalleryRow(query, results))
    return rows


def find_pictures(names: Iterable[str], images: ImageSources | None) -> dict[str, bytes]:
    """Read images by their names, and make them small.

    An image is looked for in `images` under its name, then under its file name if no other has it, and then at the path
    that is its name.

    Raises
    ------
    InputError
        An image is not found, or does not decode.
    """
    found: dict[str, bytes] = {}
    names = set(names)
    by_file_name = _unique_file_names(names)
    for source in images or ():
        name = source.name if source.name in names else by_file_name.get(Path(source.name).name)
        if name is not None and (name == source.name or name not in found):
            found[name] = _small(source.image, source.name)
    for name in names - found.keys():
        if Path(name).is_file():
            found[name] = _small(Path(name), name)
    if missing := sorted(names - found.keys()):
        raise InputError(
            f"{missing[0]}: no such image ({len(missing):,} are missing); name the folder or the image tables that "
            "hold them with --images"
        )
    return found


def _unique_file_names(names: set[str]) -> dict[str, str]:
    """Map the last part of each name to the name, if only one name ends so."""
    ends = {name: Path(name).name for name in names}
    counts = Counter(ends.values())
    return {end: name for name, end in ends.items() if counts[end] == 1}


def _small(picture: ImageLike, name: str) -> bytes:
    image = open_picture(picture, name)
    image.thumbnail(SHOWN_SIZE)
    return encode_jpeg(np.asarray(image), JPEG_QUALITY)


def mark_of(match: Match, identity: int | None, camera: int | None) -> Mark | None:
    """Say whether a match shows the person of the query; None if that is unknown, or if evaluations ignore the match.

    They ignore junk, and images of the same person by the same camera. A query that is junk or a distractor (identity
    0) has no marks: any image may be a query here, so a query of identity 0 does not say that 0 is a person.
    """
    if identity is None or match.identity is None or match.identity == JUNK:
        return None
    if not can_be_judged(identity, None):
        return None
    if match.identity != identity:
        return "wrong"
    return None if camera == match.camera and camera not in (None, UNKNOWN_CAMERA) else "right"


def _label(labels: NDArray[np.int64] | None, number: int) -> int | None:
    return None if labels is None else int(labels[number])


def _caption(rank: int, match: Match) -> str:
    """Describe a match; a re-ranked list is sorted by the distance."""
    distance = "" if match.distance is None else f"\ndistance {match.distance:.4f}"
    return f"{rank}: {match.score:.4f}{distance}\n{Path(match.name).name}{_described(match.identity, match.camera)}"


def _described(identity: int | None, camera: int | None) -> str:
    known = [f"{title} {value}" for title, value in (("identity", identity), ("camera", camera)) if value is not None]
    return f"\n{', '.join(known)}" if known else ""
