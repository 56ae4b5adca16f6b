"""Your own images: with a table, and in folders."""

import io
import math
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import picture, variant, write_folder, write_zip

from slsr.datasets.numbering import number_cameras, number_identities
from slsr.datasets.opening import open_collection, recognize
from slsr.errors import InputError
from slsr.images.listing import UNUSED

ROWS = [
    ("photos/a.jpg", 1, 1, "train"),
    ("photos/b.jpg", 1, 2, "train"),
    ("photos/c.jpg", 2, 1, "train"),
    ("photos/d.jpg", 3, 1, "query"),
    ("photos/e.jpg", 3, 2, "gallery"),
    ("photos/f.jpg", -1, 2, "gallery"),
    ("photos/d.jpg", 3, 1, "multi_query"),
]
HEADER = ("path", "identity", "camera", "split")
IMAGES = {f"photos/{letter}.jpg": picture(ord(letter)) for letter in "abcdef"}


def csv_bytes(rows=ROWS, header=HEADER, delimiter=","):
    return "\n".join(delimiter.join(map(str, row)) for row in [header, *rows]).encode()


def table_zip(tmp_path, content, name="people.csv", images=IMAGES):
    return write_zip(tmp_path / "own.zip", {name: content, **images})


def read(path, name, tmp_path):
    with open_collection(path, variant(name), tmp_path) as collection:
        return collection


@pytest.mark.parametrize("form", ["csv", "excel", "windows", "parquet", "nested", "folder"])
def test_table(tmp_path, form):
    content, name, prefix = csv_bytes(), "people.csv", ""
    if form == "excel":
        content = b"\xef\xbb\xbf" + csv_bytes(delimiter=";").replace(b"\n", b"\r\n")
    if form == "windows":
        content = csv_bytes().replace(b"photos/", b"photos\\")
    if form == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist([dict(zip(HEADER, row, strict=True)) for row in ROWS]), buffer)
        content, name = buffer.getvalue(), "people.parquet"
    if form == "nested":
        prefix = "mine/"
    files = {prefix + name: content} | {prefix + image: IMAGES[image] for image in IMAGES}
    path = write_folder(tmp_path / "own", files) if form == "folder" else write_zip(tmp_path / "own.zip", files)
    assert recognize(path) == variant("table")
    collection = read(path, "table", tmp_path)
    assert [(entry.name, entry.identity, entry.camera, entry.split) for entry in collection.entries] == ROWS
    assert collection.own
    assert not collection.notes


def parquet_bytes(rows, header=HEADER):
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([dict(zip(header, row, strict=True)) for row in rows]), buffer)
    return buffer.getvalue()


EMPTIED = csv_bytes(delimiter=";").replace(b"\n", b"\r\n") + b"\r\n;;;\r\n\r\n;;;\r\n"


@pytest.mark.parametrize(
    "content",
    [
        EMPTIED,
        b"sep=;\r\n" + EMPTIED,
        csv_bytes(delimiter="\t").decode().replace("\n", "\r\n").encode("utf-16"),
        csv_bytes([(path, f"{identity}.0", f"{camera}.0", split) for path, identity, camera, split in ROWS]),
    ],
    ids=["rows emptied in Excel", "the first line of Excel", "Unicode text of Excel", "whole numbers of pandas"],
)
def test_tables_as_other_programs_write_them(tmp_path, content):
    collection = read(table_zip(tmp_path, content), "table", tmp_path)
    assert [(entry.name, entry.identity, entry.camera, entry.split) for entry in collection.entries] == ROWS


