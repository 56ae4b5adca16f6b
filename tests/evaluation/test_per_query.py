"""The table of queries: what is written is read again, by every ranking; tables of earlier versions too."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from naive import clustered

from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries, write_per_query
from slsr.retrieval import Labels, both_directions, evaluate, paired_differences


def two_views(seed):
    """Features of 12 people in two views, two images each; the first person is alone in its view."""
    random = np.random.default_rng(seed)
    person, camera = np.repeat(np.arange(12), 4), np.tile([4, 4, 7, 7], 12)
    person = person + 50 * ((person == 0) & (camera == 4))
    features = np.random.default_rng(0).normal(size=(63, 5))[person] + random.normal(0, 0.8, (48, 5))
    return features, Labels(person, person, camera, camera)


def written(path, seed):
    features, labels = two_views(seed)
    found = both_directions(features, features, labels)
    names = [f"{row}.png" for row in range(48)]
    sides = (labels.query_identities, labels.query_cameras)
    write_per_query(
        path, {"single_gallery_shot": found, "single_query": evaluate(features, features, labels)}, names, *sides
    )
    return found, labels


def test_expected_matches_are_read_with_people_directions_and_names(tmp_path):
    found, labels = written(tmp_path / "q.parquet", 1)
    read = read_queries(tmp_path / "q.parquet")["single_gallery_shot"]
    expected = found.query_values()
    assert (found.queries, found.excluded) == (44, 4)
    assert read.keys == expected.keys == ("rank1", "rank5", "rank10", "rank20")
    for one, other in (
        (read.values, expected.values),
        (read.people, expected.people),
        (read.directions, expected.directions),
    ):
        np.testing.assert_array_equal(one, other)
    assert read.names == tuple(f"{row}.png" for row in found.images[found.valid])
    assert read.means() == {key: pytest.approx(value) for key, value in expected.means().items()}
    rows = pq.read_table(tmp_path / "q.parquet").to_pylist()
    shot = [row for row in rows if row["ranking"] == "single_gallery_shot"]
    assert [row["camera"] for row in shot] == [4] * 24 + [7] * 24
    assert [row["identity"] for row in shot] == labels.query_identities[found.images].tolist()
    assert all(row["ranks"] is None for row in shot)
    assert sum(row["rank1"] is None for row in shot) == 4
    assert all(row["direction"] is None and row["rank1"] is None for row in rows if row["ranking"] == "single_query")


def test_two_runs_of_single_gallery_shot_are_paired_by_person(tmp_path):
    first, second = (written(tmp_path / f"{seed}.parquet", seed)[0] for seed in (1, 2))
    read = [read_queries(tmp_path / f"{seed}.parquet")["single_gallery_shot"] for seed in (1, 2)]
    found = paired_differences(*read, resamples=500)["rank1"]
    assert found.difference == pytest.approx(second.cmc(1)[0] - first.cmc(1)[0])
    assert found.ci95[0] <= found.difference <= found.ci95[1]


def test_tables_of_earlier_versions_are_read(tmp_path):
    """They lack the columns of single-gallery-shot evaluation."""
    written(tmp_path / "new.parquet", 1)
    table = pq.read_table(tmp_path / "new.parquet")
    rows = [row == "single_query" for row in table.column("ranking").to_pylist()]
    columns = ["ranking", "name", "identity", "camera", "ranks", "average_precision_standard"]
    pq.write_table(table.select(columns).filter(rows), tmp_path / "old.parquet")
    old = read_queries(tmp_path / "old.parquet")
    assert list(old) == ["single_query"]
    new = read_queries(tmp_path / "new.parquet")["single_query"]
    np.testing.assert_array_equal(old["single_query"].values, new.values)
    pq.write_table(table.select(["ranking", "name", "ranks"]), tmp_path / "older.parquet")
    with pytest.raises(InputError, match=r"older\.parquet: no column identity"):
        read_queries(tmp_path / "older.parquet")


def test_a_damaged_table_is_refused(tmp_path):
    (tmp_path / "q.parquet").write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match=r"q\.parquet: not a readable Parquet table"):
        read_queries(tmp_path / "q.parquet")


def test_values_are_those_of_the_evaluation(tmp_path):
    query, gallery, labels = clustered(30, 200, 6, noise=2.0)
    found = evaluate(query, gallery, labels)
    sides = (labels.query_identities, labels.query_cameras)
    write_per_query(tmp_path / "q.parquet", {"single_query": found}, [f"{row}" for row in range(30)], *sides)
    read = read_queries(tmp_path / "q.parquet")["single_query"]
    np.testing.assert_array_equal(read.values, found.query_values().values)
    np.testing.assert_array_equal(read.people, labels.query_identities[found.valid])
