"""Features of all training images, for clustering."""

from __future__ import annotations

import logging

from slsr.files import write_npy
from slsr.models.encoder import load_encoder
from slsr.params import Params
from slsr.records import read_table
from slsr.stages.paths import ENCODER_MODEL, TRAIN_FEATURES, TRAIN_TABLE
from slsr.training.features import extract_features
from slsr.training.launch import prepare_device
from slsr.training.processes import is_first

log = logging.getLogger(__name__)


def run(params: Params) -> None:
    """Read the train table and the encoder, write `artifacts/features/train.npy`, float32 [N, D].

    Row i is row i of train.parquet: the pooled last convolutional maps, not normalised, without mirroring.
    """
    encoder = load_encoder(ENCODER_MODEL)
    table = read_table(TRAIN_TABLE, ["image", "name"])
    device = prepare_device(params.encoder.precision, params.encoder.deterministic)
    features = extract_features(
        encoder,
        table.column("image").to_pylist(),
        encoder.description.image,
        device,
        names=table.column("name").to_pylist(),
        batch_size=params.evaluate.batch_size,
        precision=params.encoder.precision,
    )
    if not is_first():
        return
    write_npy(TRAIN_FEATURES, features)
    log.info("wrote %s: %d x %d", TRAIN_FEATURES, *features.shape)
