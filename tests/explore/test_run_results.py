"""Which metrics of a run are shown beside what the page computes itself."""

import pytest

from slsr.errors import InputError
from slsr.explore.run_results import Accuracy, Score, alarms_by_cluster, quality_of, read_accuracy, read_quality
from slsr.files import write_json

METRICS = {
    "single_query": {"rank1": 0.82, "rank1_ci95": [0.7, 0.9], "map_trapezoid": 0.64, "map_trapezoid_ci95": None},
    "single_query_rerank": {"rank1": 0.86, "rank1_ci95": [0.8, 0.92], "map_trapezoid": 0.78},
}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "train/slsr/model.safetensors"
    path.parent.mkdir(parents=True)
    return path


def evaluated(model, content):
    write_json(model.parents[2] / "evaluate/slsr/metrics.json", content)


def test_metrics_of_the_same_gallery_bring_intervals_and_re_ranking(model):
    evaluated(model, METRICS)
    found = read_accuracy(model, (0.82, 0.645))
    assert found.rank1 == Score(0.82, (0.7, 0.9))
    assert found.mean_precision == Score(0.64)
    assert (found.reranked_rank1, found.reranked_mean_precision) == (Score(0.86, (0.8, 0.92)), Score(0.78))


def test_metrics_are_found_for_a_checkpoint_that_links_to_the_cache_of_dvc(model, tmp_path):
    evaluated(model, METRICS)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/86a1").write_bytes(b"weights")
    model.symlink_to(tmp_path / "cache/86a1")
    assert read_accuracy(model, (0.82, 0.645)).reranked_rank1 == Score(0.86, (0.8, 0.92))


@pytest.mark.parametrize("headline", [(0.6, 0.64), (0.82, 0.7)])
def test_metrics_of_another_gallery_are_not_shown(model, headline):
    evaluated(model, METRICS)
    found = read_accuracy(model, headline)
    assert (found.rank1, found.mean_precision) == tuple(map(Score, headline))
    assert found.reranked_rank1 is None


def test_without_metrics_or_outside_of_a_run_only_the_headline_is_known(model, tmp_path):
    assert read_accuracy(model, (0.5, 0.4)).rank1 == Score(0.5)
    evaluated(model, {"multi_query": METRICS["single_query"]})
    assert read_accuracy(model, (0.82, 0.64)).reranked_rank1 is None
    evaluated(model, METRICS)
    elsewhere = tmp_path / "mine/slsr/model.safetensors"
    assert read_accuracy(elsewhere, (0.82, 0.64)).reranked_rank1 is None
    assert read_accuracy(model, None) is None


@pytest.mark.parametrize(
    "content",
    [
        [METRICS],
        {"single_query": [0.82, 0.64]},
        {"single_query": {"rank1": "82 %", "map_trapezoid": 0.64}},
        {"single_query": {"rank1": 0.82, "map_trapezoid": None}},
        {"single_query": METRICS["single_query"] | {"rank1_ci95": [0.7]}},
    ],
)
def test_metrics_of_another_form_are_not_shown(model, content):
    evaluated(model, content)
    assert read_accuracy(model, (0.82, 0.64)) == Accuracy(Score(0.82), Score(0.64))


def test_damaged_metrics_are_an_error(model):
    evaluated(model, {})
    (model.parents[2] / "evaluate/slsr/metrics.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_accuracy(model, (0.5, 0.5))


def measures(**values):
    return {name: {"value": value, "reference": 0.9} for name, value in values.items()}


QUALITY = {
    "overall": {"cluster": None, "generated": 1200, "real": 400, "verdict": "not usable"}
    | {"imagenet": measures(kernel=2.5, coverage=None), "encoder": measures(kernel=1.5, recall=0.3)},
    "clusters": [{"cluster": 3, "generated": 5, "real": 4, "verdict": None, "handcrafted": measures(coverage=0.5)}],
    "alarms": [
        {"cluster": None, "space": "imagenet", "alarm": "unlike", "measure": "kernel", "value": 2.5, "limit": 0.5},
        {"cluster": 3, "space": "handcrafted", "alarm": "new", "measure": "density", "value": 0.1, "limit": 0.25},
        {"cluster": 3, "space": "unknown", "alarm": "collapse", "measure": "coverage", "value": 0.1, "limit": 0.2},
    ],
}


def test_quality_of_all_clusters_together_and_of_one():
    whole = quality_of(QUALITY, None)
    assert whole.sizes == "1,200 generated images are compared with 400 real images."
    assert whole.verdict.startswith("They are not usable")
    assert whole.spaces == ["ImageNet space", "encoder space"]
    assert dict(whole.rows) == {
        "KID (kernel distance)": ["2.500 [0.900]", "1.500 [0.900]"],
        "coverage": ["-", "-"],
        "recall": ["-", "0.300 [0.900]"],
    }
    assert [(one.title, one.value, one.better) for one in whole.key_measures] == [
        ("KID (kernel distance)", "2.500", "lower")
    ]
    assert whole.alarms == [
        "unlike (far from the real images): KID (kernel distance) is 2.500, above the limit 0.5 (ImageNet space)"
    ]
    one = quality_of(QUALITY, 3)
    assert one.verdict.startswith("There is no verdict")
    assert one.alarms == [
        "new: density is 0.100, below the limit 0.25 (handcrafted space)",
        "collapse (few different images): coverage is 0.100, below the limit 0.2 (unknown)",
    ]
    assert quality_of(QUALITY, 4) is None


def test_alarms_are_counted_by_cluster():
    assert alarms_by_cluster(QUALITY) == {None: 1, 3: 2}
    assert alarms_by_cluster(None) == {}


def test_quality_is_read_beside_the_images(tmp_path):
    said = []
    assert read_quality(tmp_path / "images.parquet", said.append) is None
    write_json(tmp_path / "quality.json", QUALITY)
    assert read_quality(tmp_path / "images.parquet", said.append) == QUALITY
    assert said == []


@pytest.mark.parametrize(
    "content",
    [
        ["something else"],
        {"overall": None},
        {"clusters": [], "alarms": []},
        QUALITY | {"overall": {"cluster": None, "generated": 1200, "real": 400, "imagenet": {"kernel": 2.5}}},
        QUALITY | {"overall": QUALITY["overall"] | {"generated": "many"}},
        QUALITY | {"overall": QUALITY["overall"] | {"verdict": ["not usable"]}},
        QUALITY | {"clusters": [{"number": 3}]},
        QUALITY | {"alarms": [{"cluster": None, "measure": "kernel"}]},
        QUALITY | {"alarms": ["collapse"]},
    ],
)
def test_quality_of_another_form_is_not_shown_and_the_log_says_so(tmp_path, content):
    said = []
    write_json(tmp_path / "quality.json", content)
    assert read_quality(tmp_path / "images.parquet", said.append) is None
    assert len(said) == 1 and said[0].startswith(f"{tmp_path / 'quality.json'}: not in the form")
