import io

import numpy as np
import pytest
import scipy.io
from builders import golden, picture, variant, viper_files, write_zip
from PIL import Image

from slsr.datasets.collection import EvaluationProtocol
from slsr.datasets.opening import open_collection, recognize
from slsr.datasets.readers.viper import split_identities
from slsr.errors import InputError


def test_halves_and_both_cameras(tmp_path):
    path = write_zip(tmp_path / "v.zip", viper_files(8))
    assert recognize(path) == variant("viper", split=1)
    with open_collection(path, variant("viper", split=3), tmp_path) as collection:
        entries = collection.entries
        assert collection.evaluation == EvaluationProtocol("single-gallery-shot", "both")
        assert collection.read(entries[0].source) == viper_files(8)[entries[0].source]
    people = {
        split: {entry.identity for entry in entries if entry.split == split} for split in ("train", "query", "gallery")
    }
    assert people["query"] == people["gallery"] == split_identities(range(1, 9), 3)
    assert people["train"] == set(range(1, 9)) - people["query"]
    assert len(entries) == 8 + 8 + 8
    for entry in entries:
        number, camera = int(entry.name[6:9]), entry.name[4]
        assert (entry.identity, entry.camera) == (number + 1, 1 if camera == "a" else 2)


def test_ten_halves_of_632_are_random_and_fixed():
    people = list(range(1, 633))
    halves = [split_identities(people, split) for split in range(1, 11)]
    assert all(len(half) == 316 for half in halves)
    overlaps = [len(one & other) for n, one in enumerate(halves) for other in halves[:n]]
    assert all(abs(overlap - 158) < 40 for overlap in overlaps)  # hypergeometric, mean 158, deviation 6.3
    assert sorted(halves[0])[:5] == [3, 4, 5, 9, 11], "published numbers depend on these halves"


def test_half_does_not_depend_on_order():
    assert split_identities([3, 1, 2, 9], 1) == split_identities([9, 2, 1, 3], 1)


def test_a_person_with_one_camera_is_left_out_and_counted(tmp_path):
    path = write_zip(tmp_path / "v.zip", viper_files(4) | {"VIPeR/cam_a/100_0.bmp": picture(0, form="BMP")})
    with open_collection(path, variant("viper", split=1), tmp_path) as collection:
        assert 101 not in {entry.identity for entry in collection.entries}
        assert collection.notes == ["people seen by one camera only, left out: 1"]


def test_a_name_without_person_and_angle_is_refused(tmp_path):
    path = write_zip(tmp_path / "v.zip", viper_files(4) | {"VIPeR/cam_a/front.bmp": picture(0, form="BMP")})
    with (
        pytest.raises(InputError, match=r"VIPeR/cam_a/front\.bmp does not give person and angle"),
        open_collection(path, variant("viper", split=1), tmp_path),
    ):
        pass


def test_wrong_layout(tmp_path):
    path = write_zip(tmp_path / "v.zip", {"cam_a/000_45.bmp": b"", "cam_c/000_45.bmp": b""})
    with (
        pytest.raises(InputError, match="not the layout of VIPeR"),
        open_collection(path, variant("viper", split=1), tmp_path),
    ):
        pass


@pytest.mark.real_data
def test_a_real_pair_keeps_its_pixels(tmp_path):
    pair = {camera: golden(f"000_45_{camera}.bmp").read_bytes() for camera in "ab"}
    files = viper_files(3) | {f"VIPeR/cam_{camera}/000_45.bmp": content for camera, content in pair.items()}
    del files["VIPeR/cam_b/000_135.bmp"]
    with open_collection(write_zip(tmp_path / "v.zip", files), variant("viper", split=1), tmp_path) as collection:
        for camera, content in pair.items():
            encoded = collection.read(f"VIPeR/cam_{camera}/000_45.bmp")
            assert encoded == content
            assert np.asarray(Image.open(io.BytesIO(encoded))).shape == (128, 48, 3)


def people_in(path, halves, split=1):
    """The test people and the training people of an archive of eight, under a file of halves."""
    scratch = path.parent
    with open_collection(path, variant("viper", split=split), scratch, halves) as collection:
        found = [(entry.split, entry.identity) for entry in collection.entries]
        notes = list(collection.notes)
    assert notes == [f"the halves are those of split {split} in {halves.name}"]
    assert {one for part, one in found if part == "query"} == {one for part, one in found if part == "gallery"}
    return [{one for part, one in found if part == side} for side in ("query", "train")]


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "v.zip", viper_files(8))


SPLITS = ([1, 4, 6, 8], [2, 3, 4, 5])  # rows of the test half; row r is identity r in this archive
OTHERS = [sorted(set(range(1, 9)) - set(rows)) for rows in SPLITS]


