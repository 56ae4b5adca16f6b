"""Image tables read a row group at a time."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import enormous_png
from explored import GALLERY_LABELS, person
from PIL import Image

from slsr.errors import InputError
from slsr.explore.image_table import ImageTable, find_rows, thumbnail


@pytest.fixture
def table(place):
    return ImageTable(place.sources.gallery)


def test_every_row_has_its_image_name_and_labels(table):
    assert len(table) == len(GALLERY_LABELS)
    assert pq.ParquetFile(table.path).num_row_groups == 5
    for row in (0, 15, 16, 31, 47, 71):
        identity, camera = GALLERY_LABELS[row]
        assert table.encoded(row) == person(max(identity, 0), row)
        assert (table.identities[row], table.cameras[row]) == (identity, camera)
    assert list(table.iterate()) == [table.encoded(row) for row in range(len(table))]


@pytest.mark.parametrize("row", [-1, len(GALLERY_LABELS)])
def test_a_row_out_of_range(table, row):
    with pytest.raises(IndexError):
        table.encoded(row)


@pytest.mark.parametrize(("kept_bytes", "groups"), [(1, [0, 4, 0, 1, 0]), (2**20, [0, 4, 1])])
def test_no_more_than_the_budget_of_row_groups_is_kept(place, monkeypatch, kept_bytes, groups):
    table, read = ImageTable(place.sources.gallery, kept_bytes), []
    whole = pq.ParquetFile.read_row_group

    def counted(self, group, **options):
        read.append(group)
        return whole(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for row in (0, 1, 2, 70, 0, 20, 0):
        table.encoded(row)
    assert read == groups


def test_rows_are_found_by_name_identity_and_camera(table):
    everything = np.arange(len(table))
    assert find_rows(table, "").tolist() == everything.tolist()
    identity_three = everything[[identity == 3 for identity, _ in GALLERY_LABELS]].tolist()
    assert set(identity_three) <= set(find_rows(table, " 3 ").tolist())
    assert find_rows(table, "0003_C2").tolist() == [row for row, label in enumerate(GALLERY_LABELS) if label == (3, 2)]
    assert find_rows(table, "", camera=2).tolist() == [
        row for row, (_, camera) in enumerate(GALLERY_LABELS) if camera == 2
    ]
    assert find_rows(table, "-1").tolist() == [
        row for row, (identity, _) in enumerate(GALLERY_LABELS) if identity == -1
    ]
    assert len(find_rows(table, "nobody")) == len(find_rows(table, "9" * 30)) == 0


def test_a_thumbnail_is_a_small_jpeg_in_proportion():
    buffer = io.BytesIO()
    Image.new("RGB", (300, 900), "red").save(buffer, "BMP")
    small = Image.open(io.BytesIO(thumbnail(buffer.getvalue(), "x.bmp")))
    assert (small.format, small.size) == ("JPEG", (85, 256))


def test_a_bomb_is_refused_before_it_is_unpacked():
    with pytest.raises(InputError, match="more than 50,000,000 pixels"):
        thumbnail(enormous_png(), "x.png")


def written(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"]}, "no column name"),
        ({"name": ["x"]}, "no column image"),
        ({"image": ["x"], "name": ["x"]}, "has no encoded images"),
        ({"image": pa.array([], pa.binary()), "name": pa.array([], pa.string())}, "this table has no images"),
        ({"image": [b"x"], "name": ["x"], "identity": ["me"], "camera": [1]}, "identity must hold a whole number"),
    ],
)
def test_a_table_that_cannot_be_shown_says_why(tmp_path, columns, message):
    with pytest.raises(InputError, match=message):
        ImageTable(written(tmp_path / "t.parquet", **columns))


def test_no_table_and_no_parquet(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        ImageTable(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match="not a readable Parquet table"):
        ImageTable(tmp_path / "t.parquet")


def test_a_table_without_labels_has_none(tmp_path):
    table = ImageTable(written(tmp_path / "t.parquet", image=[person(1, 1)], name=["a.png"]))
    assert table.identities is None
    assert table.cameras is None
    assert find_rows(table, "", camera=1).tolist() == []
