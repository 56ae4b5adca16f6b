import io
import tracemalloc
import zipfile
from collections import Counter

import numpy as np
import pytest
from builders import cuhk03_pixels, golden, small_cells, variant, write_cuhk03_mat, write_zip
from PIL import Image
from scipy.io import loadmat, savemat

from slsr.datasets.collection import EvaluationProtocol
from slsr.datasets.opening import open_collection, recognize
from slsr.datasets.readers.cuhk03 import load_np_split
from slsr.errors import InputError

PAIRS = (843, 440, 77, 58, 49)
CLASSIC = variant("cuhk03", "classic", "detected", 2)


@pytest.fixture
def small(tmp_path):
    cells = {"detected": small_cells(), "labeled": [np.ones((people, 10), dtype=bool) for people in (3, 1, 2)]}
    return write_cuhk03_mat(tmp_path / "cuhk-03.mat", cells, [[(1, 1), (2, 1)], [(1, 2), (3, 2)]])


def published_cells(boxes):
    """The positions of images in the published split: five boolean arrays [people, 10]."""
    bits = np.array(load_np_split()[boxes]["images"])[:, None] >> np.arange(10) & 1
    return np.split(bits.astype(bool), np.cumsum(PAIRS)[:-1])


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    path = tmp_path_factory.mktemp("cuhk03") / "cuhk-03.mat"
    return write_cuhk03_mat(
        path, {boxes: published_cells(boxes) for boxes in ("detected", "labeled")}, [[(1, 1), (5, 49)]]
    )


def test_classic_split(small, tmp_path):
    with open_collection(small, CLASSIC, tmp_path) as collection:
        entries = collection.entries
        assert collection.evaluation == EvaluationProtocol("single-gallery-shot", "both")
    images = {split: [entry for entry in entries if entry.split == split] for split in ("train", "query", "gallery")}
    assert {entry.identity for entry in images["train"]} == {1, 3, 4, 5}
    assert {entry.identity for entry in images["query"]} == {2, 6}, "pair 1 person 2, and pair 3 person 2"
    assert [entry.name for entry in images["query"]] == [entry.name for entry in images["gallery"]]
    assert [entry.name for entry in images["query"]][:8] == [
        *(f"1_002_1_{number:02d}.png" for number in (2, 3, 4, 5)),
        *(f"1_002_2_{number:02d}.png" for number in (6, 8, 9, 10)),
    ]
    assert all(entry.camera == int(entry.name.split("_")[2]) for entry in entries)


def test_pixels_come_out_as_matlab_showed_them(small, tmp_path):
    with open_collection(small, variant("cuhk03", "classic", "labeled", 1), tmp_path) as collection:
        for name, number in (("1_001_1_01.png", 0), ("1_002_1_01.png", 10), ("3_001_2_10.png", 49 % 40)):
            pixels = np.asarray(Image.open(io.BytesIO(collection.read(name))))
            np.testing.assert_array_equal(pixels, cuhk03_pixels(number))


def test_split_that_the_file_lacks(small, tmp_path):
    with (
        pytest.raises(InputError, match=r"dataset.split: 3, but .*cuhk-03\.mat has the test sets 1 to 2"),
        open_collection(small, variant("cuhk03", "classic", "detected", 3), tmp_path),
    ):
        pass


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_mat_in_its_zip(small, tmp_path, compression):
    files = {"cuhk03_release/README.md": b"", "cuhk03_release/cuhk-03.mat": small.read_bytes()}
    path = write_zip(tmp_path / "cuhk03_release.zip", files, compression)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert recognize(path) == recognize(small) == variant("cuhk03", "classic", "detected", 1)
    with open_collection(path, CLASSIC, scratch) as packed, open_collection(small, CLASSIC, scratch) as plain:
        assert packed.entries == plain.entries
        assert packed.read("1_001_1_01.png") == plain.read("1_001_1_01.png")
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(("boxes", "counts"), [("detected", (7365, 1400, 5332)), ("labeled", (7368, 1400, 5328))])
def test_new_protocol_of_the_full_file(full, tmp_path, boxes, counts):
    with open_collection(full, variant("cuhk03", "np", boxes), tmp_path) as collection:
        entries = collection.entries
        assert collection.evaluation == EvaluationProtocol("cross-camera", "one")
    found = Counter(entry.split for entry in entries)
    assert (found["train"], found["query"], found["gallery"]) == counts
    people = {split: {entry.identity for entry in entries if entry.split == split} for split in found}
    assert len(people["train"]) == 767
    assert len(people["query"]) == 700
    assert people["query"] == people["gallery"]


