from pathlib import Path

import numpy as np
import pytest
import torch
from clustered_project import CLUSTERS, LABELS, MEMBERS, write_identities
from threadpoolctl import threadpool_limits
from tiny import colored, encode, make_image

from slsr.files import write_npy
from slsr.images.tables import TRAINING, table_writer
from slsr.models.encoder import Encoder, EncoderDescription, save_encoder
from slsr.stages.cluster import ASSIGNMENT
from slsr.stages.paths import ASSIGNMENTS, ENCODER_MODEL, TRAIN_FEATURES, TRAIN_TABLE


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_backbone) -> Path:
    """A folder as the stages before leave it: 42 images of 6 people in two clusters, features, an encoder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    names = [f"{row:02d}.png" for row in range(len(LABELS))]
    with table_writer(TRAIN_TABLE, TRAINING) as table:
        for name, label, pixels in zip(names, LABELS, colored(LABELS.tolist()).pixels.numpy(), strict=True):
            table.append({"image": encode(pixels), "name": name, "identity": label + 10, "camera": 1, "label": label})
    with table_writer(ASSIGNMENTS, ASSIGNMENT) as table:
        for name, label, cluster in zip(names, LABELS, CLUSTERS, strict=True):
            table.append({"name": name, "identity": label + 10, "label": label, "cluster": cluster})
    write_identities(MEMBERS)
    features = np.random.default_rng(1).normal(0, 1, (42, 16)) + CLUSTERS[:, None]
    write_npy(TRAIN_FEATURES, features.astype(np.float32))
    torch.manual_seed(1)
    save_encoder(ENCODER_MODEL, Encoder(EncoderDescription("resnet18", "plain", 6, make_image())))
    with threadpool_limits(1):
        yield tmp_path
    torch.set_num_threads(threads)
