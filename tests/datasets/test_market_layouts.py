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
        thumbs, readme = "Market/bounding_box_train/Thumbs.db", "Market/readme.txt"
        assert collection.ignored == {"*.txt": [readme], "Thumbs.db": [thumbs]}
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
    tests = {name: content for name, content in duke_files().items() if "train" not in name}
    assert recognize(write_zip(tmp_path / "t.zip", tests)) == variant("dukemtmc")
    assert recognize(write_zip(tmp_path / "np.zip", np_files())) == variant("cuhk03", "np", "detected")
    labeled = {name: content for name, content in np_files().items() if "labeled" in name}
    assert recognize(write_zip(tmp_path / "l.zip", labeled)) == variant("cuhk03", "np", "labeled")


def test_recognize_says_what_it_found(tmp_path):
    path = write_zip(tmp_path / "x.zip", {"holiday/a.jpg": b"", "holiday/b.txt": b""})
    with pytest.raises(InputError, match=r"x\.zip: none of the data sets .*2 files, 1 of them images, in holiday"):
        recognize(path)


@pytest.mark.parametrize(
    ("root", "images", "boxes"), [("", 4, "detected"), ("np/", 4, "detected"), ("", 7368, "labeled")]
)
def test_np_folders_that_do_not_name_their_boxes(tmp_path, root, images, boxes):
    files = {root + name.split("/detected/")[1]: b"" for name in np_files() if "/detected/" in name}
    files |= {f"{root}bounding_box_train/{n:04d}_c1_9.png": b"" for n in range(10, 10 + images - 4)}
    path = write_zip(tmp_path / "np.zip", files)
    assert recognize(path) == variant("cuhk03", "np", boxes)
    with open_collection(path, variant("cuhk03", "np", boxes), tmp_path) as collection:
        assert len(collection.entries) == images + 8
        assert {entry.camera for entry in collection.entries} == {1, 2}
        assert collection.notes == [
            f"no folder says whether the boxes are detected or labeled: they are taken as {boxes}"
        ]


def msmt17_files(train="train", test="test"):
    """Three training people (one of them in the validation list too) and two test people; both halves begin with 0."""
    lists = {
        "list_train.txt": [(0, 0, 1), (0, 1, 15), (1, 0, 3)],
        "list_val.txt": [(1, 1, 4), (2, 0, 5)],
        "list_query.txt": [(0, 0, 1), (1, 0, 2)],
        "list_gallery.txt": [(0, 1, 2), (1, 1, 2), (1, 2, 7)],
    }
    files = {}
    for name, images in lists.items():
        lines = [f"{i:04d}/{i:04d}_{n:03d}_{c:02d}_0303morning_0015_{n}.jpg {i}" for i, n, c in images]
        files[f"MSMT17_V1/{name}"] = ("\n".join(lines) + "\n").encode()
        folder = train if name in ("list_train.txt", "list_val.txt") else test
        files |= {f"MSMT17_V1/{folder}/{line.split()[0]}": picture(len(files) + n) for n, line in enumerate(lines)}
    return files


@pytest.mark.parametrize("folders", [("train", "test"), ("mask_train_v2", "mask_test_v2")])
def test_msmt17(tmp_path, folders):
    path = write_folder(tmp_path / "unpacked", msmt17_files(*folders))
    assert recognize(path) == variant("msmt17")
    with open_collection(path, variant("msmt17"), tmp_path) as collection:
        found = sorted((entry.split, entry.identity, entry.camera) for entry in collection.entries)
        assert not collection.ignored
    assert found == [
        *(("gallery", 4, 2), ("gallery", 5, 2), ("gallery", 5, 7), ("query", 4, 1), ("query", 5, 2)),
        *(("train", 1, 1), ("train", 1, 15), ("train", 2, 3), ("train", 2, 4), ("train", 3, 5)),
    ]


@pytest.mark.parametrize(
    ("line", "message"), [(b"0000/x.jpg 0", "no file 0000/x.jpg"), (b"0000/x.jpg", "not the name")]
)
def test_a_bad_line_of_msmt17_is_named(tmp_path, line, message):
    path = write_folder(tmp_path / "m", msmt17_files() | {"MSMT17_V1/list_val.txt": b"\n" + line})
    with (
        pytest.raises(InputError, match=f"MSMT17_V1/list_val.txt, line 2: .*{message}"),
        open_collection(path, variant("msmt17"), tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("files", "row"),
    [
        (
            ["image_train/0001_c001_1.jpg", "image_test/0002_c012_1.jpg", "image_query/0002_c001_1.jpg"],
            "image_query/0002_c001_1.jpg,2,1,query",
        ),
        (
            [f"{part}/0002_3_c5_9.png" for part in ("bounding_box_train", "bounding_box_test", "query")],
            "bounding_box_test/0002_3_c5_9.png,2,5,gallery",
        ),
        (["photos/x.jpg"], "photos/x.jpg,IDENTITY,CAMERA,train"),
    ],
)
def test_a_layout_that_is_not_read_gets_the_row_of_a_table(tmp_path, files, row):
    path = write_folder(tmp_path / "other", {name: picture(n) for n, name in enumerate(files)})
    with pytest.raises(InputError) as raised, open_collection(path, recognize(path), tmp_path):
        pass
    assert f"its first line is `path,identity,camera,split`, then one row per image, here `{row}`" in str(raised.value)


def test_a_folder_with_an_archive_names_the_archive(tmp_path):
    path = write_zip(tmp_path / "folder/Market.zip", market_files())
    with pytest.raises(InputError, match=rf"it contains an archive: give {path}"):
        recognize(tmp_path / "folder")
