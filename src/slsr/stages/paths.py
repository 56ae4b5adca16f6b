"""Where the stages keep what they write, relative to the root of the project."""

import os
from pathlib import Path

DATA = Path("data")
WEIGHTS = Path("weights")
ARTIFACTS = Path("artifacts")
PREPARED = ARTIFACTS / "prepared"
TRAIN_TABLE = PREPARED / "train.parquet"
VALIDATION_TABLE = PREPARED / "validation.parquet"
QUERY_TABLE = PREPARED / "query.parquet"
GALLERY_TABLE = PREPARED / "gallery.parquet"
MULTI_QUERY_TABLE = PREPARED / "multi_query.parquet"
FACTS = PREPARED / "facts.json"
ENCODER = ARTIFACTS / "encoder"
ENCODER_MODEL = ENCODER / "model.safetensors"
TRAIN_FEATURES = ARTIFACTS / "features" / "train.npy"
CLUSTERS = ARTIFACTS / "clusters"
ASSIGNMENTS = CLUSTERS / "assignments.parquet"
CLUSTER_IDENTITIES = CLUSTERS / "identities.json"
GAN = ARTIFACTS / "gan"
GENERATED = ARTIFACTS / "generated"
GENERATED_IMAGES = GENERATED / "images.parquet"
FLOORS = ARTIFACTS / "floors"
TRAINED = ARTIFACTS / "train"
EVALUATED = ARTIFACTS / "evaluate"


def scratch_root() -> Path:
    """Return where the states of unfinished runs are kept: in the main checkout, also for a queued experiment."""
    return Path(os.environ.get("DVC_ROOT", ".")) / ".scratch"
