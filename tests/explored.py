"""A tiny exhibit for the tests of the page: a network of two convolutions, and tables of a few drawn images."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image as PillowImage
from tiny import build_tiny_backbone, make_image

from slsr.embedding.encoder import load_encoder
from slsr.explore.exhibit import Sources
from slsr.explore.image_table import ImageTable
from slsr.files import write_json
from slsr.images.tables import GENERATED, LABELED, TRAINING, table_writer
from slsr.models import backbones
from slsr.models import encoder as encoders
from slsr.models.encoder import Encoder, EncoderDescription, save_encoder

COLORS = np.array([[220, 40, 40], [40, 200, 60], [50, 60, 220], [215, 205, 50], [190, 60, 200], [60, 190, 190]])


def person(identity: int, seed: int, height: int = 40, width: int = 20) -> bytes:
    """An image in the color of its identity, darker in the lower half, with noise."""
    generator = np.random.default_rng(1000 * identity + seed)
    pixels = COLORS[identity % len(COLORS)] + generator.normal(0, 25, (height, width, 3))
    pixels[height // 2 :] *= 0.6
    buffer = io.BytesIO()
    PillowImage.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_table(path: Path, labels, schema=LABELED, more=lambda row: {}) -> Path:
    with table_writer(path, schema) as table:
        for row, (identity, camera) in enumerate(labels):
            table.append(
                {
                    "image": person(max(identity, 0), row),
                    "name": f"{identity:04d}_c{camera}_{row}.png",
                    "identity": identity,
                    "camera": camera,
                }
                | more(row)
            )
            if row % 16 == 15:
                table.flush()
    return path


QUERY_LABELS = [(identity, camera) for identity in (1, 2, 3, 4) for camera in (1, 2)]
GALLERY_LABELS = [(identity, camera) for identity in (1, 2, 3, 4, 0, -1) for camera in (1, 2, 3) for _ in range(4)]


@dataclass(frozen=True)
class Place:
    folder: Path
    sources: Sources
    cache: Path


def make_place(folder: Path) -> Place:
    """Write two models and all four tables."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        models = [write_model(folder / name / "model.safetensors", seed) for seed, name in enumerate(("slsr", "none"))]
    training = [(identity, camera) for identity in (11, 12, 13) for camera in (1, 2) for _ in range(12)]
    labels = {11: 0, 12: 1, 13: 2}
    sources = Sources(
        models=models,
        gallery=write_table(folder / "gallery.parquet", GALLERY_LABELS),
        query=write_table(folder / "query.parquet", QUERY_LABELS),
        train=write_table(
            folder / "train.parquet", training, TRAINING, lambda row: {"label": labels[training[row][0]]}
        ),
        clusters=folder / "clusters",
        generated=write_generated(folder / "generated.parquet"),
        encoder=models[1],
        train_features=folder / "train.npy",
    )
    write_clusters(folder / "clusters", sources.train, training)
    write_json(folder / "quality.json", QUALITY)
    write_train_features(sources)
    return Place(folder, sources, folder / "cache")


def quality_of(cluster, sizes, verdict, coverage=0.15):
    """The measures of one set of generated images, as in quality.json."""
    measures = {
        "kernel": {"value": 0.2536, "deviation": 0.01, "reference": 0.0007, "reference_deviation": 0.006},
        "coverage": {"value": coverage, "deviation": 0.02, "reference": 0.96, "reference_deviation": 0.02},
    }
    encoder = {"coverage": {"value": 0.35, "deviation": 0.02, "reference": 0.97, "reference_deviation": 0.02}}
    generated, real = sizes
    found = {"cluster": cluster, "generated": generated, "real": real, "verdict": verdict}
    return found | {"imagenet": measures, "encoder": encoder}


QUALITY = {
    "overall": quality_of(None, (70, 72), "recognizable, but poorer"),
    "clusters": [quality_of(0, (50, 48), "not usable"), quality_of(1, (20, 24), None, None)],
    "alarms": [
        {"cluster": None, "space": "imagenet", "alarm": "collapse", "measure": "coverage", "value": 0.15, "limit": 0.2}
    ],
}


def write_train_features(sources: Sources) -> None:
    """As `extract_features` writes them: without the mirrored image, and not of length 1."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_backbone(patch)
        encoder = load_encoder(sources.encoder, "cpu", flip=False)
        np.save(sources.train_features, 3 * encoder.embed(list(ImageTable(sources.train).iterate())))


def use_tiny_backbone(patch) -> None:
    patch.setattr(encoders, "build_backbone", build_tiny_backbone)
    patch.setitem(backbones.WIDTHS, "resnet18", 16)


def write_model(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        save_encoder(path, Encoder(EncoderDescription("resnet18", "plain", 3, make_image())))
    return path


def write_clusters(folder: Path, train: Path, labels) -> None:
    schema = pa.schema([("name", pa.string()), ("cluster", pa.int32())])
    with table_writer(folder / "assignments.parquet", schema) as table:
        for row, (identity, camera) in enumerate(labels):
            table.append({"name": f"{identity:04d}_c{camera}_{row}.png", "cluster": int(identity == 13)})
    row = {"k": 2, "silhouette_full_dimension": 0.25, "silhouette_two_components": 0.5}
    write_json(folder / "silhouette.json", {"sweep": [row]})


def write_generated(path: Path) -> Path:
    with table_writer(path, GENERATED) as table:
        for row in range(70):
            index = [0, 1] if row < 50 else [2]
            table.append(
                {
                    "image": person(row % 3, row),
                    "name": f"g{int(row >= 50)}_{row:05d}.jpg",
                    "cluster": int(row >= 50),
                    "label_index": index,
                    "label_weight": [1 / len(index)] * len(index),
                    "nearest_index": [2],
                    "nearest_weight": [1.0],
                }
            )
    return path
