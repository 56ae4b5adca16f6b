"""Pictures that a visitor drops on the page: checked, kept in memory for a while, never written anywhere."""

from __future__ import annotations

import secrets
import unicodedata
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from PIL import Image, ImageOps

from slsr.explore.gallery import shrink
from slsr.explore.rankings import Features
from slsr.images.decoding import open_image, to_rgb

MAXIMUM_BYTES = 20 * 2**20
KEPT = 32
KEPT_SIZE = (512, 512)
NAME_LENGTH = 60


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture to search with: its name for display alone, at most 512x512 pixels of it, its feature by each model."""

    key: str
    name: str
    image: Image.Image
    features: Sequence[Features]


class Uploads:
    """The last `KEPT` uploads; older ones are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = Lock()

    def add(self, name: str, image: Image.Image, features: Sequence[Features]) -> Upload:
        """Keep a picture under a key that cannot be guessed."""
        upload = Upload(secrets.token_hex(16), displayed_name(name), shrink(image, KEPT_SIZE), features)
        with self._lock:
            self._kept[upload.key] = upload
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return upload

    def get(self, key: str) -> Upload | None:
        """The upload of this key, if it is still kept."""
        with self._lock:
            return self._kept.get(key)


def read_upload(content: bytes, name: str) -> Image.Image:
    """Decode an uploaded picture, upright as its camera held it, in RGB.

    Raises
    ------
    InputError
        The bytes are no image, are cut off, or decode to more pixels than `slsr.images.decoding` allows.
    """
    image = open_image(content, displayed_name(name))
    return to_rgb(_upright(image), displayed_name(name))


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF orientation says; as it is where that cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata raise errors of many kinds, and the pixels are good without them
        return image


def displayed_name(name: str) -> str:
    """The last part of a file name, without what does not print, cut to `NAME_LENGTH`; it is shown, never opened."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return printable[:NAME_LENGTH] or "picture"