def test_whole_numbers_of_a_float_column(tmp_path):
    buffer = io.BytesIO()
    rows = [dict(zip(HEADER, (path, float(n), float(camera), split), strict=True)) for path, n, camera, split in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    collection = read(table_zip(tmp_path, buffer.getvalue(), "people.parquet"), "table", tmp_path)
    assert [(entry.name, entry.identity, entry.camera, entry.split) for entry in collection.entries] == ROWS


@pytest.mark.parametrize("place", ["zip", "folder", "table"])
def test_messages_say_where_the_table_is(tmp_path, monkeypatch, place):
    monkeypatch.chdir(write_folder(tmp_path / "own", {"people.csv": bad(1, "identity", "1.5"), **IMAGES}))
    write_zip(Path("own.zip"), {"people.csv": bad(1, "identity", "1.5"), **IMAGES})
    path, where = {
        "zip": (Path("own.zip"), "own.zip: people.csv"),
        "folder": (tmp_path / "own", f"{tmp_path}/own/people.csv"),
        "table": (Path("people.csv"), "people.csv"),
    }[place]
    with pytest.raises(InputError, match=rf"^{re.escape(where)}, line 3: identity '1.5' is not a whole number"):
        read(path, "table", tmp_path)


def test_groups_are_read(tmp_path):
    rows = [(*row, group) for row, group in zip(ROWS, ["g1", "g1", "", "", "", "", ""], strict=True)]
    collection = read(table_zip(tmp_path, csv_bytes(rows, (*HEADER, "group"))), "table", tmp_path)
    assert [entry.group for entry in collection.entries] == ["g1", "g1", None, None, None, None, None]


def test_images_that_the_table_does_not_name(tmp_path):
    path = table_zip(tmp_path, csv_bytes(), images=IMAGES | {"photos/z.jpg": picture(0)})
    assert read(path, "table", tmp_path).ignored == {UNUSED: ["photos/z.jpg"]}


def bad(row, column, value):
    rows = [list(each) for each in ROWS]
    rows[row][HEADER.index(column)] = value
    return csv_bytes(rows)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            csv_bytes([row[:3] for row in ROWS], HEADER[:3]),
            r"people\.csv: no column split; .*found: path, identity, camera",
        ),
        (csv_bytes([*ROWS, ROWS[1]]), r"line 9: photos/b\.jpg is in train already \(.*line 3\)"),
        (bad(1, "path", "../b.jpg"), r"line 3: the path '\.\./b\.jpg' leaves the table's folder"),
        (bad(1, "path", "/etc/b.jpg"), r"line 3: the path '/etc/b\.jpg' leaves the table's folder"),
        (bad(1, "path", "photos/x.jpg"), r"line 3: no file photos/x\.jpg beside the table"),
        (bad(1, "path", ""), "line 3: no path"),
        (bad(1, "camera", "1.5"), "line 3: camera '1.5' is not a whole number"),
        (bad(1, "identity", "9.82E+14"), r"line 3: identity '9\.82E\+14' was shortened by a program"),
        (bad(1, "identity", ""), "line 3: no identity"),
        (
            bad(1, "path", "photos/B.jpg"),
            r"line 3: no file photos/B\.jpg .*; there is photos/b\.jpg: write it",
        ),
        (bad(1, "split", "test"), "line 3: split 'test' is not one of train, query, gallery, multi_query"),
        (csv_bytes([*ROWS, ("photos/b.jpg", 1)]), "line 9: 2 fields, but the header has 4"),
        (csv_bytes([*ROWS, ("photos/b.jpg", 1, 2, "train", "x")]), "line 9: 5 fields, but the header has 4"),
        (b"path\xff", "not UTF-8"),
        (b"", r"people\.csv: no column path, identity, split.*found: nothing"),
    ],
)
def test_bad_table(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(table_zip(tmp_path, content), "table", tmp_path)


def test_parquet_row_is_named(tmp_path):
    buffer = io.BytesIO()
    rows = [{"path": "photos/a.jpg", "identity": 1, "camera": 1.5, "split": "train"}]
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    with pytest.raises(InputError, match=r"people\.parquet, row 1: camera '1\.5' is not a whole number"):
        read(table_zip(tmp_path, buffer.getvalue(), "people.parquet"), "table", tmp_path)


def test_a_broken_parquet_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a readable Parquet table"):
        read(table_zip(tmp_path, b"PAR1 no", "people.parquet"), "table", tmp_path)


def test_two_tables(tmp_path):
    path = table_zip(tmp_path, csv_bytes(), images=IMAGES | {"other.csv": csv_bytes()})
    with pytest.raises(InputError, match=r"expected one table .* found 2 \(other\.csv, people\.csv\)"):
        read(path, "table", tmp_path)


def test_group_on_both_sides(tmp_path):
    rows = [(*row, group) for row, group in zip(ROWS, ["g", "", "", "g", "", "", ""], strict=True)]
    with pytest.raises(InputError, match="the group g is in train and in test"):
        read(table_zip(tmp_path, csv_bytes(rows, (*HEADER, "group"))), "table", tmp_path)


FOLDERS = [
    ("train/0001/1/a.jpg", 1, 1),
    ("train/0001/2/b.jpg", 1, 2),
    ("train/0002/1/a.jpg", 2, 1),
    ("query/0003/1/a.jpg", 3, 1),
    ("gallery/0003/2/a.jpg", 3, 2),
    ("gallery/-1/2/a.jpg", -1, 2),
]


@pytest.mark.parametrize("root", ["", "mine/"])
def test_folders_with_cameras(tmp_path, root):
    path = write_zip(tmp_path / "own.zip", {root + name: picture(n) for n, (name, _, _) in enumerate(FOLDERS)})
    assert recognize(path) == variant("folder")
    collection = read(path, "folder", tmp_path)
    assert sorted((entry.name, entry.identity, entry.camera) for entry in collection.entries) == sorted(FOLDERS)
    assert all(entry.split == entry.name.partition("/")[0] for entry in collection.entries)
    assert collection.own


def test_folders_without_cameras_and_with_names(tmp_path):
    names = ["train/anna/a.jpg", "train/bert/a.jpg", "query/carl/a.jpg", "gallery/carl/b.jpg"]
    collection = read(write_folder(tmp_path / "own", {name: picture(0) for name in names}), "folder", tmp_path)
    assert {(entry.name, entry.identity, entry.camera) for entry in collection.entries} == {
        ("train/anna/a.jpg", 1, -1),
        ("train/bert/a.jpg", 2, -1),
        ("query/carl/a.jpg", 3, -1),
        ("gallery/carl/b.jpg", 3, -1),
    }
    assert len(collection.notes) == 2
    assert collection.evaluation.cameras == "unknown"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train/0001/x.jpg", "use one layout for all"),
        ("train/x.jpg", "train/x.jpg is in the wrong place"),
        ("train/0001/1/2/x.jpg", "train/0001/1/2/x.jpg is in the wrong place"),
    ],
)
def test_bad_folders(tmp_path, extra, message):
    files = {name: picture(0) for name, _, _ in FOLDERS} | {extra: picture(1)}
    with pytest.raises(InputError, match=message):
        read(write_zip(tmp_path / "own.zip", files), "folder", tmp_path)


