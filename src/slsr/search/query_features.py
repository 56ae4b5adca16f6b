"""Queries of `slsr search`: images, embedded by the model that the index belongs to, or features that are there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from slsr.embedding.files import Origin, array_names, read_features, read_origin
from slsr.embedding.sources import find_images
from slsr.errors import InputError
from slsr.search.kinds import Features
from slsr.search.store import Index, check_origin

log = logging.getLogger(__name__)

LENGTH_TOLERANCE = 1e-3


def embedded_queries(
    folder: Path,
    index: Index,
    queries: Sequence[str],
    *,
    model: Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    strict: bool = False,
) -> tuple[list[str], Features]:
    """Names and features of queries.

    Parameters
    ----------
    folder
        Of the index, for messages.
    queries
        What `find_images` takes, or one .npz file that `slsr embed` wrote, whose queries are taken where it has some.
    model
        The model of the index; None: where it lay when the gallery was embedded.
    strict
        End at an image that cannot be read, instead of leaving it out.

    Raises
    ------
    InputError
        The model is another than the index's, or not to be found; no query can be read.
    """
    if are_embedded(queries):
        if len(queries) > 1:
            raise InputError("an .npz file is to be the only query; give it alone, or images")
        return _from_file(folder, index, Path(queries[0]))
    sources = find_images(queries)
    from slsr.embedding.checkpoint_file import checkpoint_file, fingerprint
    from slsr.embedding.encoder import load_encoder
    from slsr.embedding.stream import Skipped, embed_sources

    place = Path(index.origin.model) if model is None else model
    try:
        checkpoint = checkpoint_file(place)
    except InputError as error:
        if model is not None:
            raise
        raise InputError(
            f"{folder}: the model of this index, {index.origin}, is not there any more; give it by --model"
        ) from error
    check_origin(folder, index.origin, Origin(fingerprint(checkpoint), index.origin.flip, str(place)))
    encoder = load_encoder(place, device, flip=index.origin.flip)
    skipped = None if strict else Skipped()
    blocks = list(embed_sources(encoder, sources, batch_size=batch_size, skipped=skipped, title="query"))
    if not blocks:
        raise InputError(f"none of the {sources.count} queries can be read")
    if skipped is not None and skipped.count:
        log.warning("skipped %d unreadable queries of %d", skipped.count, sources.count)
    names = [name for block in blocks for name in block.names]
    return names, np.concatenate([block.features for block in blocks])


def are_embedded(queries: Sequence[str]) -> bool:
    """Whether queries are features already, so that no model is needed."""
    return any(query.endswith(".npz") for query in queries)


def _from_file(folder: Path, index: Index, path: Path) -> tuple[list[str], Features]:
    check_origin(folder, index.origin, read_origin(path))
    found = read_features(path, "query" if "query_features" in array_names(path) else "gallery")
    features = np.ascontiguousarray(found.features)
    lengths = np.linalg.norm(features, axis=1)
    if (wrong := np.flatnonzero(~(np.abs(lengths - 1) < LENGTH_TOLERANCE))).size:
        raise InputError(
            f"{path}: the feature of {found.names[wrong[0]]} has length {lengths[wrong[0]]:.4g}, not 1 "
            f"({len(wrong):,} such); embed the queries anew with `slsr embed`"
        )
    return found.names, features
