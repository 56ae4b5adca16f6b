"""Your own images: with a table, and in folders."""

import io
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import picture, variant, write_folder, write_zip

from slsr.datasets.opening import open_collection, recognize
from slsr.errors import InputError

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


EMPTIED = csv_bytes(delimiter=";").replace(b"\n", b"\r\n") + b"\r\n;;;\r\n\r\n;;;\r\n"


@pytest.mark.parametrize(
    "content",
    [
        EMPTIED,
        b"sep=;\r\n" + EMPTIED,
        csv_bytes([(path, f"{identity}.0", f"{camera}.0", split) for path, identity, camera, split in ROWS]),
    ],
    ids=["rows emptied in Excel", "the first line of Excel", "whole numbers of pandas"],
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
    monkeypatch.chdir(write_folder(tmp_path / "own", {"people.csv": bad(1, "identity", "anna"), **IMAGES}))
    write_zip(Path("own.zip"), {"people.csv": bad(1, "identity", "anna"), **IMAGES})
    path, where = {
        "zip": (Path("own.zip"), "own.zip: people.csv"),
        "folder": (tmp_path / "own", f"{tmp_path}/own/people.csv"),
        "table": (Path("people.csv"), "people.csv"),
    }[place]
    with pytest.raises(InputError, match=rf"^{re.escape(where)}, line 3: identity 'anna' is not a whole number"):
        read(path, "table", tmp_path)


def test_groups_are_read(tmp_path):
    rows = [(*row, group) for row, group in zip(ROWS, ["g1", "g1", "", "", "", "", ""], strict=True)]
    collection = read(table_zip(tmp_path, csv_bytes(rows, (*HEADER, "group"))), "table", tmp_path)
    assert [entry.group for entry in collection.entries] == ["g1", "g1", None, None, None, None, None]


def test_images_that_the_table_does_not_name(tmp_path):
    path = table_zip(tmp_path, csv_bytes(), images=IMAGES | {"photos/z.jpg": picture(0)})
    assert read(path, "table", tmp_path).notes == ["images that people.csv does not name, left out: 1"]


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
        (bad(1, "camera", "left"), "line 3: camera 'left' is not a whole number"),
        (bad(1, "camera", "1.5"), "line 3: camera '1.5' is not a whole number"),
        (bad(1, "camera", ""), "line 3: camera '' is not a whole number"),
        (bad(1, "identity", "anna"), "line 3: identity 'anna' is not a whole number"),
        (bad(1, "split", "test"), "line 3: split 'test' is not one of train, query, gallery, multi_query"),
        (csv_bytes([*ROWS, ("photos/b.jpg", 1)]), "line 9: 2 fields, but the header has 4"),
        (csv_bytes([*ROWS, ("photos/b.jpg", 1, 2, "train", "x")]), "line 9: 5 fields, but the header has 4"),
        (b"\xff\xfe" + "path".encode("utf-16-le"), "not UTF-8"),
        (b"", r"people\.csv: no column path, identity, camera, split.*found: nothing"),
    ],
)
def test_bad_table(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read(table_zip(tmp_path, content), "table", tmp_path)


def test_parquet_row_is_named(tmp_path):
    buffer = io.BytesIO()
    rows = [{"path": "photos/a.jpg", "identity": 1, "camera": 1.5, "split": "train"}]
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    with pytest.raises(InputError, match=r"people\.parquet, row 1: camera 1\.5 is not a whole number"):
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
        ("train/anna/a.jpg", 1, 2),
        ("train/bert/a.jpg", 2, 2),
        ("query/carl/a.jpg", 3, 1),
        ("gallery/carl/b.jpg", 3, 2),
    }
    assert len(collection.notes) == 2


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("train/0001/x.jpg", "use one layout for all"),
        ("train/0001/left/x.jpg", "the camera's folder 'left' is not a whole number"),
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