def test_no_such_folders(tmp_path):
    with pytest.raises(InputError, match=r"expected one place with the folders train/.*at the top: photos"):
        read(write_zip(tmp_path / "own.zip", IMAGES), "folder", tmp_path)


TAGS = [985112001234567, 985112001234566, 985112001234999]


@pytest.mark.parametrize("form", ["text", "float64"])
def test_numbers_too_long_for_a_table_are_numbered(tmp_path, form):
    """Ear tags of 15 digits; junk keeps its number."""
    rows = [(path, dict(enumerate(TAGS, 1)).get(who, who), camera, split) for path, who, camera, split in ROWS]
    content, name = csv_bytes(rows), "people.csv"
    if form == "float64":
        rows = [(path, float(who), camera, split) for path, who, camera, split in rows]
        content, name = parquet_bytes(rows), "people.parquet"
    collection = read(table_zip(tmp_path, content, name), "table", tmp_path)
    assert [entry.identity for entry in collection.entries] == [2, 2, 1, 3, 3, -1, 3]
    assert collection.notes == [f"identities are numbered from 1: {TAGS[1]} is 1, {TAGS[2]} is 3"]


def test_names_of_people_and_cameras_are_numbered(tmp_path):
    people, cameras = {1: "zoë", 2: "anna", 3: "7"}, {1: "cam2", 2: "cam10"}
    rows = [(path, people.get(who, who), cameras[camera], split) for path, who, camera, split in ROWS]
    collection = read(table_zip(tmp_path, csv_bytes(rows)), "table", tmp_path)
    assert [entry.identity for entry in collection.entries] == [3, 3, 2, 1, 1, -1, 1], "numbers come first"
    assert [entry.camera for entry in collection.entries] == [2, 10, 2, 2, 10, 10, 2]
    rows = [(path, who, {1: "hall", 2: "gate"}[camera], split) for path, who, camera, split in ROWS]
    collection = read(table_zip(tmp_path, csv_bytes(rows)), "table", tmp_path)
    assert [entry.camera for entry in collection.entries] == [2, 1, 2, 2, 1, 1, 2]


