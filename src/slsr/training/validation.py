"""Validation by retrieval: people who are not in training, query against gallery, as the test set is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from slsr.embedding.engine import features_of_inputs
from slsr.images.augmentation import to_input
from slsr.images.loading import LabeledImages, load_pixels, read_labels
from slsr.images.tables import column_numpy, read_table
from slsr.models.encoder import Encoder
from slsr.params.base import Precision
from slsr.params.recipe import Image
from slsr.retrieval import Evaluation, Labels, evaluate
from slsr.runtime.devices import autocast
from slsr.runtime.processes import gather_rows, share_of

BATCH = 128


@dataclass(frozen=True)
class HeldOutPeople:
    """The images of people who are not in training.

    Attributes
    ----------
    pixels : uint8 [N, H, W, 3], resized; first the queries, then the gallery
    labels : identities and cameras of both
    """

    pixels: Tensor
    labels: Labels

    def to(self, device: torch.device) -> HeldOutPeople:
        """Copy the images to a device."""
        return HeldOutPeople(self.pixels.to(device), self.labels)


Validation = LabeledImages | HeldOutPeople


def read_validation(path: Path, image: Image) -> Validation | None:
    """Read the validation table of `prepare`: labeled images, or people with queries and gallery; None if empty."""
    table = read_table(path)
    if not len(table):
        return None
    pixels = load_pixels([path], image)
    if "role" not in table.column_names:
        return LabeledImages(pixels, read_labels(path))
    queries = np.array(table.column("role").to_pylist()) == "query"
    identities, cameras = (column_numpy(table, name) for name in ("identity", "camera"))
    labels = Labels(identities[queries], identities[~queries], cameras[queries], cameras[~queries])
    return HeldOutPeople(torch.cat([pixels[queries], pixels[~queries]]), labels)


def evaluate_people(encoder: Encoder, people: HeldOutPeople, image: Image, precision: Precision) -> Evaluation:
    """Rank the gallery for each query by the features f(x) + f(mirrored x), normalized, of the encoder on its device.

    Raises
    ------
    InputError
        A feature is not finite, or is a zero vector.
    """
    features = _features(encoder, people.pixels, image, precision).cpu().numpy()
    count = people.labels.queries
    return evaluate(features[:count], features[count:], people.labels)


@torch.inference_mode()
def _features(encoder: Encoder, pixels: Tensor, image: Image, precision: Precision) -> Tensor:
    """Compute the features of resized images, float32 [N, D]; each process computes a share of them and gets all."""
    encoder.eval()
    blocks = [torch.empty(0, encoder.dimension, device=pixels.device)]  # for a process whose share is empty
    for rows in pixels[share_of(len(pixels))].split(BATCH):
        with autocast(pixels.device, precision):
            blocks.append(features_of_inputs(encoder, to_input(rows, image), flip=True))
    return gather_rows(torch.cat(blocks), len(pixels))
