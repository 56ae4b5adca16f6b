"""What is reached without learning: an untrained network, and a colour histogram."""

from __future__ import annotations

import logging

from slsr.files import read_json, replaced_folder, write_json
from slsr.images.colour import hsv_stripes
from slsr.images.decoding import decode_resized
from slsr.models.weights import initial_encoder
from slsr.params import Params
from slsr.stages.measures import Images, labels_of, measure
from slsr.stages.paths import FACTS, FLOORS, GALLERY_TABLE, QUERY_TABLE, WEIGHTS
from slsr.training.features import extract_features
from slsr.training.launch import prepare_device

log = logging.getLogger(__name__)

HEAD_NOT_USED = 2


def run(params: Params) -> None:
    """Read query and gallery, write `artifacts/floors/metrics.json`.

    `untrained`: the network of `train` with the weights it starts from (ImageNet's, if it starts from those).
    `colour_histogram`: square-rooted HSV histograms of eight horizontal stripes.
    """
    query, gallery = Images.read(QUERY_TABLE), Images.read(GALLERY_TABLE)
    labels, protocol = labels_of(query, gallery), read_json(FACTS)["evaluation"]
    device = prepare_device(params.train.precision, params.train.deterministic)
    encoder = initial_encoder(params.train, HEAD_NOT_USED, params.image, WEIGHTS)
    untrained = [
        extract_features(
            encoder,
            images.encoded,
            params.image,
            device,
            names=images.names,
            flip=params.evaluate.flip,
            batch_size=params.evaluate.batch_size,
            precision=params.train.precision,
        )
        for images in (query, gallery)
    ]
    size = (params.image.resize_height, params.image.resize_width)
    colours = [hsv_stripes(decode_resized(images.encoded, *size, names=images.names)) for images in (query, gallery)]
    metrics = {
        name: measure(query_features, gallery_features, labels, protocol, params.evaluate).metrics
        for name, (query_features, gallery_features) in (("untrained", untrained), ("colour_histogram", colours))
    }
    with replaced_folder(FLOORS) as folder:
        write_json(folder / "metrics.json", metrics)
    log.info("wrote %s: %s", FLOORS, ", ".join(f"{name} {_rank1(found):.3f}" for name, found in metrics.items()))


def _rank1(metrics: dict[str, dict[str, float]]) -> float:
    return next(iter(metrics.values()))["rank1"]