@pytest.mark.parametrize("empty", [None, "", "nan"])
def test_a_table_without_cameras(tmp_path, empty):
    rows = [(path, who, split) if empty is None else (path, who, empty, split) for path, who, _, split in ROWS]
    header = HEADER if empty is not None else ("path", "identity", "split")
    collection = read(table_zip(tmp_path, csv_bytes(rows, header)), "table", tmp_path)
    assert {entry.camera for entry in collection.entries} == {-1}
    assert collection.evaluation.cameras == "unknown"


def test_a_table_without_cameras_whose_names_have_them(tmp_path):
    rows = [
        (f"{max(who, 0)}_c{5 * camera}s1_{n:06d}_01.jpg", who, split) for n, (_, who, camera, split) in enumerate(ROWS)
    ]
    images = {path: picture(n) for n, (path, *_) in enumerate(rows)}
    path = table_zip(tmp_path, csv_bytes(rows, ("path", "identity", "split")), images=images)
    collection = read(path, "table", tmp_path)
    assert [entry.camera for entry in collection.entries] == [5, 10, 5, 5, 10, 10, 5]
    assert collection.evaluation.cameras == "known"


def test_empty_groups_of_pandas_are_no_group(tmp_path):
    rows = [(*row, math.nan if number else 5.0) for number, row in enumerate(ROWS)]
    path = table_zip(tmp_path, parquet_bytes(rows, (*HEADER, "group")), "people.parquet")
    assert [entry.group for entry in read(path, "table", tmp_path).entries] == ["5.0", *[None] * 6]


def test_names_in_two_forms_of_unicode_are_one(tmp_path):
    """A Mac decomposes names, a table is typed composed; the folders of one person come from both."""
    rows = [(path.replace("photos", "entrée"), *rest) for path, *rest in ROWS]
    images = {name.replace("photos", unicodedata.normalize("NFD", "entrée")): IMAGES[name] for name in IMAGES}
    folder = write_folder(tmp_path / "own", {"people.csv": csv_bytes(rows), **images})
    for path in (table_zip(tmp_path, csv_bytes(rows), images=images), folder, folder / "people.csv"):
        collection = read(path, "table", tmp_path)
        assert [entry.name for entry in collection.entries] == [row[0] for row in rows]
    assert collection.read(collection.entries[0].source) == IMAGES["photos/a.jpg"]
    forms = [unicodedata.normalize(form, "René") for form in ("NFC", "NFD")]
    names = ["train/x/1/a.jpg", "train/y/1/a.jpg", f"query/{forms[0]}/1/a.jpg"]
    names += [f"gallery/{forms[0]}/2/a.jpg", f"gallery/{forms[1]}/3/a.jpg"]
    collection = read(write_folder(tmp_path / "people", {name: picture(0) for name in names}), "folder", tmp_path)
    assert len({entry.identity for entry in collection.entries if entry.split != "train"}) == 1


def test_two_files_of_one_name_in_two_forms_are_named(tmp_path):
    files = {unicodedata.normalize(form, "train/é/1/a.jpg"): picture(0) for form in ("NFC", "NFD")}
    with pytest.raises(InputError, match=r"two files have the name train/é/1/a\.jpg"):
        recognize(write_folder(tmp_path / "own", files))


