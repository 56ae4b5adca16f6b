"""Score two trivial baselines that learn nothing here: the network before training, and a color histogram."""

from __future__ import annotations

import logging

from slsr.embedding.engine import extract_features
from slsr.evaluation.measures import Images, labels_of, mark_unknown_cameras, measure
from slsr.files import read_json, replaced_folder, write_json
from slsr.images.color import hsv_stripes
from slsr.images.decoding import decode_resized
from slsr.models.weights import initial_extractor
from slsr.params.evaluate import Evaluate
from slsr.params.recipe import Image, Recipe
from slsr.runtime.devices import prepare_device
from slsr.stages.paths import FACTS, FLOORS, GALLERY_TABLE, QUERY_TABLE, WEIGHTS

log = logging.getLogger(__name__)


def run(image: Image, train: Recipe, evaluate: Evaluate) -> None:
    """Read query and gallery, write `artifacts/floors/metrics.json`.

    `untrained` is the network of `train` with its initial weights (ImageNet's, if it starts from them).
    `color_histogram` is the square-rooted HSV histograms of eight horizontal stripes.
    """
    query, gallery = Images.read(QUERY_TABLE), Images.read(GALLERY_TABLE)
    labels, protocol = labels_of(query, gallery), read_json(FACTS)["evaluation"]
    device = prepare_device(train.precision, train.deterministic)
    network = initial_extractor(train, image, WEIGHTS)
    untrained = [
        extract_features(
            network,
            images.encoded,
            images.names,
            device,
            flip=evaluate.flip,
            batch_size=evaluate.batch_size,
            precision=train.precision,
        )
        for images in (query, gallery)
    ]
    size = (image.resize_height, image.resize_width)
    colors = [hsv_stripes(decode_resized(images.encoded, *size, names=images.names)) for images in (query, gallery)]
    metrics = {}
    for name, (query_features, gallery_features) in (("untrained", untrained), ("color_histogram", colors)):
        measured = measure(query_features, gallery_features, labels, protocol, evaluate)
        mark_unknown_cameras(measured, labels)
        metrics[name] = measured.metrics
    with replaced_folder(FLOORS) as folder:
        write_json(folder / "metrics.json", metrics)
    log.info("wrote %s: %s", FLOORS, ", ".join(f"{name} {_rank1(found):.3f}" for name, found in metrics.items()))


def _rank1(metrics: dict[str, dict[str, float]]) -> float:
    return next(iter(metrics.values()))["rank1"]
