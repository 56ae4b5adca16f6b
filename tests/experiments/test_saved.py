"""Results that git keeps: what is saved is what is read, without the names of images."""

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from slsr.errors import InputError
from slsr.evaluation.per_query import read_queries, write_per_query
from slsr.experiments.comparison import compare_networks
from slsr.experiments.networks import NetworkFiles, Training
from slsr.experiments.saved import find_sources, read_saved, save_networks, without_names
from slsr.files import write_json
from slsr.retrieval import Evaluation

METRICS = {"rank1": 0.5, "rank1_ci95": [0.0, 1.0], "queries": 2, "gallery": 9}
QUALITY = {"overall": {"imagenet": {"kernel": {"value": 0.25}}}, "alarms": [], "clusters": [{"verdict": None}]}


@pytest.fixture
def files(tmp_path):
    """A network with three queries, the last of which has no right match."""
    source = tmp_path / "source"
    evaluation = Evaluation(np.array([0, 2, 3, 3]), np.array([1, 4, 2], np.int32), 9, np.array([7, 7, 8]))
    rows = ["7_a.jpg", "7_b.jpg", "8_a.jpg"], np.array([7, 7, 8]), np.array([1, 2, 1])
    source.mkdir()
    write_per_query(source / "per_query.parquet", {"single_query": evaluation}, *rows)
    write_json(
        source / "metrics.json", {"single_query": {"rank1": 0.5, "rank1_ci95": [0.0, 1.0], "queries": 2, "gallery": 9}}
    )
    paths = source / "metrics.json", source / "per_query.parquet"
    settings = {"train.epochs": 4, "data:data/a.zip": "ab", "train.triplet": None}
    return NetworkFiles("study-seed2", "slsr", 2, settings, *paths, QUALITY, 5, Training(12.0, 0.5))


def test_what_was_saved_is_read_again(files, tmp_path):
    (path,) = save_networks([files], tmp_path / "saved")
    assert path.name == "study-seed2.slsr.json"
    (found,) = read_saved(tmp_path / "saved", "single_query")
    assert (found.experiment, found.regularizer, found.seed) == ("study-seed2", "slsr", 2)
    assert found.settings == files.settings
    assert found.metrics == METRICS
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
    save_networks([replace(files, quality=None)], tmp_path / "saved")  # a cache that lacks it says the same network
    with pytest.raises(InputError, match=r"study-seed2\.slsr\.json: has another network of this name \(seed differ"):
        save_networks([replace(files, seed=3)], tmp_path / "saved")
    assert path.read_bytes() == before
    assert sorted(one.suffix for one in (tmp_path / "saved").iterdir()) == [".json", ".parquet"]


def test_saved_and_unsaved_networks_are_compared_query_by_query(files, tmp_path):
    save_networks([files], tmp_path / "saved")
    (saved,) = read_saved(tmp_path / "saved", "single_query")
    live = replace(saved, regularizer="none", experiment="e", values=read_queries(files.per_query)["single_query"])
    assert live.values.names == ("7_a.jpg", "7_b.jpg")
    with pytest.raises(InputError, match="only one of the two runs knows the names"):
        compare_networks([live, saved], "single_query", "none")
    found = compare_networks(without_names([live, saved]), "single_query", "none")
    assert [one["rank1"].mean for one in found.differences if one] == [0.0]


def test_a_name_with_a_slash_is_one_file_and_a_lost_table_is_written_again(files, tmp_path):
    (path,) = save_networks([replace(files, experiment="origin/main")], tmp_path / "saved")
    assert path == tmp_path / "saved" / "origin-main.slsr.json"
    path.with_suffix(".per_query.parquet").unlink()
    with pytest.raises(InputError, match=r"`slsr compare origin/main --save .*saved` writes it again"):
        read_saved(tmp_path / "saved", "single_query")
    save_networks([replace(files, experiment="origin/main")], tmp_path / "saved")
    assert len(read_saved(tmp_path / "saved", "single_query")) == 1


def test_nothing_to_save_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no network to save"):
        save_networks([], tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_folder_without_results_is_no_source(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("slsr.experiments.saved.find_revisions", lambda root, names: asked.extend(names) or [])
    (tmp_path / "docs").mkdir()
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "e.slsr.per_query.parquet").touch()
    found = find_sources(tmp_path, ["docs", "saved", "main"])
    assert asked == ["docs", "main"], "a branch may be called docs"
    assert found.folders == [tmp_path / "saved"]


def test_bad_folders_are_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"absent: has no saved results"):
        read_saved(tmp_path / "absent", "single_query")
    save_networks([files], tmp_path / "saved")
    with pytest.raises(InputError, match=r"has no multi_query; choose --ranking of single_query"):
        read_saved(tmp_path / "saved", "multi_query")
    (tmp_path / "saved" / "study-seed2.slsr.json").write_text(json.dumps({"experiment": "e"}))
    with pytest.raises(InputError, match=r"not a result that `slsr compare --save` wrote"):
        read_saved(tmp_path / "saved", "single_query")
