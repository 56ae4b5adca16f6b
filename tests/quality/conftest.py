"""Drawn people, whose images are degraded."""

import re
import zipfile

import pytest

from slsr.images.decoding import decode_resized
from slsr.sample import draw_archive


@pytest.fixture(scope="session")
def drawn_people(tmp_path_factory):
    """Training images of the drawn sample, uint8 [N, 64, 32, 3]."""
    path = tmp_path_factory.mktemp("drawn") / "sample.zip"
    draw_archive(path, seed=3, people=8)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if re.search(r"bounding_box_train/.*\.jpg$", name)]
        return decode_resized([archive.read(name) for name in names], 64, 32)
