"""Pictures that a visitor uploads: checked, kept in memory for a while, and never written to disk."""

from __future__ import annotations

import secrets
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock

from PIL import Image

from slsr.embedding.pictures import open_picture
from slsr.explore.image_table import shrink
from slsr.retrieval.distances import Features

MAXIMUM_BYTES = 20 * 2**20
KEPT = 32
KEPT_SIZE = (512, 512)
NAME_LENGTH = 60
TOO_LARGE = f"The file is larger than {MAXIMUM_BYTES // 2**20} MB; crop it to the person or make it smaller."


@dataclass(frozen=True, eq=False)
class Upload:
    """A picture to search with: its name, for display only, at most 512x512 pixels, and its feature by each model."""

    key: str
    name: str
    image: Image.Image
    features: Sequence[Features]


class Uploads:
    """The last `KEPT` uploads; older ones are forgotten."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Upload] = OrderedDict()
        self._lock = Lock()
        # One thread instead of a lock, since the C library keeps freed memory separately for each thread.
        self._reader = ThreadPoolExecutor(1)

    def __len__(self) -> int:
        return len(self._kept)

    def receive(self, content: bytes, name: str, embed: Callable[[Image.Image], Sequence[Features]]) -> Upload:
        """Decode a picture, embed it and keep it; one picture at a time, as a large one takes much memory.

        Raises
        ------
        InputError
            As `read_upload`.
        """
        return self._reader.submit(self._received, content, name, embed).result()

    def _received(self, content: bytes, name: str, embed: Callable[[Image.Image], Sequence[Features]]) -> Upload:
        image = read_upload(content, name)
        return self.add(name, image, embed(image))

    def add(self, name: str, image: Image.Image, features: Sequence[Features]) -> Upload:
        """Keep a picture under a key that cannot be guessed."""
        upload = Upload(secrets.token_hex(16), displayed_name(name), shrink(image, KEPT_SIZE), features)
        with self._lock:
            self._kept[upload.key] = upload
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return upload

    def get(self, key: str) -> Upload | None:
        """Return the upload of this key; None if it is no longer kept."""
        with self._lock:
            return self._kept.get(key)


def read_upload(content: bytes, name: str) -> Image.Image:
    """Decode an uploaded picture as upright RGB.

    Raises
    ------
    InputError
        The bytes are not an image, are cut off, or decode to more pixels than `slsr.images.decoding` allows.
    """
    return open_picture(content, displayed_name(name))


def displayed_name(name: str) -> str:
    """Return the last part of a file name, printable and at most `NAME_LENGTH` long; it is shown, never opened."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(letter for letter in last if unicodedata.category(letter)[0] != "C").strip()
    return printable[:NAME_LENGTH] or "picture"
