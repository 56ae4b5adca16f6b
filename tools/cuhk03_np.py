"""Write src/slsr/datasets/cuhk03_np.json from the published configuration files of CUHK03's new protocol.

    python tools/cuhk03_np.py cuhk03_new_protocol_config_detected.mat cuhk03_new_protocol_config_labeled.mat

The files are those of github.com/zhunzhong07/person-re-ranking (folder evaluation/data/CUHK03). What they say are
facts about a data set: which image belongs to which side of the split.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from scipy.io import loadmat

SOURCE = (
    "cuhk03_new_protocol_config_{detected,labeled}.mat of github.com/zhunzhong07/person-re-ranking: Zhong, Zheng, Cao "
    "and Li, Re-ranking person re-identification with k-reciprocal encoding, CVPR 2017"
)
MEANING = (
    "of each identity from 1, ten bits, bit 0 for column 1 of the .mat file: `images`, those there are; `query`, those "
    "that are queries (0: a training identity); the other images of a test identity are the gallery"
)


def read_split(path: Path) -> dict[str, list[int]]:
    """The bits of every identity, from one configuration file."""
    config = loadmat(path)
    names = [str(name[0]) for name in config["filelist"].ravel()]
    identities = config["labels"].ravel().astype(int)
    masks = {part: [0] * identities.max() for part in ("images", "query", "train", "gallery")}
    columns = [int(name.removesuffix(".png").rsplit("_", 1)[1]) for name in names]
    for part in ("query", "train", "gallery"):
        for row in config[f"{part}_idx"].ravel() - 1:
            masks[part][identities[row] - 1] |= 1 << (columns[row] - 1)
    for row, column in enumerate(columns):
        masks["images"][identities[row] - 1] |= 1 << (column - 1)
    for images, query, train, gallery in zip(*masks.values(), strict=True):
        if images != query + gallery + train or (train and query + gallery):
            sys.exit(f"{path}: the split is not what the compact form can say")
    return {part: masks[part] for part in ("images", "query")}


def main(detected: str, labeled: str) -> None:
    """Write the compact form."""
    boxes = {"detected": read_split(Path(detected)), "labeled": read_split(Path(labeled))}
    target = Path(__file__).parents[1] / "src/slsr/datasets/cuhk03_np.json"
    lists = json.dumps({"source": SOURCE, "meaning": MEANING, "boxes": boxes})
    target.write_text(lists.replace('], "', '],\n"').replace('": {"', '": {\n"') + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