MARKET_NAME = "{i:04d}_c{c}s1_000451_03.jpg"
DUKE_NAME, NP_NAME = "{i:04d}_c{c}_f0046985.jpg", "{i:04d}_c{c}_1.png"
MSMT17_NAME = "{i:04d}_000_{c:02d}_0303morning_0015_0.jpg"
TRAIN_ALL = [(1, 1), (2, 3), (1, 2)]
TESTS = [("query", 3, 1), ("gallery", 3, 1), ("gallery", 3, 5), ("multi-query", 3, 1)]


def prepared(name):
    """The folders that programs prepare: train, val and train_all, query, gallery, multi-query."""
    places = [*(("train", *one) for one in TRAIN_ALL[:2]), ("val", *TRAIN_ALL[2])]
    places += [*(("train_all", *one) for one in TRAIN_ALL), *TESTS]
    return {f"{part}/{i:04d}/{name.format(i=i, c=c)}": picture(10 * i + c) for part, i, c in places}


@pytest.mark.parametrize("name", [MARKET_NAME, DUKE_NAME, NP_NAME, MSMT17_NAME])
@pytest.mark.parametrize("root", ["", "Market/pytorch/"])
def test_prepared_folders_give_the_cameras_of_the_names(tmp_path, name, root):
    files = prepared(name) | {"gallery/-1/" + name.format(i=9, c=2): picture(5)}
    path = write_folder(tmp_path / "own", {root + file: content for file, content in files.items()})
    assert recognize(path) == variant("folder")
    collection = read(path, "folder", tmp_path)
    assert sorted((entry.split, entry.identity, entry.camera) for entry in collection.entries) == [
        *(("gallery", -1, 2), ("gallery", 3, 1), ("gallery", 3, 5), ("multi_query", 3, 1), ("query", 3, 1)),
        *(("train", 1, 1), ("train", 1, 2), ("train", 2, 3)),
    ]
    assert collection.evaluation.cameras == "known"
    assert not collection.ignored
    assert any(note.startswith("cameras are read from names: that of ") for note in collection.notes)


def test_without_train_all_the_validation_folder_is_train_too(tmp_path):
    files = {name: content for name, content in prepared(MARKET_NAME).items() if "train_all" not in name}
    collection = read(write_folder(tmp_path / "pytorch", files), "folder", tmp_path)
    assert sum(entry.split == "train" for entry in collection.entries) == 3
    assert "val/ is read as train too (dataset.validation draws its own)" in collection.notes


def test_train_all_that_lacks_images_of_train_is_refused(tmp_path):
    files = prepared(MARKET_NAME) | {"train/0004/0004_c1s1_000451_03.jpg": picture(4)}
    with pytest.raises(InputError, match=r"train/0004/0004_c1s1_000451_03\.jpg is not in train_all/"):
        read(write_folder(tmp_path / "pytorch", files), "folder", tmp_path)


def test_some_names_without_camera_are_unknown(tmp_path):
    files = prepared(MARKET_NAME) | {"gallery/0003/extra.jpg": picture(7)}
    collection = read(write_folder(tmp_path / "pytorch", files), "folder", tmp_path)
    assert [entry.name for entry in collection.without_camera()] == ["gallery/0003/extra.jpg"]
    assert "the camera of 1 image is unknown, for example gallery/0003/extra.jpg" in collection.notes


WITH_CAMERAS = [("train", 1, 1), ("train", 2, 1), ("query", 3, 1), ("gallery", 3, 2)]


def test_a_folder_and_a_name_of_two_cameras_are_refused(tmp_path):
    files = {f"{part}/{i}/{c}/000{i}_c{c}s1_1_1.jpg": picture(i) for part, i, c in WITH_CAMERAS}
    assert not read(write_folder(tmp_path / "good", files), "folder", tmp_path).notes
    files["gallery/3/1/0003_c4s1_1_1.jpg"] = picture(9)
    with pytest.raises(InputError, match="is in the folder of camera 1, and its name gives camera 4"):
        read(write_folder(tmp_path / "bad", files), "folder", tmp_path)


