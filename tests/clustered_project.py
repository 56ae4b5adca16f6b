"""What the stages before `train_gan` write: tiny images of six people in two clusters."""

import numpy as np
from tiny import DEFAULTS

from slsr.files import write_json
from slsr.params.file import Params
from slsr.stages.paths import CLUSTER_IDENTITIES

LABELS = np.arange(6).repeat(7)
# Identity 2 has images in both clusters.
CLUSTERS = np.array([0] * 18 + [1] * 24, np.int32)
MEMBERS = [[0, 1, 2], [2, 3, 4, 5]]


def make_params(**differences) -> Params:
    values = {name: dict(block) for name, block in DEFAULTS.items()}
    values["gan"] |= {"height": 32, "width": 32, "latent": 8, "channels": 4, "batch_size": 8, "epochs": 2}
    values["generate"] |= {"images": 31}
    for block, changes in differences.items():
        values[block] |= changes
    return Params.model_validate(values)


def write_identities(members: list[list[int]]) -> None:
    clusters = [
        {
            "cluster": cluster,
            "images": int((cluster == CLUSTERS).sum()),
            "labels": labels,
            "counts": [int(((label == LABELS) & (cluster == CLUSTERS)).sum()) for label in labels],
        }
        for cluster, labels in enumerate(members)
    ]
    write_json(CLUSTER_IDENTITIES, {"classes": 6, "clusters": clusters})
