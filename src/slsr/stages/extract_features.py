"""Extract the features of all training images, for clustering."""

from __future__ import annotations

import logging

from slsr.embedding.engine import extract_features
from slsr.files import write_npy
from slsr.images.tables import read_table
from slsr.models.encoder import load_encoder
from slsr.params.evaluate import Evaluate
from slsr.params.recipe import Recipe
from slsr.runtime.devices import prepare_device
from slsr.runtime.processes import is_first
from slsr.stages.paths import ENCODER_MODEL, TRAIN_FEATURES, TRAIN_TABLE

log = logging.getLogger(__name__)


def run(encoder: Recipe, evaluate: Evaluate) -> None:
    """Read the train table and the encoder, write `artifacts/features/train.npy`, float32 [N, D].

    Row i is the feature of row i of train.parquet, as tests compare it, but not normalized and without that of the
    mirrored image.
    """
    network = load_encoder(ENCODER_MODEL)
    table = read_table(TRAIN_TABLE, ["image", "name"])
    device = prepare_device(encoder.precision, encoder.deterministic)
    features = extract_features(
        network,
        table.column("image").to_pylist(),
        table.column("name").to_pylist(),
        device,
        flip=False,
        batch_size=evaluate.batch_size,
        precision=encoder.precision,
    )
    if not is_first():
        return
    write_npy(TRAIN_FEATURES, features)
    log.info("wrote %s: %d x %d", TRAIN_FEATURES, *features.shape)