def written(path, form):
    """A file of the two splits in one of the forms in which authors publish."""
    columns = np.array(SPLITS).T
    orders = np.array([other + rows for rows, other in zip(SPLITS, OTHERS, strict=True)]).T
    if form == "text columns":
        np.savetxt(path, columns, fmt="%d", header="test rows")
    elif form == "text rows":
        path.write_text("\n".join(",".join(map(str, rows)) for rows in SPLITS))
    elif form == "text of numpy.savetxt":
        np.savetxt(path, columns.astype(float))
    elif form == "named lines":
        pairs = zip(SPLITS, OTHERS, strict=True)
        path.write_text("\n".join(f"train {' '.join(map(str, b))}\ntest {' '.join(map(str, a))}" for a, b in pairs))
    elif form in ("SDALF", "SDALF of Windows"):
        lines = []
        for number, rows in enumerate(SPLITS, start=1):
            lines += [f"% Experiment Number {number} \n"]
            lines += [f"{j} - cam_a/{r - 1:03d}_45.bmp  cam_b/{r - 1:03d}_135.bmp " for j, r in enumerate(rows, 1)]
        path.write_text("\n".join(lines))
        if "Windows" in form:
            path.write_text(path.read_text().replace("/", "\\"))
    elif form == "matlab pair":
        scipy.io.savemat(path, {"trainIdx": np.array(OTHERS), "test_idx": np.array(SPLITS)})
    elif form == "matlab columns":
        scipy.io.savemat(path, {"selectsample": columns.astype(float)})
    elif form == "matlab orders":
        scipy.io.savemat(path, {"perms": orders.astype(np.uint16), "seed": 7})
    elif form == "MDF-KISS":
        runs = np.zeros((1, 2), [("perm", object), ("idxtrain", object), ("idxtest", object)])
        for number in range(2):
            runs[0, number] = orders[:, number], np.array(OTHERS[number]), np.array(SPLITS[number])
        scipy.io.savemat(path, {"runs": runs})
    elif form == "SDALF in MATLAB":
        runs = np.zeros((1, 2), [("cam_a", object)])
        for number, rows in enumerate(SPLITS):
            runs[0, number] = (np.array([f"{row - 1:03d}_45.bmp" for row in rows], object),)
        scipy.io.savemat(path, {"VIPeRpartitions": runs})
    return path


@pytest.mark.parametrize(
    "form",
    [
        "text columns",
        "text rows",
        "named lines",
        "text of numpy.savetxt",
        "SDALF",
        "SDALF of Windows",
        "matlab pair",
        "matlab columns",
        "matlab orders",
        "MDF-KISS",
        "SDALF in MATLAB",
    ],
)
def test_published_halves_are_read_in_every_form(archive, tmp_path, form):
    if form == "text rows":  # two rows of a half each, which share a person
        assert set(SPLITS[0]) & set(SPLITS[1])
    path = written(tmp_path / "halves", form)
    for split in (1, 2):
        assert people_in(archive, path, split) == [set(SPLITS[split - 1]), set(OTHERS[split - 1])]


def test_rows_count_people_and_not_their_numbers(tmp_path):
    """VIPeR's numbers have gaps: row 3 is the third person."""
    files = {name: content for name, content in viper_files(6).items() if "002_" not in name and "003_" not in name}
    path = tmp_path / "halves.txt"
    path.write_text("2\n3\n")
    found = people_in(write_zip(tmp_path / "v.zip", files), path)
    assert found == [{2, 5}, {1, 6}]  # numbers 001 and 004, identities one more


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\n2\n3\n9\n", r"split 1, test: row 9 is not within 1 to 8; correct"),
        ("0\n1\n2\n3\n", r"its rows count from 0; add 1 to each"),
        ("1 0\n2 1\n3 4\n5 6\n", r"its rows count from 0; add 1 to each"),  # split 2 alone has row 0
        ("0 1\n" * 4 + "1 0\n" * 4, r"a mask of 0 and 1; write the rows of the ones"),
        ("1.5 2 3 4\n", r"1\.5 is not a whole number"),
        ("1\n2\n2\n3\n", r"split 1, test: row 2 is there twice"),
        ("1 2 3\n", r"no halves of 8 people; give a matrix"),
        ("1 2 3 4\n5 6\n", r"different lengths"),
        ("train 1 2 3 4\ntest 4 5 6 7\n", r"split 1: row 4 is in both halves \(1 are\)"),
        ("train 1 2 3\ntest 4 5 6 7\n", r"split 1, train: 3 people, not half of 8"),
        ("1 2 3 4\n5 6 7 8\n", r"may be two splits, or the two halves of one"),
        ("one two\n", r"could not convert .*'one'; give a matrix"),
        ("% Experiment Number 1\n1 - cam_a/050_45.bmp cam_b/050_0.bmp\n", r"no person 050 with two images"),
        ("", r"no halves of 8 people"),
    ],
)
def test_wrong_halves_are_refused(archive, tmp_path, content, message):
    path = tmp_path / "halves.txt"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        people_in(archive, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_other_files_are_no_halves(archive, tmp_path):
    path = tmp_path / "halves.mat"
    with pytest.raises(InputError, match=r"no such file; put the file of halves there"):
        people_in(archive, path)
    path.write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    with pytest.raises(InputError, match=r"MATLAB v7.3 file; save it in MATLAB with the option -v7"):
        people_in(archive, path)
    path.write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(InputError, match=r"halves\.mat: not a readable MATLAB file"):
        people_in(archive, path)
    path.write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match=r"neither text nor a MATLAB file"):
        people_in(archive, path)
    scipy.io.savemat(path, {"a": np.array(SPLITS).T, "b": np.array(SPLITS).T})
    with pytest.raises(InputError, match=r"halves in the variables a, b; keep one"):
        people_in(archive, path)
    scipy.io.savemat(path, {"seed": 7})
    with pytest.raises(InputError, match=r"no halves of 8 people"):
        people_in(archive, path)
    scipy.io.savemat(path, {"trainIdx": np.array(OTHERS)})
    with pytest.raises(InputError, match=r"only a training half, trainIdx; add the test half"):
        people_in(archive, path)
    scipy.io.savemat(path, {"trainIdx": np.array(OTHERS), "testIdx": np.array(SPLITS[:1])})
    with pytest.raises(InputError, match=r"its training and test halves do not pair"):
        people_in(archive, path)
    scipy.io.savemat(path, {"test": np.array([[row in rows for rows in SPLITS] for row in range(1, 9)])})
    with pytest.raises(InputError, match=r"a mask of 0 and 1"):
        people_in(archive, path)
    with pytest.raises(InputError, match=r"dataset.split: 3, but .* has the splits 1 to 2"):
        people_in(archive, written(path, "MDF-KISS"), 3)
