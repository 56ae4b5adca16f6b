"""Small checkpoints and features for the tests of the commands that use a model."""

from pathlib import Path

import numpy as np
import torch
from tiny import make_image

from slsr.embedding.files import NamedFeatures, Origin
from slsr.models.encoder import Encoder, EncoderDescription, save_encoder

ORIGIN = Origin("a" * 64, True, "model.safetensors")


def write_model(path: Path, seed: int = 0, **image) -> Path:
    """Write a checkpoint with batch statistics of random images; it is tiny if the test uses `tiny_backbone`."""
    torch.manual_seed(seed)
    network = Encoder(EncoderDescription("resnet18", "plain", 5, make_image(**image)))
    network.train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(path, network.eval())
    return path


def drawn_features(count, dimension=16, seed=0, people=20, noise=0.5):
    """Features of length 1, float32 [count, dimension], with one center per person."""
    random = np.random.default_rng(seed)
    centers = np.random.default_rng(99).standard_normal((people, dimension))
    features = centers[np.arange(count) % people] + noise * random.standard_normal((count, dimension))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def named(features, prefix="image", labeled=True):
    """Features with names `<prefix>-<row>`, with or without labels."""
    numbers = np.arange(len(features))
    names = [f"{prefix}-{number}" for number in numbers]
    return NamedFeatures(features, names, numbers % 20 if labeled else None, numbers % 7 if labeled else None)