@pytest.mark.real_data
@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_new_protocol_against_the_published_file(full, tmp_path, boxes):
    config = loadmat(golden(f"cuhk03_new_protocol_config_{boxes}.mat"))
    names = [str(name[0]) for name in config["filelist"].ravel()]
    expected = {
        (split, names[row], int(config["labels"].ravel()[row]), int(config["camId"].ravel()[row]))
        for split in ("train", "query", "gallery")
        for row in config[f"{split}_idx"].ravel() - 1
    }
    with open_collection(full, variant("cuhk03", "np", boxes), tmp_path) as collection:
        assert {(e.split, e.name, e.identity, e.camera) for e in collection.entries} == expected


def test_new_protocol_needs_exactly_the_published_images(small, tmp_path):
    with (
        pytest.raises(InputError, match=r"cuhk-03\.mat: 6 people.*use dataset.protocol: classic"),
        open_collection(small, variant("cuhk03", "np", "detected"), tmp_path),
    ):
        pass


def test_one_missing_image_is_noticed(tmp_path):
    cells = published_cells("detected")
    cells[3][7, 0] = False
    path = write_cuhk03_mat(tmp_path / "cuhk-03.mat", {"detected": cells}, [])
    with (
        pytest.raises(InputError, match="1467 people, of whom 1 have other detected images"),
        open_collection(path, variant("cuhk03", "np", "detected"), tmp_path),
    ):
        pass


def test_old_mat(tmp_path):
    path = tmp_path / "cuhk-03.mat"
    savemat(path, {"detected": np.zeros(3)})
    with (
        pytest.raises(InputError, match=r"cuhk-03\.mat: a \.mat file of MATLAB v5"),
        open_collection(path, CLASSIC, tmp_path),
    ):
        pass


def test_half_a_mat(small, tmp_path):
    small.write_bytes(small.read_bytes()[:4000])
    with pytest.raises(InputError, match=r"cuhk-03\.mat: .*cut off"), open_collection(small, CLASSIC, tmp_path):
        pass


def test_another_mat(tmp_path):
    path = write_cuhk03_mat(tmp_path / "other.mat", {"faces": small_cells()}, [])
    with (
        pytest.raises(InputError, match=r"other\.mat: not laid out as cuhk-03\.mat"),
        open_collection(path, CLASSIC, tmp_path),
    ):
        pass


def test_mat_as_another_data_set(small, tmp_path):
    with (
        pytest.raises(InputError, match=r"read as CUHK03 only; correct dataset\.name"),
        open_collection(small, variant("market1501"), tmp_path),
    ):
        pass


def test_no_room_to_unpack(small, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "c.zip", {"cuhk-03.mat": small.read_bytes()})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="needed to unpack"), open_collection(path, CLASSIC, tmp_path):
        pass


def test_images_are_read_one_at_a_time(tmp_path, monkeypatch):
    """Only a few images are in memory, however many the file has."""
    monkeypatch.setattr("builders.cuhk03_pixels", lambda number: np.full((600, 400, 3), number, np.uint8))
    path = write_cuhk03_mat(tmp_path / "cuhk-03.mat", {"detected": small_cells()}, [[(1, 1)], [(1, 2)]])
    one = 600 * 400 * 3
    tracemalloc.start()
    try:
        with open_collection(path, CLASSIC, tmp_path) as collection:
            assert all(entry.size == one for entry in collection.entries)
            total = sum(len(collection.read(entry.source)) > 0 for entry in collection.entries) * one
            _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total > 40 * one
    assert one <= peak < 8 * one
