"""The data sets that can be read, with their published archives, checksums and counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from slsr.params.dataset import DatasetName


@dataclass(frozen=True)
class Counts:
    """Published counts of one part of a split; None if no number was published."""

    images: int | None
    identities: int
    junk: int = 0
    distractors: int = 0


@dataclass(frozen=True)
class CatalogEntry:
    """One data set, or one way to pack images of one's own.

    Attributes
    ----------
    archive
        The file name that its authors gave it, and that the presets use.
    md5
        The checksum of that file; "" if none was published. Another checksum is not an error, because archives are
        often packed again.
    published
        Counts of train (validation images included), query and gallery, by protocol and boxes. Both are None if the
        data set has only one.
    remark
        What a user must know before using it.
    """

    title: str
    archive: str = ""
    md5: str = ""
    published: Mapping[tuple[str | None, str | None], Mapping[str, Counts]] = field(default_factory=dict)
    remark: str = ""


CUHK03_CLASSIC = {"train": Counts(None, 1367), "query": Counts(None, 100), "gallery": Counts(None, 100)}

CATALOG: Mapping[DatasetName, CatalogEntry] = {
    "market1501": CatalogEntry(
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
    ),
    "dukemtmc": CatalogEntry(
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
        "withdrawn by its authors: only for people who lawfully hold a copy",
    ),
    "cuhk03": CatalogEntry(
        "CUHK03",
        "cuhk03_release.zip",
        "728939e58ad9f0ff53e521857dd8fb43",
        {
            ("classic", "detected"): CUHK03_CLASSIC,
            ("classic", "labeled"): CUHK03_CLASSIC,
            ("np", "detected"): {"train": Counts(7365, 767), "query": Counts(1400, 700), "gallery": Counts(5332, 700)},
            ("np", "labeled"): {"train": Counts(7368, 767), "query": Counts(1400, 700), "gallery": Counts(5328, 700)},
        },
    ),
    "msmt17": CatalogEntry(
        "MSMT17",
        "MSMT17.zip",
        published={
            (None, None): {
                "train": Counts(32621, 1041),
                "query": Counts(11659, 3060),
                "gallery": Counts(82161, 3060),
            }
        },
        remark="published as a tar file: unpack it and give the folder",
    ),
    "viper": CatalogEntry(
        "VIPeR",
        "VIPeR.v1.0.zip",
        "1c2d9fc1cc800332567a0da25a1ce68c",
        {(None, None): {"train": Counts(632, 316), "query": Counts(632, 316), "gallery": Counts(632, 316)}},
    ),
    "table": CatalogEntry("your own images with a table"),
    "folder": CatalogEntry("your own images in folders"),
}