def test_folders_of_cameras_with_a_word(tmp_path):
    files = {f"{part}/{i}/Cam{c:02d}/a.jpg": picture(i) for part, i, c in WITH_CAMERAS}
    collection = read(write_folder(tmp_path / "own", files), "folder", tmp_path)
    assert {(entry.split, entry.camera) for entry in collection.entries} == {("train", 1), ("query", 1), ("gallery", 2)}


def test_junk_and_distractors_keep_their_meaning_beside_names(tmp_path):
    names = ["train/a/1/a.jpg", "train/b/1/a.jpg", "query/c/1/a.jpg", "gallery/c/2/a.jpg"]
    names += ["gallery/-1/2/a.jpg", "gallery/0000/2/a.jpg"]
    collection = read(write_folder(tmp_path / "own", {name: picture(0) for name in names}), "folder", tmp_path)
    assert {entry.name: entry.identity for entry in collection.entries if entry.split == "gallery"} == {
        "gallery/c/2/a.jpg": 3,
        "gallery/-1/2/a.jpg": -1,
        "gallery/0000/2/a.jpg": 0,
    }


def test_a_number_written_in_two_ways_is_one_person(tmp_path):
    names = ["train/1/1/a.jpg", "train/2/1/a.jpg", "query/0007/1/a.jpg", "gallery/7/2/a.jpg"]
    collection = read(write_folder(tmp_path / "own", {name: picture(0) for name in names}), "folder", tmp_path)
    assert {entry.identity for entry in collection.entries if entry.split != "train"} == {7}
    assert any("written in two ways" in note for note in collection.notes)


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["cam2", "2", "CAM 02", "1"], [2, 2, 2, 1]),
        (["cam2", "gate2", "CAM_02"], [1, 2, 1]),
        (["cam1", "1", "lobby"], [1, 1, 2]),
        (["North", "north ", "south", "NORTH"], [1, 1, 2, 1]),
        ([unicodedata.normalize("NFD", "süd"), "süd", "nord"], [2, 2, 1]),
        (["north", "-1", "south", "NA", "?"], [1, -1, 2, -1, -1]),
        (["-1", "cam3"], [-1, 3]),
        (["", "unknown"], [-1, -1]),
    ],
)
def test_one_camera_in_two_ways_is_one(names, numbers):
    found = number_cameras(names)
    assert [found.of[name] for name in names] == numbers
    known = [number for number in numbers if number >= 0]
    assert any("written in two ways" in note for note in found.notes) == (len(set(known)) < len(known))


def test_the_note_names_cameras_that_became_one():
    notes = number_cameras(["cam1", "cam2", "1", "2"]).notes
    assert notes == ["cameras that are written in two ways are one, for example cam1 and 1, cam2 and 2"]


def test_one_name_in_two_forms_of_unicode_is_one_person():
    names = [unicodedata.normalize(form, "Zoë") for form in ("NFC", "NFD")]
    found = number_identities([*names, "Åsa"])
    assert [found.of[name] for name in names] == [1, 1]


def test_one_person_in_two_forms_of_unicode_on_both_sides_is_one_number(tmp_path):
    rows = [
        (path, unicodedata.normalize("NFD" if split == "train" else "NFC", "Zoë"), c, split)
        for path, _, c, split in ROWS
    ]
    collection = read(table_zip(tmp_path, csv_bytes(rows)), "table", tmp_path)
    assert {entry.identity for entry in collection.entries} == {1}
    groups = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    rows = [(*row, groups[row[3] == "train"]) for row in ROWS]
    with pytest.raises(InputError, match="is in train and in test"):
        read(table_zip(tmp_path, csv_bytes(rows, (*HEADER, "group"))), "table", tmp_path)


