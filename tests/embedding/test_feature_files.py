"""Features on disk: what numpy reads, what `slsr score` scores, what is mapped, what is refused."""

import zipfile

import numpy as np
import pytest
from trained import ORIGIN, drawn_features, named

from slsr.embedding.files import NamedFeatures, read_features, read_origin, write_features
from slsr.errors import InputError
from slsr.evaluation.scoring import score

FEATURES = drawn_features(50)


def in_blocks(features, size=7, **options):
    whole = named(features, **options)
    for start in range(0, len(features), size):
        rows = slice(start, start + size)
        labels = [None if values is None else values[rows] for values in (whole.identities, whole.cameras)]
        yield NamedFeatures(features[rows], whole.names[rows], *labels)


def test_blocks_come_back_as_one(tmp_path):
    path = tmp_path / "f.npz"
    assert write_features(path, ORIGIN, {"gallery": in_blocks(FEATURES)}) == {"gallery": 50}
    found = read_features(path)
    assert isinstance(found.features, np.memmap)
    np.testing.assert_array_equal(found.features, FEATURES)
    assert found.names == named(FEATURES).names
    np.testing.assert_array_equal(found.identities, np.arange(50) % 20)
    assert read_origin(path) == ORIGIN
    assert [one.name for one in tmp_path.iterdir()] == ["f.npz"]


def test_numpy_reads_it_without_pickle_and_the_bytes_repeat(tmp_path):
    for name in ("f.npz", "again.npz"):
        write_features(tmp_path / name, ORIGIN, {"gallery": in_blocks(FEATURES, labeled=False)})
    with np.load(tmp_path / "f.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["gallery_features"], FEATURES)
        assert arrays["gallery_names"].tolist() == named(FEATURES).names
        assert "gallery_identities" not in arrays.files
    assert (tmp_path / "f.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_with_queries_it_can_be_scored(tmp_path):
    path = tmp_path / "f.npz"
    queries = drawn_features(20, seed=1)
    sides = {"gallery": in_blocks(FEATURES), "query": in_blocks(queries, prefix="query")}
    assert write_features(path, ORIGIN, sides) == {"gallery": 50, "query": 20}
    assert score(path).labels.queries == 20
    np.testing.assert_array_equal(read_features(path, "query").features, queries)


def test_what_numpy_compressed_is_read(tmp_path):
    names = np.array(named(FEATURES).names)
    np.savez_compressed(tmp_path / "f.npz", gallery_features=FEATURES, gallery_names=names)
    np.testing.assert_array_equal(read_features(tmp_path / "f.npz").features, FEATURES)
    with pytest.raises(InputError, match="model_fingerprint"):
        read_origin(tmp_path / "f.npz")


def test_nothing_is_left_where_writing_fails(tmp_path):
    def breaking():
        yield from in_blocks(FEATURES)
        raise InputError("the last image is no image")

    with pytest.raises(InputError, match="last image"):
        write_features(tmp_path / "f.npz", ORIGIN, {"gallery": breaking()})
    with pytest.raises(InputError, match="no gallery image could be read"):
        write_features(tmp_path / "f.npz", ORIGIN, {"gallery": []})
    assert list(tmp_path.iterdir()) == []


def test_two_that_write_one_file_do_not_mix(tmp_path):
    """Or the file would have the features of one model under the fingerprint of another."""
    path = tmp_path / "f.npz"

    def blocks():
        yield from in_blocks(FEATURES[:25])
        with pytest.raises(InputError, match=r"f\.npz: another process is writing it"):
            write_features(path, ORIGIN, {"gallery": in_blocks(-FEATURES)})
        yield from in_blocks(FEATURES[25:])

    write_features(path, ORIGIN, {"gallery": blocks()})
    np.testing.assert_array_equal(read_features(path).features, FEATURES)
    assert [one.name for one in tmp_path.iterdir()] == ["f.npz"]


def test_a_failed_rewrite_keeps_the_old_file(tmp_path):
    path = tmp_path / "f.npz"
    write_features(path, ORIGIN, {"gallery": in_blocks(FEATURES)})
    before = path.read_bytes()
    with pytest.raises(InputError):
        write_features(path, ORIGIN, {"gallery": in_blocks(FEATURES), "query": []})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"gallery_features": FEATURES}, "gallery_names"),
        ({"gallery_features": FEATURES[0], "gallery_names": np.array(["a"] * 16)}, r"float32 \[16\]"),
        ({"gallery_features": FEATURES.astype(np.float64), "gallery_names": np.array(["a"] * 50)}, "float64"),
        ({"gallery_features": FEATURES, "gallery_names": np.array(["a"] * 49)}, "gallery_names must have one value"),
        ({"gallery_features": FEATURES.astype(object), "gallery_names": np.array(["a"] * 50)}, "Object arrays"),
        ({"gallery_features": FEATURES, "gallery_names": np.array(["a"] * 50, object)}, "not a plain array"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "f.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_features(tmp_path / "f.npz")
    assert "f.npz" in str(caught.value)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "f.npz"
    write_features(path, ORIGIN, {"gallery": in_blocks(FEATURES)})
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_features(path)


def test_a_header_that_promises_more_than_there_is(tmp_path):
    """Such an array is not mapped: memory beyond it holds the bytes of other arrays."""
    header = {"descr": "<f4", "fortran_order": False, "shape": (10**6, 16)}
    with zipfile.ZipFile(tmp_path / "f.npz", "w") as archive:
        with archive.open("gallery_features.npy", "w") as out:
            np.lib.format.write_array_header_1_0(out, header)
            out.write(b"\0" * 640)
        with archive.open("gallery_names.npy", "w") as out:
            np.lib.format.write_array(out, np.array(["a"] * 10))
    with pytest.raises(InputError, match="EOF"):
        read_features(tmp_path / "f.npz")
