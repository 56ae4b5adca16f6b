"""Market-1501, DukeMTMC-reID and CUHK03-NP: three data sets in one layout."""

import pytest
from builders import duke_files, golden, market_files, np_files, picture, real_archive, variant, write_folder, write_zip
from scipy.io import loadmat

from slsr.datasets.collection import EvaluationProtocol
from slsr.datasets.opening import open_collection, recognize
from slsr.errors import InputError


def summary(collection):
    return sorted((entry.split, entry.name, entry.identity, entry.camera) for entry in collection.entries)


def test_market(tmp_path):
    with open_collection(write_zip(tmp_path / "m.zip", market_files()), variant("market1501"), tmp_path) as collection:
        found = summary(collection)
        assert len(found) == 9 + 4 + 8 + 6
        assert ("train", "0007_c2s1_000005_01.jpg", 7, 2) in found
        assert ("gallery", "-1_c1s1_000401_03.jpg", -1, 1) in found
        assert ("gallery", "0000_c2s1_000451_04.jpg.jpg", 0, 2) in found
        assert ("multi_query", "0005_c2s1_000003_00.jpg", 5, 2) in found
        assert collection.ignored == {"*.txt": 1, "Thumbs.db": 1}
        assert collection.evaluation == EvaluationProtocol("cross-camera", "one")
        for entry in collection.entries:
            assert collection.read(entry.source) == market_files()[entry.source]
            assert entry.size == len(market_files()[entry.source])


@pytest.mark.parametrize("root", ["", "deep/er/"])
def test_market_at_any_depth_and_unpacked(tmp_path, root):
    with open_collection(
        write_folder(tmp_path / "m", market_files(root)), variant("market1501"), tmp_path
    ) as collection:
        assert len(collection.entries) == 27


def test_gt_bbox_is_optional(tmp_path):
    files = {name: content for name, content in market_files().items() if "gt_bbox" not in name}
    with open_collection(write_zip(tmp_path / "m.zip", files), variant("market1501"), tmp_path) as collection:
        assert {entry.split for entry in collection.entries} == {"train", "query", "gallery"}


@pytest.mark.real_data
def test_real_market_against_the_published_lists(tmp_path):
    with open_collection(real_archive(), variant("market1501"), tmp_path) as collection:
        splits = {
            split: sorted((entry for entry in collection.entries if entry.split == split), key=lambda entry: entry.name)
            for split in ("train", "query", "gallery")
        }
    for split, identity, camera in (
        ("train", "train_label", "train_cam"),
        ("query", "queryID", "queryCam"),
        ("gallery", "testID", "testCam"),
    ):
        for attribute, name in (("identity", identity), ("camera", camera)):
            values = next(value for key, value in loadmat(golden(f"{name}.mat")).items() if not key.startswith("__"))
            assert [getattr(entry, attribute) for entry in splits[split]] == values.ravel().astype(int).tolist()


def test_duke(tmp_path):
    with open_collection(write_zip(tmp_path / "d.zip", duke_files()), variant("dukemtmc"), tmp_path) as collection:
        found = summary(collection)
    assert len(found) == 6 + 4 + 9
    assert ("train", "0003_c8_f0000009.jpg", 3, 8) in found
    assert ("gallery", "0090_c7_f0000007.jpg", 90, 7) in found


@pytest.mark.parametrize("boxes", ["detected", "labeled"])
def test_np_folders(tmp_path, boxes):
    path = write_zip(tmp_path / "np.zip", np_files())
    with open_collection(path, variant("cuhk03", "np", boxes), tmp_path) as collection:
        found = summary(collection)
        assert all(boxes in entry.source for entry in collection.entries)
    assert [row[0] for row in found] == ["gallery"] * 4 + ["query"] * 4 + ["train"] * 4
    assert ("query", "0003_c2_2.png", 3, 2) in found


def test_np_folders_have_no_classic_split(tmp_path):
    path = write_zip(tmp_path / "np.zip", np_files())
    choice = variant("cuhk03", "classic", "detected", 1)
    with pytest.raises(InputError, match=r"use dataset\.protocol: np"), open_collection(path, choice, tmp_path):
        pass


@pytest.mark.parametrize(("name", "files"), [("market1501", market_files()), ("dukemtmc", duke_files())])
@pytest.mark.parametrize("suffix", [".png", ".jpeg"])
def test_images_of_other_formats(tmp_path, name, files, suffix):
    files = {file.replace(".jpg", suffix): content for file, content in files.items()}
    path = write_zip(tmp_path / "m.zip", files)
    assert recognize(path) == variant(name)
    with open_collection(path, variant(name), tmp_path) as collection:
        assert {entry.split for entry in collection.entries} >= {"train", "query", "gallery"}


def test_an_archive_in_an_archive_is_named(tmp_path):
    path = write_zip(tmp_path / "drive.zip", {"Market.zip": write_zip(tmp_path / "m.zip", market_files()).read_bytes()})
    with pytest.raises(InputError, match=r"it contains another archive, Market\.zip: unpack it"):
        recognize(path)


def test_wrong_layout_says_what_was_found(tmp_path):
    path = write_zip(tmp_path / "m.zip", {"photos/a.jpg": picture(0), "bounding_box_train/a.jpg": picture(1)})
    with (
        pytest.raises(
            InputError, match=r"m\.zip: not the layout of Market-1501: expected .* found bounding_box_train/, photos/"
        ),
        open_collection(path, variant("market1501"), tmp_path),
    ):
        pass


def test_two_data_sets_in_one_archive(tmp_path):
    path = write_zip(tmp_path / "m.zip", market_files("one/") | market_files("two/"))
    with (
        pytest.raises(InputError, match=r"in several places \(one/, two/\)"),
        open_collection(path, variant("market1501"), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("choice", "files", "example"),
    [
        (variant("market1501"), market_files(), "0002_c1s1_000451_03.jpg"),
        (variant("dukemtmc"), duke_files(), "0005_c2_f0046985.jpg"),
        (variant("cuhk03", "np", "detected"), np_files(), "0003_c1_21.png"),
    ],
)
def test_a_name_without_identity_and_camera_is_refused(tmp_path, choice, files, example):
    bad = next(name for name in files if "bounding_box_test" in name).rpartition("/")[0] + "/person.jpg"
    path = write_zip(tmp_path / "m.zip", files | {bad: picture(0)})
    with pytest.raises(InputError) as raised, open_collection(path, choice, tmp_path):
        pass
    assert bad in str(raised.value)
    assert example in str(raised.value)


def test_recognize(tmp_path):
    assert recognize(write_zip(tmp_path / "m.zip", market_files())) == variant("market1501")
    assert recognize(write_folder(tmp_path / "m", market_files())) == variant("market1501")
    assert recognize(write_zip(tmp_path / "d.zip", duke_files())) == variant("dukemtmc")
    assert recognize(write_zip(tmp_path / "np.zip", np_files())) == variant("cuhk03", "np", "detected")
    labeled = {name: content for name, content in np_files().items() if "labeled" in name}
    assert recognize(write_zip(tmp_path / "l.zip", labeled)) == variant("cuhk03", "np", "labeled")


def test_recognize_says_what_it_found(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"holiday/a.jpg": b"", "holiday/b.txt": b""})
    with pytest.raises(InputError, match=r"x\.zip: none of the data sets .*2 files, 1 of them images, in holiday"):
        recognize(path)
