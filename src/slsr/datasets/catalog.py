"""What is published about each data set: its archive, its checksum, its counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Name = Literal["market1501", "dukemtmc", "cuhk03", "viper", "table", "folder"]


@dataclass(frozen=True)
class Counts:
    """Published numbers of one part of a split; None where nothing was published."""

    images: int | None
    identities: int
    junk: int = 0
    distractors: int = 0


@dataclass(frozen=True)
class DataSet:
    """One data set, or one form of the user's own.

    Attributes
    ----------
    archive
        The file name its authors gave it, which the presets use.
    md5
        Of that file. Another one is no error: archives get packed anew.
    published
        Counts of train (validation images included), query and gallery, by protocol and boxes (None and None where
        the data set has but one split).
    remark
        What a user must know before using it.
    """

    title: str
    archive: str = ""
    md5: str = ""
    published: Mapping[tuple[str | None, str | None], Mapping[str, Counts]] = field(default_factory=dict)
    remark: str = ""


RESEARCH = "shows real people, for research only: it stays in data/ and is pushed to no remote"

CATALOG: Mapping[Name, DataSet] = {
    "market1501": DataSet(
        "Market-1501",
        "Market-1501-v15.09.15.zip",
        "65005ab7d12ec1c44de4eeafe813e68a",
        {
            (None, None): {
                "train": Counts(12936, 751),
                "query": Counts(3368, 750),
                "gallery": Counts(19732, 750, junk=3819, distractors=2798),
            }
        },
        RESEARCH,
    ),
    "dukemtmc": DataSet(
        "DukeMTMC-reID",
        "DukeMTMC-reID.zip",
        "2f93496f9b516d1ee5ef51c1d5e7d601",
        {
            (None, None): {
                "train": Counts(16522, 702),
                "query": Counts(2228, 702),
                "gallery": Counts(17661, 702 + 408),
            }
        },
        "withdrawn by its authors: only for those who hold a copy lawfully; " + RESEARCH,
    ),
    "cuhk03": DataSet(
        "CUHK03",
        "cuhk03_release.zip",
        "728939e58ad9f0ff53e521857dd8fb43",
        {
            ("classic", "detected"): {
                "train": Counts(None, 1367),
                "query": Counts(None, 100),
                "gallery": Counts(None, 100),
            },
            ("classic", "labeled"): {
                "train": Counts(None, 1367),
                "query": Counts(None, 100),
                "gallery": Counts(None, 100),
            },
            ("np", "detected"): {"train": Counts(7365, 767), "query": Counts(1400, 700), "gallery": Counts(5332, 700)},
            ("np", "labeled"): {"train": Counts(7368, 767), "query": Counts(1400, 700), "gallery": Counts(5328, 700)},
        },
        RESEARCH,
    ),
    "viper": DataSet(
        "VIPeR",
        "VIPeR.v1.0.zip",
        "1c2d9fc1cc800332567a0da25a1ce68c",
        {(None, None): {"train": Counts(632, 316), "query": Counts(632, 316), "gallery": Counts(632, 316)}},
        RESEARCH,
    ),
    "table": DataSet("own images with a table"),
    "folder": DataSet("own images in folders of folders"),
}
