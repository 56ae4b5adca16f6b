"""Results that git keeps: what is saved is what is read, without the names of images."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries, write_per_query
from slsr.experiments.networks import NetworkFiles, Training
from slsr.experiments.saved import read_saved, save_networks, without_names
from slsr.files import write_json
from slsr.retrieval import Evaluation

QUALITY = {"overall": {"imagenet": {"kernel": {"value": 0.25}}}, "alarms": [], "clusters": [{"verdict": None}]}


@pytest.fixture
def files(tmp_path):
    """A network with three queries, the last of which has no right match."""
    source = tmp_path / "source"
    evaluation = Evaluation(np.array([0, 2, 3, 3]), np.array([1, 4, 2], np.int32), 9, np.array([7, 7, 8]))
    rows = ["7_a.jpg", "7_b.jpg", "8_a.jpg"], np.array([7, 7, 8]), np.array([1, 2, 1])
    source.mkdir()
    write_per_query(source / "per_query.parquet", {"single_query": evaluation}, *rows)
    write_json(source / "metrics.json", {"single_query": {"rank1": 0.5, "queries": 2, "gallery": 9}})
    paths = source / "metrics.json", source / "per_query.parquet"
    settings = {"train.epochs": 4, "data:data/a.zip": "ab", "train.triplet": None}
    return NetworkFiles("study-seed2", "slsr", 2, settings, *paths, QUALITY, 5, Training(12.0, 0.5))


def test_what_was_saved_is_read_again(files, tmp_path):
    (path,) = save_networks([files], tmp_path / "saved")
    assert path.name == "study-seed2.slsr.json"
    (found,) = read_saved(tmp_path / "saved", "single_query")
    assert (found.experiment, found.regularizer, found.seed) == ("study-seed2", "slsr", 2)
    assert found.settings == files.settings
    assert found.metrics == {"rank1": 0.5, "queries": 2, "gallery": 9}
    assert (found.training_people, found.training) == (5, Training(12.0, 0.5))
    assert found.quality == {"overall": QUALITY["overall"], "alarms": []}
    original = read_queries(files.per_query)["single_query"]
    np.testing.assert_array_equal(found.values.values, original.values)
    np.testing.assert_array_equal(found.values.people, [7, 7])


def test_no_name_of_an_image_is_saved(files, tmp_path):
    save_networks([files], tmp_path / "saved")
    (table,) = (tmp_path / "saved").glob("*.parquet")
    assert pq.read_table(table).column("name").null_count == 3
    assert not any(b".jpg" in path.read_bytes() for path in (tmp_path / "saved").iterdir())


def test_saving_again_changes_nothing_and_other_numbers_are_refused(files, tmp_path):
    (path,) = save_networks([files], tmp_path / "saved")
    before = path.read_bytes()
    assert save_networks([files], tmp_path / "saved") == [path]
    with pytest.raises(InputError, match=r"study-seed2\.slsr\.json: has other numbers of this name"):
        save_networks([replace(files, seed=3)], tmp_path / "saved")
    assert path.read_bytes() == before
    assert sorted(one.suffix for one in (tmp_path / "saved").iterdir()) == [".json", ".parquet"]


def test_saved_and_unsaved_queries_are_paired_without_names(files, tmp_path):
    save_networks([files], tmp_path / "saved")
    (saved,) = read_saved(tmp_path / "saved", "single_query")
    live = replace(saved, values=read_queries(files.per_query)["single_query"])
    assert live.values.names == ("7_a.jpg", "7_b.jpg")
    assert without_names([live])[0].values.names is saved.values.names is None


def test_bad_folders_are_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"absent: has no saved results"):
        read_saved(tmp_path / "absent", "single_query")
    save_networks([files], tmp_path / "saved")
    with pytest.raises(InputError, match=r"has no multi_query; choose --ranking of single_query"):
        read_saved(tmp_path / "saved", "multi_query")
    (tmp_path / "saved" / "study-seed2.slsr.json").write_text(json.dumps({"experiment": "e"}))
    with pytest.raises(InputError, match=r"not a result that `slsr compare --save` wrote"):
        read_saved(tmp_path / "saved", "single_query")
