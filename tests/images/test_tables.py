"""The image tables: rows come back as they went, equal rows are equal bytes, a crash harms nothing."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slsr.errors import InputError
from slsr.images import tables as records
from slsr.images.tables import (
    GENERATED,
    LABELED,
    ROWS_A_GROUP,
    TRAINING,
    column_numpy,
    read_table,
    table_writer,
)

INT32, INT16 = st.integers(-(2**31), 2**31 - 1), st.integers(-(2**15), 2**15 - 1)
FLOAT32 = st.floats(0, 1, width=32)
LABELED_ROW = {
    "image": st.binary(max_size=40),
    "name": st.text("aé/€.", max_size=8),
    "identity": INT32,
    "camera": INT16,
}
ROWS = {
    "labeled": (LABELED, st.fixed_dictionaries(LABELED_ROW)),
    "training": (TRAINING, st.fixed_dictionaries(LABELED_ROW | {"label": INT32})),
    "generated": (
        GENERATED,
        st.fixed_dictionaries(
            {
                "image": st.binary(max_size=40),
                "name": st.text("aé/€.", max_size=8),
                "cluster": INT32,
                "label_index": st.lists(INT32, max_size=4),
                "label_weight": st.lists(FLOAT32, max_size=4),
                "nearest_index": st.lists(INT32, max_size=4),
                "nearest_weight": st.lists(FLOAT32, max_size=4),
            }
        ),
    ),
}


def labeled_rows(count):
    return [
        {"image": bytes([n % 251]) * (n % 7), "name": f"{n}.jpg", "identity": n, "camera": n % 6} for n in range(count)
    ]


def write(path, schema, rows):
    with table_writer(path, schema) as table:
        for row in rows:
            table.append(row)
    return table


@pytest.mark.parametrize("kind", ROWS)
@settings(max_examples=20)
@given(data=st.data())
def test_rows_come_back_as_they_went(tmp_path_factory, kind, data):
    schema, row = ROWS[kind]
    rows = data.draw(st.lists(row, max_size=5))
    path = tmp_path_factory.mktemp("table") / "table.parquet"
    assert write(path, schema, rows).count == len(rows)
    table = read_table(path)
    assert table.schema.equals(schema)
    assert table.to_pylist() == rows
    # by another reader than ours
    assert pq.ParquetFile(path).read().to_pylist() == rows


@pytest.mark.parametrize("count", [0, 1, ROWS_A_GROUP - 1, ROWS_A_GROUP, ROWS_A_GROUP + 1, 2 * ROWS_A_GROUP + 3])
def test_order_is_kept_across_row_groups(tmp_path, count):
    rows = labeled_rows(count)
    write(tmp_path / "t.parquet", LABELED, rows)
    assert read_table(tmp_path / "t.parquet").to_pylist() == rows
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == -(-count // ROWS_A_GROUP)


def test_groups_of_large_images_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "BYTES_A_GROUP", 1000)
    sizes = [1, 400, 500, 99, 5000, 0, 999, 1, 3]
    rows = [{"image": bytes([n]) * size, "name": str(n), "identity": n, "camera": 0} for n, size in enumerate(sizes)]
    write(tmp_path / "t.parquet", LABELED, rows)
    file = pq.ParquetFile(tmp_path / "t.parquet")
    groups = [[len(image) for image in file.read_row_group(i)["image"].to_pylist()] for i in range(file.num_row_groups)]
    assert groups == [[1, 400, 500, 99], [5000], [0, 999, 1], [3]]
    assert read_table(tmp_path / "t.parquet").to_pylist() == rows


def test_equal_rows_are_equal_bytes(tmp_path, monkeypatch):
    rows = labeled_rows(700)
    write(tmp_path / "one.parquet", LABELED, rows)
    write(tmp_path / "elsewhere" / "two.parquet", LABELED, iter(rows))
    content = (tmp_path / "one.parquet").read_bytes()
    assert content == (tmp_path / "elsewhere" / "two.parquet").read_bytes()
    rows[699]["camera"] += 1
    write(tmp_path / "three.parquet", LABELED, rows)
    assert content != (tmp_path / "three.parquet").read_bytes()


def test_images_are_stored_as_they_are_and_the_rest_compressed(tmp_path):
    path = tmp_path / "t.parquet"
    write(path, TRAINING, [row | {"label": 1} for row in labeled_rows(20)])
    group = pq.ParquetFile(path).metadata.row_group(0)
    found = {group.column(i).path_in_schema: group.column(i).compression for i in range(group.num_columns)}
    assert found == {"image": "UNCOMPRESSED"} | dict.fromkeys(("name", "identity", "camera", "label"), "ZSTD")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("rows", [3, ROWS_A_GROUP + 3])
def test_a_crash_leaves_the_old_table_and_nothing_else(tmp_path, error, rows):
    path = tmp_path / "train.parquet"
    write(path, LABELED, labeled_rows(2))
    before = path.read_bytes()
    with pytest.raises(error), table_writer(path, LABELED) as table:
        for row in labeled_rows(rows):
            table.append(row)
        raise error
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.parquet"]


def test_a_full_disk_while_writing_a_group_leaves_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "train.parquet"
    write(path, LABELED, labeled_rows(2))

    def full(self, table):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, LABELED, labeled_rows(5))
    assert read_table(path).num_rows == 2
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.parquet"]


def test_columns_are_chosen(tmp_path):
    path = tmp_path / "t.parquet"
    write(path, LABELED, labeled_rows(4))
    assert read_table(path, ["camera", "name"]).to_pydict() == {
        "camera": [0, 1, 2, 3],
        "name": ["0.jpg", "1.jpg", "2.jpg", "3.jpg"],
    }
    identities = column_numpy(read_table(path), "identity")
    assert identities.dtype == "int32"
    assert identities.tolist() == [0, 1, 2, 3]


def test_a_missing_table_says_how_to_make_it(tmp_path):
    with pytest.raises(InputError, match=r"no\.parquet: no such table; run `dvc repro`"):
        read_table(tmp_path / "no.parquet")


def test_a_missing_column_is_named(tmp_path):
    write(tmp_path / "t.parquet", LABELED, labeled_rows(1))
    with pytest.raises(InputError, match=r"t\.parquet: no column depth, label;"):
        read_table(tmp_path / "t.parquet", ["label", "name", "depth"])


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    write(path, LABELED, labeled_rows(400))
    whole = path.read_bytes()
    refused = 0
    for content in [b"", b"text", whole[:-1], whole[: len(whole) // 2], whole[:4]]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"t\.parquet: not a readable Parquet table"):
            read_table(path)
    for place in range(4, len(whole), 37):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_table(path)
        except InputError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 10, "damage that shows is refused, with no other kind of error"


def test_a_row_of_another_shape_is_not_written(tmp_path):
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError)):
        write(tmp_path / "t.parquet", LABELED, [{"image": b"", "name": "x", "identity": "seven", "camera": 1}])
    assert list(tmp_path.iterdir()) == []
