"""What every reader returns: the images of an archive with their split, identity and camera."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "query", "gallery", "multi_query"]
SPLITS: tuple[Split, ...] = ("train", "query", "gallery", "multi_query")

JUNK = -1
DISTRACTOR = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One image.

    Attributes
    ----------
    name
        Unique within the split; tables are sorted by it.
    identity
        The data set's own number; in the gallery, -1 is junk and 0 a distractor.
    source
        What the collection's `read` takes to return the encoded image.
    size
        About how many bytes the encoded image has.
    group
        Images taken together (a tracklet, a burst): held out for validation together. None: the image stands alone.
    """

    split: Split
    name: str
    identity: int
    camera: int
    source: str
    size: int
    group: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """How query is to be ranked against gallery.

    Attributes
    ----------
    protocol
        `cross-camera`: each query against the gallery without junk and without images of its identity and camera.
        `single-gallery-shot`: the gallery holds one image of each identity, drawn anew many times.
    directions
        `one`: all queries against the whole gallery. `both`: queries of the lower camera against gallery images
        of the higher one, then the other way round, and the mean of the two.
    """

    protocol: Literal["cross-camera", "single-gallery-shot"] = "cross-camera"
    directions: Literal["one", "both"] = "one"


@dataclass(frozen=True)
class Collection:
    """The images of an archive.

    Attributes
    ----------
    origin
        The archive's path, for messages.
    read
        Encoded bytes of an entry's `source`; may be called from several threads.
    ignored
        Number of files that are no images of the data set, by kind.
    own
        The user's own split: a query whose identity the gallery lacks is then an error instead of a count.
    notes
        What a user should know about how the archive was understood.
    """

    origin: str
    entries: Sequence[Entry]
    read: Callable[[str], bytes]
    evaluation: Evaluation = field(default_factory=Evaluation)
    ignored: Mapping[str, int] = field(default_factory=dict)
    own: bool = False
    notes: Sequence[str] = ()


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
