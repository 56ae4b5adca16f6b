"""Queries of `slsr search`: images, embedded by the model of the index, or features that are embedded already."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from slsr.embedding.files import NamedFeatures, Origin, read_features, read_origin
from slsr.embedding.npz import array_names
from slsr.embedding.sources import ImageSources, find_images
from slsr.errors import InputError
from slsr.search.kinds import wrong_lengths
from slsr.search.store import Index, check_origin

if TYPE_CHECKING:
    from slsr.embedding.encoder import LoadedEncoder

log = logging.getLogger(__name__)


def embedded_queries(
    path: Path,
    index: Index,
    queries: Sequence[str],
    *,
    model: Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    strict: bool = False,
) -> NamedFeatures:
    """Read or compute the features of queries, with their names, and with their labels if these are known.

    Parameters
    ----------
    path
        The file of the index, for messages.
    queries
        What `find_images` takes, or one .npz file of `slsr embed`; its queries are taken, or else its gallery.
    model
        The model of the index; None: the path that it had when the gallery was embedded.
    strict
        Fail on an image that cannot be read, instead of leaving it out.

    Raises
    ------
    InputError
        The model is not the one of the index, or cannot be found; or no query can be read.
    """
    if are_embedded(queries):
        if len(queries) > 1:
            raise InputError("an .npz file must be the only query; give it alone, or give images")
        return _from_file(path, index, Path(queries[0]))
    sources = find_images(queries)
    encoder = _encoder_of(path, index.origin, model, device)
    return _embedded(encoder, sources, batch_size, strict)


def are_embedded(queries: Sequence[str]) -> bool:
    """Whether the queries are features already, so that no model is needed."""
    return any(query.endswith(".npz") for query in queries)


def _embedded(encoder: LoadedEncoder, sources: ImageSources, batch_size: int, strict: bool) -> NamedFeatures:
    from slsr.embedding.stream import Skipped, embed_sources

    skipped = None if strict else Skipped()
    blocks = list(embed_sources(encoder, sources, batch_size=batch_size, skipped=skipped, title="query"))
    if not blocks:
        raise InputError(f"none of the {sources.count} queries can be read")
    if skipped is not None and skipped.count:
        log.warning("skipped %d unreadable queries of %d", skipped.count, sources.count)
    return NamedFeatures(
        np.concatenate([block.features for block in blocks]),
        [name for block in blocks for name in block.names],
        _joined([block.identities for block in blocks]),
        _joined([block.cameras for block in blocks]),
    )


def _joined(parts: Sequence[NDArray[np.int64] | None]) -> NDArray[np.int64] | None:
    """Join the labels of blocks; None if those of one of them are unknown."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _encoder_of(path: Path, origin: Origin, model: Path | None, device: str) -> LoadedEncoder:
    """Load the model that an index was built with, and refuse another one."""
    from slsr.embedding.checkpoint_file import check_encoder, checkpoint_file, fingerprint

    place = Path(origin.model) if model is None else model
    try:
        checkpoint = checkpoint_file(place)
    except InputError as error:
        if model is not None:
            raise
        raise InputError(f"{path}: the model of this index, {origin}, is not there any more; give --model") from error
    check_encoder(checkpoint)
    check_origin(path, origin, Origin(fingerprint(checkpoint), origin.flip, str(place)))
    from slsr.embedding.encoder import load_encoder

    return load_encoder(place, device, flip=origin.flip)


def _from_file(path: Path, index: Index, queries: Path) -> NamedFeatures:
    check_origin(path, index.origin, read_origin(queries))
    found = read_features(queries, "query" if "query_features" in array_names(queries) else "gallery")
    features = np.ascontiguousarray(found.features)
    if len(wrong := wrong_lengths(features)):
        first = wrong[0]
        raise InputError(
            f"{queries}: {len(wrong):,} features do not have length 1; the first, of {found.names[first]}, has length "
            f"{np.linalg.norm(features[first]):.4g}; embed the queries again with `slsr embed`"
        )
    return replace(found, features=features)
