"""What every reader returns: the images of an archive with their split, identity and camera."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

Split = Literal["train", "query", "gallery", "multi_query"]
ProtocolName = Literal["cross-camera", "single-gallery-shot"]
Directions = Literal["one", "both"]
Cameras = Literal["known", "unknown"]
SPLITS: tuple[Split, ...] = ("train", "query", "gallery", "multi_query")

TABLE_SUFFIX = ".parquet"  # of a table of images
JUNK = -1
DISTRACTOR = 0
UNKNOWN_CAMERA = -1  # it differs from every camera, also from another unknown one
CAMERAS_UNKNOWN = (
    "Cameras are unknown: images of the query's own camera count as right matches, so that every number is higher than "
    "with known cameras."
)
LARGEST_IDENTITY = 2**31 - 1
LARGEST_CAMERA = 2**15 - 1


@dataclass(frozen=True, slots=True)
class Entry:
    """One image.

    Attributes
    ----------
    name
        Unique within the split; tables are sorted by it.
    identity
        The number that the data set gives the person; in the gallery, -1 is junk and 0 a distractor.
    camera
        The number of the camera; -1 if nothing says which one it was.
    source
        What the collection's `read` takes to return the encoded image.
    size
        The approximate number of bytes of the encoded image.
    group
        Images taken together (a tracklet, a burst) have one group and are held out for validation together.
        None: the image belongs to no group.
    """

    split: Split
    name: str
    identity: int
    camera: int
    source: str
    size: int
    group: str | None = None


@dataclass(frozen=True)
class EvaluationProtocol:
    """How the queries are ranked against the gallery.

    Attributes
    ----------
    protocol
        `cross-camera`: each query against the gallery without junk and without images of its identity and camera.
        `single-gallery-shot`: the gallery holds one image of each identity, drawn anew many times.
    directions
        `one`: all queries against the whole gallery. `both`: queries of the lower camera against gallery images
        of the higher one, then the other way round, and the mean of the two.
    cameras
        `unknown`: nothing says which camera took some of the test images. Each of these counts as taken by a camera of
        its own: it is never left out as "seen by the query's camera".
    """

    protocol: ProtocolName = "cross-camera"
    directions: Directions = "one"
    cameras: Cameras = "known"


@dataclass(frozen=True)
class Collection:
    """The images of an archive.

    Attributes
    ----------
    origin
        The archive's path, for messages.
    read
        A function from an entry's `source` to its encoded bytes; several threads may call it.
    evaluation
        The protocol of the data set.
    ignored
        The names of files that are not images of the data set, by kind; see `slsr.images.listing.unused_files`.
    own
        Whether the user made the split. A query whose identity is not in the gallery is then an error; in published
        data sets such queries are counted.
    notes
        What a user should know about how the archive was understood.
    """

    origin: str
    entries: Sequence[Entry]
    read: Callable[[str], bytes]
    evaluation: EvaluationProtocol = field(default_factory=EvaluationProtocol)
    ignored: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: bool = False
    notes: Sequence[str] = ()

    def without(self, sources: Container[str]) -> Collection:
        """Return the collection without the images of some sources."""
        return replace(self, entries=[entry for entry in self.entries if entry.source not in sources])

    def without_camera(self) -> list[Entry]:
        """List the test images of which nothing says the camera."""
        return [entry for entry in self.entries if entry.split != "train" and entry.camera == UNKNOWN_CAMERA]

    def marked(self) -> Collection:
        """Return the collection with `evaluation.cameras: unknown` if the camera of a test image is unknown."""
        return replace(self, evaluation=replace(self.evaluation, cameras="unknown")) if self.without_camera() else self


def counted(count: int, noun: str, plural: str = "") -> str:
    """Write a number with its noun: `1 image`, `2 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def seen_by_another_camera(queries: Sequence[Entry], gallery: Sequence[Entry]) -> list[bool]:
    """Say for each query whether the gallery has an image of its identity by another camera, or by an unknown one."""
    cameras: dict[int, set[int]] = {}
    for entry in gallery:
        cameras.setdefault(entry.identity, set()).add(entry.camera)
    return [bool(cameras.get(entry.identity, set()) - ({entry.camera} - {UNKNOWN_CAMERA})) for entry in queries]