@pytest.mark.parametrize("word", ["NA", "<NA>", "-", "?", "Unknown", "None", "NULL"])
def test_words_for_nothing_are_no_camera_and_no_identity(tmp_path, word):
    collection = read(table_zip(tmp_path, bad(4, "camera", word)), "table", tmp_path)
    assert [entry.camera for entry in collection.entries] == [1, 2, 1, 1, -1, 2, 1]
    assert collection.evaluation.cameras == "unknown"
    with pytest.raises(InputError, match="line 6: no identity"):
        read(table_zip(tmp_path, bad(4, "identity", word)), "table", tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("path", "identity", "Camera", "split"), "column 'Camera': write it as camera"),
        (("Path", "identity", "camera", "split"), "column 'Path': write it as path"),
        (("path", "identity", "camera", "split", "camera"), "two columns have the name camera"),
        (("path", "identity", "camera", "split", "Group"), "column 'Group': write it as group"),
    ],
)
def test_columns_that_would_be_left_out_are_refused(tmp_path, header, message):
    rows = [(*row, 9)[: len(header)] for row in ROWS]
    path = table_zip(tmp_path, csv_bytes(rows, header))
    assert recognize(path) == variant("table")
    with pytest.raises(InputError, match=message):
        read(path, "table", tmp_path)


@pytest.mark.parametrize("name", ["people.csv", "people.parquet"])
def test_other_columns_are_named(tmp_path, name):
    write = csv_bytes if name.endswith("csv") else parquet_bytes
    content = write([(*row, 9, 8) for row in ROWS], (*HEADER, "camid", "note"))
    collection = read(table_zip(tmp_path, content, name), "table", tmp_path)
    assert collection.notes == ["columns of the table that are not read: camid, note"]


def column_of(tmp_path, name, values):
    table = pq.read_table(io.BytesIO(parquet_bytes(ROWS)))
    buffer = io.BytesIO()
    pq.write_table(table.set_column(table.column_names.index(name), name, values), buffer)
    return read(table_zip(tmp_path, buffer.getvalue(), "people.parquet"), "table", tmp_path)


def test_bytes_in_parquet_are_text_and_lists_are_refused(tmp_path):
    for name, at in (("identity", 1), ("split", 3)):
        found = column_of(tmp_path, name, pa.array([str(row[at]).encode() for row in ROWS]))
        assert [(entry.name, entry.identity, entry.camera, entry.split) for entry in found.entries] == ROWS
    with pytest.raises(InputError, match="row 1: identity is a list; give each row one"):
        column_of(tmp_path, "identity", pa.array([[row[1]] for row in ROWS]))
    with pytest.raises(InputError, match=r"row 1: identity b'\\xff' is not UTF-8"):
        column_of(tmp_path, "identity", pa.array([b"\xff" for _ in ROWS]))


@pytest.mark.parametrize("bits", [11, 24])
def test_floats_too_short_for_their_numbers_are_refused(tmp_path, bits):
    """2**24 and 2**24 + 1 are one float32, 2**11 and 2**11 + 1 one float16."""
    kind = {11: pa.float16(), 24: pa.float32()}[bits]
    exact = [abs(row[1]) + 2**bits - 9 for row in ROWS]
    found = column_of(tmp_path, "identity", pa.array(exact, pa.float64()).cast(kind))
    assert [entry.identity for entry in found.entries] == exact
    with pytest.raises(InputError, match=r"row 4: identity .* was shortened"):
        column_of(tmp_path, "identity", pa.array([row[1] + 2**bits - 3 for row in ROWS], pa.float64()).cast(kind))


@pytest.mark.parametrize("below", ["0001/", ""])
def test_a_camera_folder_above_the_person_is_refused(tmp_path, below):
    files = {f"{part}/cam{c}/{below}a.jpg": picture(c) for part in ("train", "query", "gallery") for c in (1, 2)}
    with pytest.raises(InputError, match="camera's folder is where that of the person is expected; swap them"):
        read(write_folder(tmp_path / "own", files), "folder", tmp_path)


def test_a_folder_of_unknown_people_is_refused(tmp_path):
    files = {f"{part}/{i}/{c}/a.jpg": picture(i) for part, i, c in WITH_CAMERAS} | {
        "gallery/unknown/2/a.jpg": picture(9)
    }
    with pytest.raises(InputError, match=r"gallery/unknown/2/a\.jpg has no identity"):
        read(write_folder(tmp_path / "own", files), "folder", tmp_path)
