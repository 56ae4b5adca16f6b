"""Measure a model on a data set that it was not trained on: the numbers that papers call cross-domain.

Nothing is trained or adapted. The features of the other data set's query and gallery images are computed and compared
as the stage `evaluate` does. Reading a data set loads no torch.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from slsr.datasets.arrangement import arrange, queries_without_pool
from slsr.datasets.collection import CAMERAS_UNKNOWN, Collection, Entry
from slsr.datasets.facts import notes_of, read_facts
from slsr.datasets.inspection import Unreadable, inspect_images
from slsr.datasets.opening import choose, open_collection, recognize
from slsr.datasets.soundness import require_cameras, require_sound
from slsr.errors import InputError
from slsr.evaluation.measures import (
    Images,
    Measured,
    all_rankings,
    described,
    labels_of,
    mark_unknown_cameras,
    measure,
    pooled_queries,
    reranked,
)
from slsr.evaluation.scoring import render as render_numbers
from slsr.params.dataset import DatasetVariant
from slsr.params.evaluate import Bootstrap, Evaluate, RankedList, Rerank
from slsr.retrieval.distances import Features

if TYPE_CHECKING:
    from slsr.embedding.encoder import LoadedEncoder

log = logging.getLogger(__name__)

# The values of presets/defaults.yaml, for use without a params.yaml.
PUBLISHED = Evaluate(
    flip=True,
    batch_size=64,
    multi_query="mean",
    rerank=Rerank(k1=20, k2=6, lambda_value=0.3, junk="keep"),
    bootstrap=Bootstrap(resamples=10_000, seed=1),
    ranked_list=RankedList(queries=6, depth=10),
)


@dataclass(frozen=True)
class EvaluationSet:
    """What a model is tested on: encoded images with labels, and how to evaluate them.

    Attributes
    ----------
    dataset
        Name of the data set, and of its split if it has several.
    protocol
        `protocol`, `directions` and `multi_query`, as in facts.json.
    """

    dataset: str
    query: Images
    gallery: Images
    multi_query: Images | None
    protocol: Mapping[str, Any]


def read_evaluation_set(
    data: Path,
    protocol: str | None = None,
    boxes: str | None = None,
    split: int | None = None,
    halves: Path | None = None,
    cameras: Literal["unknown"] | None = None,
) -> EvaluationSet:
    """Read query and gallery of a data set.

    Parameters
    ----------
    data
        A folder of prepared tables (query.parquet, gallery.parquet, facts.json), or an archive as published.
    protocol, boxes, split
        Which split of an archive, if its data set has several; None chooses the first one of its preset.
    halves
        A file of published halves of VIPeR, of which `split` is one.
    cameras
        `unknown` accepts test images of unknown cameras, which are an error otherwise.

    Raises
    ------
    InputError
        The data set is missing or cannot be read, one of its images cannot be read, or it has no such split.
    """
    if (data / "facts.json").is_file():
        given = {"protocol": protocol, "boxes": boxes, "split": split, "split-file": halves, "cameras": cameras}
        if named := [name for name, value in given.items() if value]:
            raise InputError(f"{data}: prepared tables, whose split is chosen already; leave out --{named[0]}")
        return _prepared(data)
    if not data.exists():
        raise InputError(f"{data}: no such file or folder; give an archive, or the folder that `prepare` wrote")
    variant = _variant(data, protocol, boxes, split, halves)
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_collection(data, variant, Path(scratch), halves) as collection,
    ):
        require_cameras(collection, cameras, "--cameras unknown")
        found = _from_archive(collection, variant)
    return found if halves is None else replace(found, dataset=f"{found.dataset} of {halves.name}")


def _variant(
    data: Path, protocol: str | None, boxes: str | None, split: int | None, halves: Path | None
) -> DatasetVariant:
    variant = recognize(data)
    if halves is None:
        return choose(variant, protocol, boxes, split)
    if variant.name != "viper":
        raise InputError(
            f"--split-file {halves}: only VIPeR has such files, but {data} is {variant.name}; leave it out"
        )
    return choose(variant, protocol, boxes).model_copy(update={"split": split or 1})  # the file knows its splits


def _prepared(folder: Path) -> EvaluationSet:
    facts = read_facts(folder / "facts.json")
    query, gallery = (Images.read(folder / f"{name}.parquet") for name in ("query", "gallery"))
    pool = Images.read(folder / "multi_query.parquet") if facts["evaluation"]["multi_query"] else None
    return EvaluationSet(facts["dataset"], query, gallery, pool, facts["evaluation"])


def _from_archive(collection: Collection, variant: DatasetVariant) -> EvaluationSet:
    """Arrange an archive as `prepare` does with every identity; an image that cannot be read is an error here."""
    require_sound(collection, training=False)
    for note in notes_of(collection):
        log.info("%s: %s", collection.origin, note)
    tables = arrange(collection, None, "none", 0).tables
    pooled = bool(tables["multi_query"]) and not queries_without_pool(tables)
    details = [f"{key} {value}" for key, value in variant.model_dump().items() if key != "name" and value is not None]
    query, gallery = (_read_images(tables[name], collection) for name in ("query", "gallery"))
    if collection.evaluation.cameras == "unknown" and (both := set(query.encoded) & set(gallery.encoded)):
        name = query.names[query.encoded.index(both.pop())]
        raise InputError(
            f"{collection.origin}: the image {name} is in the gallery too, where it would be its own right match; "
            "remove it from query or gallery"
        )
    return EvaluationSet(
        " ".join([variant.name, *details]),
        query,
        gallery,
        _read_images(tables["multi_query"], collection) if pooled else None,
        asdict(collection.evaluation) | {"multi_query": pooled},
    )


def _read_images(entries: Sequence[Entry], collection: Collection) -> Images:
    encoded = []
    for _, content, found in inspect_images(entries, collection.read):
        if isinstance(found, Unreadable):
            raise InputError(f"{collection.origin}: {found.reason}")
        encoded.append(content)
    return Images(
        encoded,
        [entry.name for entry in entries],
        np.array([entry.identity for entry in entries], np.int64),
        np.array([entry.camera for entry in entries], np.int64),
    )


def transfer(encoder: LoadedEncoder, data: EvaluationSet, settings: Evaluate = PUBLISHED) -> Measured:
    """Measure on a test set everything that `evaluate` measures, with re-ranking and multi-query.

    Raises
    ------
    InputError
        `settings.flip` is not the encoder's.
    """
    if settings.flip != encoder.flip:
        raise InputError(f"evaluate.flip: {settings.flip}, but the encoder was loaded with flip={encoder.flip}")
    labels = labels_of(data.query, data.gallery)
    query, gallery = (_features(encoder, images, settings) for images in (data.query, data.gallery))
    if data.protocol["protocol"] != "cross-camera":
        return measure(query, gallery, labels, data.protocol, settings)
    pool = data.multi_query
    pooled = pooled_queries(_features(encoder, pool, settings), pool, data.query, settings) if pool else None
    single = reranked(query, gallery, labels, settings)
    measured = described(all_rankings(query, gallery, labels, single, pooled, settings), settings)
    mark_unknown_cameras(measured, labels)
    return measured


def _features(encoder: LoadedEncoder, images: Images, settings: Evaluate) -> Features:
    from slsr.embedding.engine import extract_features  # loads torch, which a data set is refused without

    return extract_features(
        encoder.network,
        images.encoded,
        images.names,
        encoder.device,
        flip=encoder.flip,
        batch_size=settings.batch_size,
    )


def as_json(encoder: LoadedEncoder, data: EvaluationSet, measured: Measured, settings: Evaluate) -> dict[str, Any]:
    """Collect the model, the data set, the settings and the measures: the JSON that `slsr transfer` writes."""
    return {
        "model": {
            "fingerprint": encoder.fingerprint,
            "backbone": encoder.network.description.backbone,
            "trained_identities": encoder.network.description.classes,
        },
        "dataset": data.dataset,
        "protocol": dict(data.protocol),
        "settings": {
            "flip": settings.flip,
            "multi_query": settings.multi_query,
            "rerank": settings.rerank.model_dump(),
            "bootstrap": settings.bootstrap.model_dump(),
        },
        "metrics": measured.metrics,
        "cmc": {name: [float(share) for share in curve] for name, curve in measured.curves.items()},
    }


def render(data: EvaluationSet, measured: Measured) -> str:
    """Format the main measures as Markdown, as `slsr score` prints them."""
    text = f"{data.dataset}: {render_numbers(measured.metrics)}"
    return f"{text}\n\n{CAMERAS_UNKNOWN}" if data.protocol.get("cameras") == "unknown" else text
